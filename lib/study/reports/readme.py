"""The README's tables, made from the committed results: between markers, by `lib report readme`."""

from __future__ import annotations

import re
from pathlib import Path

from .. import claims, paths
from ..files import write_atomically
from ..methods import table_1
from ..profiles import load_profile
from .tables import table1

__all__ = ["blocks", "filled", "results", "verdicts", "write"]

#: columns of the table, as they are called in `table1.numbers`
METRICS = ("CIDEr", "BLEU-4", "METEOR", "ROUGE-L")


def blocks() -> dict[str, str]:
    """`{marker: Markdown}`: Table 1's five rows and the verdicts, photographs first."""
    names = claims.profiles()
    return {
        "results": "\n\n".join(results(name) for name in names if not _unscored(name)),
        "verdicts": verdicts(names),
    }


def results(profile: str) -> str:
    """Table 1's five rows of a profile: means, without their intervals."""
    table = table1.numbers(profile)
    rows = [slug for slug in table_1(load_profile(profile)) if slug != "entropy-printed"]
    lines = [
        f"**{profile}**: {load_profile(profile).description}.",
        "",
        "| Method | layer | kept (%) | average (%) | "
        + " | ".join(METRICS)
        + " | divergence (nats) |",
        "|---|" + "---:|" * (len(METRICS) + 4),
    ]
    for slug in rows:
        row = table.loc[slug]
        layer = "–" if slug == "unpruned" else f"{row['layer']:.0f}"
        cells = [row["method"], layer, *(f"{100 * row[name]:.1f}" for name in ("kept", "average"))]
        cells += [f"{row[name]:.1f}" for name in METRICS]
        lines.append("| " + " | ".join([*cells, f"{row.get('divergence', 0.0):.3f}"]) + " |")
    return "\n".join(lines)


def verdicts(names: list[str]) -> str:
    """Every claim of the paper with its verdict and the profile that gives it."""
    lines = [
        claims.summary(names),
        "",
        "| Claim of the paper | Verdict | Profile |",
        "|---|---|---|",
    ]
    for claim, name, verdict in claims.judging.leading(names):
        lines.append(f"| {claim.name} ({claim.where}) | {verdict.verdict} | {name} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """A text with what stands between its markers `<!-- name -->` made anew.

    Raises `ValueError` for a marker that is missing.
    """
    for name, block in blocks().items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise ValueError(f"no block between '<!-- {name} -->' and '<!-- /{name} -->'")
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    return text


def write() -> Path:
    """Make the tables in `README.md` anew."""
    path = paths.PACKAGE.parent / "README.md"
    write_atomically(path, filled(path.read_text(encoding="utf-8")))
    return path


def _unscored(profile: str) -> bool:
    return load_profile(profile).random_weights
