"""The photograph model's card says what its record holds."""

import json
import re

import numpy as np
import pytest

from lib.study.evaluation import Family, Scores, compare_families
from lib.study.labels import DIVERGENCE
from lib.study.paths import ROOT
from lib.study.reports.tables.format import p_value
from lib.study.stages.readings import SAMPLES, plain
from lib.study.stored import corrected

FOLDER = ROOT / "data" / "photos"
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
RECORD = json.loads((FOLDER / "first_look.json").read_text(encoding="utf-8"))["divergence"]
BUDGETS = ("50", "25", "12.5", "6.25")
RULES = {
    "FastV": "fastv",
    "RandomPrune": "random",
    "Entropy-Prune": "entropy",
    "entropy + coverage (ours)": "selection",
    "attention-weighted coverage (ours)": "weighted",
}


def table(first):
    """`{first cell: other cells}` of the table whose head begins so."""
    lines = CARD[CARD.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: cells for name, *cells in rows}


def kl(part, slug):
    return np.array(RECORD[part]["methods"][slug]["kl"])


def test_means_and_standard_errors():
    rows = table("before layer 2")
    assert rows.keys() == RULES.keys()
    for name, cells in rows.items():
        found = [kl("layer 2", f"{RULES[name]}-at2-{budget}") for budget in BUDGETS]
        errors = [values.std(ddof=1) / len(values) ** 0.5 for values in found]
        assert cells == [f"{v.mean():.3f} ± {e:.3f}" for v, e in zip(found, errors)]


def test_comparisons_are_those_of_the_divergences():
    part = RECORD["layer 2"]
    scores = {
        slug: Scores.of_means(part["image_ids"], {DIVERGENCE: row["kl"]})
        for slug, row in part["methods"].items()
    }
    pairs = tuple(
        (slug, f"fastv-at2-{slug.rsplit('-', 1)[1]}")
        for slug in scores
        if not slug.startswith("fastv")
    )
    family = Family("layer 2", pairs, (DIVERGENCE,))
    made = compare_families(scores, [family], n_samples=SAMPLES)["layer 2"]
    for stored, row in zip(part["comparisons"], map(plain, made), strict=True):
        assert stored.keys() == row.keys() and stored["tests"] == 16
        for name, value in row.items():
            assert stored[name] == (pytest.approx(value) if isinstance(value, float) else value)
    rows = table("over FastV's")
    told = {row["a"]: p_value(corrected(row)) for row in part["comparisons"]}
    assert rows.keys() == RULES.keys() - {"FastV"}
    for name, cells in rows.items():
        for budget, cell in zip(BUDGETS, cells, strict=True):
            slug, rival = (f"{RULES[one]}-at2-{budget}" for one in (name, "FastV"))
            ratio = scores[slug].values[DIVERGENCE] / scores[rival].values[DIVERGENCE]
            assert cell == f"{ratio:.2f} (p {told[slug].removeprefix('p ')})"


def test_candidates_over_fastv():
    part = "candidates on dev, layer 2"
    for cells in table("rule").values():
        slug, *ratios = cells
        slug = slug.strip("`")
        for budget, ratio in zip(BUDGETS, ratios, strict=True):
            found = kl(part, f"{slug}-{budget}").mean() / kl(part, f"fastv-{budget}").mean()
            assert float(ratio) == pytest.approx(found, abs=0.0051)


def test_the_readme_quotes_the_card():
    said = re.search(
        r"moves\s+them\s+(\.\d+)\s+to\s+(\.\d+)\s+times", (ROOT / "README.md").read_text()
    )
    cells = table("over FastV's")["entropy + coverage (ours)"]
    assert list(said.groups()) == [cells[0][1:4], cells[-1][1:4]]
