"""The photograph model's card says what the records beside it hold."""

import json
import re

import numpy as np
import pytest

from lib.study.grid import candidates
from lib.study.labels import DIVERGENCE
from lib.study.machines import OTHER_MACHINE
from lib.study.paths import ROOT
from lib.study.reports import card, docs
from lib.study.stored import corrected, load_divergence
from lib.study.trials import load_trial, two_levels

CARD = card.PAGE.read_text(encoding="utf-8")
BUDGETS = ("50", "25", "12.5", "6.25")
RULES = ("fastv", "random", "entropy-prune", "selection", "weighted")


def rows_of(name):
    """The cells of a table as it is committed, row by row."""
    block = re.search(f"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", CARD, re.S)[1]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:]]


def means(kl, slug):
    return [float(np.mean(kl[f"{slug}-{budget}"])) for budget in BUDGETS]


def test_tables_are_what_the_command_writes():
    assert docs.filled(CARD, card.blocks()) == CARD, "run 'python -m lib report docs'"


def test_a_row_is_its_records():
    part = load_trial("checkpoints")["checkpoints"]["photos"]["kl"]
    found = {row[1]: row[2:] for row in rows_of("checkpoints") if row[0] == "photos"}
    assert len(found) == len(RULES)
    for cells, slug in zip(found.values(), RULES):
        assert cells == [f"{value:.4f}" for value in means(part, slug)]
    assert list(found)[-1] == "attention-weighted coverage (ours)"
    assert {row[0].strip("`") for row in rows_of("candidates")} == {
        *candidates(), "fastv", "random", "entropy-prune"
    }  # fmt: skip


def test_every_candidate_was_tried_on_all_dev_photographs():
    part = load_trial("candidates")["candidates"]
    assert len(set(part["image_ids"])) == 1000
    assert {slug.rsplit("-", 1)[0] for slug in part["kl"]} == {
        *candidates(), "fastv", "random", "entropy-prune"
    }  # fmt: skip
    assert all(len(values) == 1000 for values in part["kl"].values())
    # the same thing twice: attention alone is FastV's rule
    for budget in BUDGETS:
        own, fastv = (np.mean(part["kl"][f"{slug}-{budget}"]) for slug in ("attention", "fastv"))
        assert own == pytest.approx(fastv, rel=0.005)


def test_the_order_under_five_trainings():
    found = load_trial("checkpoints")["checkpoints"]
    assert len(found) == 5
    reverse = []
    for name, one in found.items():
        rows = {slug: means(one["kl"], slug) for slug in RULES}
        for place, budget in enumerate(BUDGETS):
            assert min(rows, key=lambda slug: rows[slug][place]) == "selection"
            if rows["random"][place] > rows["fastv"][place]:
                reverse.append((name, budget))
    assert reverse == [("photos, by words alone", "50")]


def test_an_adaptive_budget_does_not_help():
    part = load_trial("budgets")["budgets"]["test"]
    entropy, gains, worse, certain = np.array(part["entropy"]), [], 0, 0
    for slug in ("selection", "fastv", "entropy-prune"):
        for count, *levels in card.LEVELS:
            fixed, low, high = (
                np.array(part["kl"][f"{slug}-{100 * n / 256:g}"]) for n in (count, *levels)
            )
            change = two_levels(entropy, low, high) - fixed
            error = 1.96 * change.std(ddof=1) / len(change) ** 0.5
            assert change.mean() > 0
            certain += change.mean() > error
            worse += two_levels(-entropy, low, high).mean() > change.mean() + fixed.mean()
            gains.append(1 - two_levels(low - high, low, high).mean() / fixed.mean())
    assert (certain, worse) == (8, 8)
    assert f"by {100 * min(gains):.0f} to {100 * max(gains):.0f} %" in CARD


def test_clusters_for_each_image_do_not_help():
    rows = rows_of("clusters")
    assert len(rows) == 8
    worse = [r for r in rows if float(r[-1]) < 0.05]
    assert all(float(r[5].split()[0]) > 0 for r in worse)
    by_scores = [r for r in rows if "k_c of" in r[3]]
    assert len([r for r in worse if r in by_scores]) == 4 and len(worse) == 6


def test_the_readme_quotes_places_and_captions():
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    results = ROOT / "data" / "results" / "photos"
    places = json.loads((results / "divergence.json").read_text(encoding="utf-8"))["places"]
    assert places["images"] == 1000
    value = {slug: row["values"][DIVERGENCE] for slug, row in places["methods"].items()}
    rows = [r for r in places["comparisons"]["places"] if r["b"].startswith("fastv-at")]
    for rule, label in (("weighted", "coverage weighted by attention"),
                        ("selection", "entropy joined with coverage")):  # fmt: skip
        own = [row for row in rows if row["a"].startswith(f"{rule}-at")]
        assert len(own) == 20 and all(row["value"] < 0 and corrected(row) < 0.05 for row in own)
        ratios = [value[row["a"]] / value[row["b"]] for row in own]
        low, high = (f"{x:.2f}"[1:] for x in (min(ratios), max(ratios)))
        assert f"{label} {low} to {high} times" in said
    for rule in ("entropy", "random"):
        own = [row for row in rows if row["a"].startswith(f"{rule}-at")]
        less = sum(row["value"] < 0 and corrected(row) < 0.05 for row in own)
        assert f"less than FastV in {less} of these {len(own)} cases" in said
    scores = json.loads((results / "scores.json").read_text(encoding="utf-8"))
    half = [r for r in scores["comparisons"]["pruning"]
            if r["metric"] == "CIDEr" and not r["a"].endswith("printed")]  # fmt: skip
    assert len(half) == 11 and all(corrected(row) > 0.05 for row in half)


def test_the_card_counts_the_captions_of_two_processors():
    path = ROOT / "data" / "results" / "photos" / OTHER_MACHINE
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["made"]["run"]["device"] == "cpu" and found["images"]["run"] == 100
    parts = {"own": [0, 0], "others": [0, 0], "ablations": [0, 0]}
    for folder, counts in found["captions"].items():
        table, name = folder.split("/")
        part = "others" if table == "captions" else table
        part = "own" if name.startswith("entropy") and table == "captions" else part
        parts[part][0] += counts["same"]
        parts[part][1] += counts["of"]
    same, of = (sum(part[i] for part in parts.values()) for i in (0, 1))
    assert f"Of its {of:,} captions {same:,} are the H200's" in CARD
    (own, all_own), (others, all_others), (rest, all_rest) = parts.values()
    assert f"all but {all_others - others} of {all_others:,} in Table 1" in CARD
    assert f"{own} of {all_own} of Algorithm 1 there, and all {all_rest} of ablations" in CARD
    assert rest == all_rest


def test_the_readme_quotes_the_captions_of_the_catalogue():
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    place = ROOT / "data" / "results" / "photos" / "catalogue.json"
    stored = json.loads(place.read_text(encoding="utf-8"))
    assert stored["captioned"] == 300

    def counted(rival):
        rows = stored["comparisons"][f"{rival}-a11 CIDEr"]
        held = [r for r in rows if r["p_holm"] < 0.05 and r["flip_holm"] < 0.05]
        return len(rows), sum(r["value"] > 0 for r in held)

    others, higher = counted("fastv")
    assert f"at 11 % on average {higher} of the catalogue's other {others} runs" in said
    assert counted("random") == (31, 0) and "none a higher one than random tokens" in said


def test_the_card_quotes_the_rules_on_scenes():
    found = load_divergence("embedded")["table"]
    assert found["images"] == 100
    values = {slug: row["values"]["divergence"] for slug, row in found["methods"].items()}
    quoted = {"entropy-layer2": 15, "selection-layer2": 24, "weighted": 28, "fastv": 60}
    for slug, shown in (quoted | {"random-layer2": 371}).items():
        assert round(1e4 * values[f"{slug}-50"]) == shown
        assert f".{shown:04d}" in CARD
