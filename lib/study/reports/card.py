"""The tables of the photograph model's card, from the records that lie beside it.

`python -m lib report docs` writes them into data/photos/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import paths
from ..labels import LABELS, percent
from ..machines import OTHER_MACHINE
from ..profiles import load_profile
from ..trials import SLUGS, load_trial, two_levels
from .card_clusters import clusters

__all__ = ["LEVELS", "PAGE", "blocks", "budgets", "rules"]

PAGE = paths.PACKAGE.parent / "data" / "photos" / "README.md"
#: average tokens, and what the two halves keep
LEVELS = ((32, 16, 48), (64, 32, 96), (128, 96, 160))
TOKENS = 256

Cells = Sequence[object]


def blocks() -> dict[str, str]:
    """`{marker: Markdown}` of every table."""
    made = (metrics, checkpoints, candidates, adaptive, clusters, processors)
    return {one.__name__: table(*one()) for one in made}


def table(head: Cells, rows: Sequence[Cells]) -> str:
    """Markdown with numbers on the right.

    >>> print(table(["a", "b"], [["x", 1]]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def budgets() -> list[str]:
    """The trials' budgets in per cent, as slugs have them."""
    return [percent(keep) for keep in load_profile("photos").budgets]


def rules() -> dict[str, str]:
    """`{label: slug}` of Table 1's criteria, the paper's first."""
    names = ("fastv", "random", "entropy", "selection", "weighted")
    return {_label(name): SLUGS.get(name, name) for name in names}


def _label(name: str) -> str:
    """As in other tables; what is no name begins small."""
    label = LABELS[name]
    return label[0].lower() + label[1:] if label.endswith("(ours)") else label


def _means(kl: Mapping[str, Sequence[float]], slug: str) -> list[float]:
    return [float(np.mean(kl[f"{slug}-{budget}"])) for budget in budgets()]


def metrics() -> tuple[Cells, list[Cells]]:
    """Scores of the weights that were chosen among."""
    found = json.loads((PAGE.parent / "metrics.json").read_text(encoding="utf-8"))
    digits = {"CIDEr": 1, "BLEU-4": 1, "loss": 2}
    rows: list[Cells] = [
        [name, *(f"{one[part][k]:.{n}f}" for k, n in digits.items() for part in ("val", "test"))]
        for name, one in found["weights"].items()
    ]
    return ["weights", *(word for k in digits for word in (f"{k}, dev", "test"))], rows


def checkpoints() -> tuple[Cells, list[Cells]]:
    """Divergence of the rules under several trainings."""
    rows: list[Cells] = [
        [name, label, *(f"{value:.4f}" for value in _means(one["kl"], slug))]
        for name, one in load_trial("checkpoints")["checkpoints"].items()
        for label, slug in rules().items()
    ]
    return ["weights", "rule", *(f"{budget} %" for budget in budgets())], rows


def candidates() -> tuple[Cells, list[Cells]]:
    """Divergence of the candidates over FastV's, ordered by the worst budget."""
    kl = load_trial("candidates")["candidates"]["kl"]
    fastv = _means(kl, "fastv")
    slugs = dict.fromkeys(slug.rsplit("-", 1)[0] for slug in kl)
    ratios = {s: [a / b for a, b in zip(_means(kl, s), fastv)] for s in slugs}
    rows: list[Cells] = [
        [f"`{slug}`", *(f"{value:.2f}" for value in ratios[slug])]
        for slug in sorted(ratios, key=lambda slug: max(ratios[slug]))
    ]
    return ["candidate", *(f"{budget} %" for budget in budgets())], rows


def adaptive() -> tuple[Cells, list[Cells]]:
    """A budget for each image against a fixed one."""
    part = load_trial("budgets")["budgets"]["test"]
    rows = [row for name in ("selection", "fastv", "entropy") for row in _levels(part, name)]
    head = ["rule", "tokens", "halves keep", "fixed", "by entropy", "difference, 95 %"]
    return [*head, "reversed", "hindsight"], rows


def _levels(part: Mapping[str, Any], name: str) -> Iterator[Cells]:
    """One rule's rows: halves of the images by entropy, the other way round, and with hindsight."""
    entropy, slug = np.array(part["entropy"]), SLUGS.get(name, name)
    for count, *halves in LEVELS:
        fixed, low, high = (
            np.array(part["kl"][f"{slug}-{percent(n / TOKENS)}"]) for n in (count, *halves)
        )
        by_entropy, reverse, hindsight = (
            two_levels(order, low, high) for order in (entropy, -entropy, low - high)
        )
        change = by_entropy - fixed
        mean, error = change.mean(), 1.96 * change.std(ddof=1) / len(change) ** 0.5
        yield [
            _label(name), count, "{} or {}".format(*halves),
            f"{fixed.mean():.4f}", f"{by_entropy.mean():.4f}",
            f"{mean:+.4f} [{mean - error:+.4f}, {mean + error:+.4f}]",
            f"{reverse.mean():.4f}", f"{hindsight.mean():.4f}",
        ]  # fmt: skip


def processors() -> tuple[Cells, list[Cells]]:
    """The CPU's run beside the GPU's."""
    path = paths.reference("photos").results / OTHER_MACHINE
    rows: list[Cells] = []
    for part, gaps in json.loads(path.read_text(encoding="utf-8"))["divergence"].items():
        cells = (f"{100 * gaps[key]:.2g} %" for key in ("median", "largest", "largest_mean"))
        rows.append([part, gaps["methods"], gaps["images"], *cells])
    head = ["divergence of", "methods", "photographs", "median difference", "largest"]
    return [*head, "largest of a method's mean"], rows
