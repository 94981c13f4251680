"""What of README, docs/ and the photographs' card is made: from committed results, and methods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import claims, paths
from ..claims.quality import told
from ..files import write_atomically
from ..labels import BEFORE, DEEP
from ..methods import table_1
from ..profiles import load_profile
from ..stored import load_scores
from . import card, catalogue_page, families_page, serving_page, speed_page
from .tables import divergence, table1

__all__ = ["blocks", "filled", "findings", "results", "texts", "verdicts", "write"]

README = paths.PACKAGE.parent / "README.md"
#: columns of the table, as they are called in `table1.numbers`
METRICS = ("CIDEr", "BLEU-4", "METEOR", "ROUGE-L")


def blocks() -> dict[str, str]:
    """`{marker: Markdown}`: Table 1's five rows and what is compared, and the verdicts.

    Rows and comparisons are those of the weightiest profile that has scores.
    """
    names = claims.profiles()
    first = next(name for name in names if not load_profile(name).random_weights)
    return {"results": results(first), "findings": findings(first), "verdicts": verdicts(names)}


def results(profile: str) -> str:
    """Table 1's five rows of a profile: means, without their intervals."""
    table = table1.numbers(profile)
    rows = [slug for slug in table_1(load_profile(profile)) if slug != "entropy-printed"]
    images = load_scores(profile)["images"]
    lines = [
        f"**{profile}**: {load_profile(profile).description}; {images} images.",
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


def findings(profile: str) -> str:
    """The paired differences in divergence that the README speaks of, one line a question."""
    found = divergence.part(profile, "table")
    labels = {slug: row["label"] for slug, row in found["methods"].items()}
    asked = {
        "place": f"Place, one criterion ({DEEP} minus {BEFORE})",
        DEEP: f"Criterion, one place ({DEEP}, minus FastV)",
        "printed": "Algorithm 1 as printed, minus as many random tokens",
    }
    lines = [f"**{profile}**, {found['images']} images:", ""]
    for family, title in asked.items():
        rows = [r for r in found["comparisons"][family] if _asked(family, r)]
        said = (f"{labels[row['a']].split(',')[0]}: {told(row)}" for row in rows)
        lines.append(f"- {title}. {'; '.join(said)}.")
    return "\n".join(lines)


def _asked(family: str, row: Mapping[str, Any]) -> bool:
    return family != DEEP or row["b"].startswith("fastv")


def verdicts(names: list[str]) -> str:
    """How many claims of the paper have which verdict; those supported, and those not testable."""
    told_of: dict[str, list[str]] = {}
    for claim, name, verdict in claims.judging.leading(names):
        told_of.setdefault(verdict.verdict, []).append(f"{claim.name} ({claim.where}; {name})")
    lines = [claims.summary(names)]
    for word in (claims.SUPPORTED, claims.NOT_TESTABLE):
        lines += ["", f"{word[0].upper()}{word[1:]}:", ""]
        lines += [f"- {about}" for about in told_of.get(word, ["none"])]
    return "\n".join(lines)


def filled(text: str, made: Mapping[str, str]) -> str:
    """A text with what stands between its markers `<!-- name -->` made anew.

    Raises `ValueError` for a marker that is missing.

    >>> print(filled("<!-- a -->\\nold\\n<!-- /a -->", {"a": "new"}))
    <!-- a -->
    new
    <!-- /a -->
    """
    for name, block in made.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise ValueError(f"no block between '<!-- {name} -->' and '<!-- /{name} -->'")
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    return text


def texts() -> dict[Path, str]:
    """`{page: its text}` of all pages that are made, or of which a part is."""
    made = {README: blocks()}
    made |= {page.PAGE: page.blocks() for page in (families_page, card, speed_page)}
    found = {path: filled(path.read_text(encoding="utf-8"), part) for path, part in made.items()}
    whole = {
        catalogue_page.PAGE: catalogue_page.page(),
        serving_page.PAGE: serving_page.stored_page(),
    }
    return found | whole


def write() -> list[Path]:
    """Make anew what of `README.md`, the pages of docs/ and the photographs' card is made."""
    made = texts()
    for path, text in made.items():
        write_atomically(path, text)
    return list(made)
