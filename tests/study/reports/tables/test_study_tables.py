"""Every table of the notebooks holds the stored numbers of a small study."""

import json
import shutil

import numpy as np
import pytest

from lib.study import paths
from lib.study.labels import BEFORE, DEEP, DIVERGENCE, PAPER
from lib.study.paths import ROOT
from lib.study.reports.tables import (
    ablations,
    benchmark,
    comparisons,
    cost,
    divergence,
    paper,
    quality,
    table1,
    words,
)
from lib.study.reports.tables.format import nats, p_values
from lib.study.stored import load_divergence, load_scores

PROFILES = ROOT / "notebooks" / "profiles"


def test_table_1_is_written_three_ways_and_the_paper_stays_apart(root):
    files = table1.write("tiny")
    csv, printed = files["table1.csv"].read_text(), files["table1_paper.csv"].read_text()
    assert "entropy-50" in csv and "37.52" not in csv and "37.52" in printed
    tex = files["table1.tex"].read_text()
    assert tex.count(r"\begin{tabular}") == 6 and r"Kept (\%)" in tex
    markdown = files["table1.md"].read_text()
    assert "The paper" in markdown and "– SPICE: " in markdown
    frame = table1.numbers("tiny")
    scores = load_scores("tiny")["methods"]["fastv-50"]
    assert frame.loc["fastv-50", "BLEU-4"] == round(100 * scores["values"]["BLEU-4"], 2)
    page = table1.html_blocks("tiny")
    assert page.count("<table") == 6 and "37.52" in page and "– SPICE: " in page


def test_table_1_says_place_shares_images_and_divergence(root):
    table, stored = quality.table("tiny"), load_scores("tiny")
    assert table.index.name == "Method, 3 images" and table1.about("tiny").count("3 ") >= 2
    row = table.loc["FastV"]
    assert (row["Layer"], row["Kept (%)"], row["Average (%)"]) == ("2", "50.0", "75.0")
    read = load_divergence("tiny")["table"]["methods"]["fastv-50"]
    assert row["Divergence"] == nats(read["values"][DIVERGENCE], read["intervals"][DIVERGENCE])
    parts = dict(quality.parts("tiny"))
    assert list(parts) == [PAPER, BEFORE, DEEP]
    labels = {row["label"] for row in stored["methods"].values()}
    assert {label for rows in parts.values() for label in rows} == labels
    assert parts[DEEP][:2] == ["FastV", "RandomPrune, layer 2"]
    assert {"RandomPrune", "Entropy-Prune", "Entropy + coverage (ours)"} <= set(parts[BEFORE])
    assert (table.loc[parts[BEFORE], "Layer"] == "0").all()
    five = quality.table("tiny", extra=False).index
    assert list(five) == ["Unpruned", "RandomPrune", "ToMe", "FastV", "Entropy-Prune"]


def test_tables_say_what_they_lack(root, bare):
    assert benchmark.read("tiny") == {}
    assert "make reproduce PROFILE=tiny" in divergence.about("tiny")
    assert divergence.table("tiny").empty and divergence.places("tiny").empty
    assert divergence.budgets(divergence.sweep("tiny"), "keep").empty
    assert divergence.ablation("tiny", "rollout").empty and divergence.choices("tiny") == {}
    assert comparisons.of_divergence("tiny") == {} and divergence.averages("tiny").empty


def test_differences_are_the_stored_ones(root):
    stored = load_scores("tiny")
    gaps = quality.losses("tiny", metric="BLEU-4")
    assert len(gaps) == len(stored["methods"]) - 1 and (gaps["low"] <= gaps["high"]).all()
    frames = comparisons.families("tiny")
    asked = next(name for name in frames if name.startswith("Which criterion is best at FastV"))
    assert "3 images" in asked
    rows = {(r["a"], r["b"], r["metric"]): r for r in stored["comparisons"][DEEP]}
    one = rows["entropy-layer2-50", "fastv-50", "BLEU-4"]
    cell = frames[asked].loc["Entropy-Prune, layer 2 − FastV", "BLEU-4"]
    assert cell.startswith(f"{100 * one['value']:+.1f} [") and cell.endswith(p_values(one))
    equal = comparisons.equal("tiny")
    assert len(equal) == len(stored["equivalence"]) and set(equal["images"]) == {3}


def test_ablations_stand_against_their_default(root):
    stored = load_divergence("tiny")["ablations"]
    frame = divergence.ablation("tiny", "rollout")
    assert frame.index.name == "rollout, 2 images"
    default = frame.loc["literal (I + H), as printed"]
    assert default["minus the default"] == "–"
    slug = "entropy-scaled-25"
    (gap,) = [one for one in stored["comparisons"]["ablations"] if one["a"] == slug]
    assert gap["b"] == "entropy-25"
    assert frame.loc["scaled (I + H/L)", "p, Holm"] == p_values(gap)
    groups = divergence.choices("tiny")
    assert groups["rollout"].loc["scaled (I + H/L)", "value"] == gap["value"]
    assert words.of_points(groups["rollout"]).count(" to ") == 2
    assert words.of_groups(groups).startswith(f"{next(iter(groups))}: ")
    assert "sweep" not in groups


def test_places_and_rates_are_the_stored_numbers(root):
    stored = load_divergence("tiny")["places"]["methods"]
    grid = divergence.places("tiny")
    row = grid[(grid["label"] == "FastV") & (grid["layer"] == 2)].iloc[0]
    read = stored["fastv-at2-25"]
    assert row[DIVERGENCE] == read["values"][DIVERGENCE] and row["kept"] == 9 / 36
    assert row["average"] == pytest.approx((2 + 2 * 9 / 36) / 4)
    shown = divergence.budgets(grid, "layer")
    assert list(shown.columns) == ["layer 0", "layer 2"] and shown.loc["FastV", "layer 0"] == "–"
    assert "25 % kept, FastV: " in words.of_places(grid)
    rates = divergence.sweep("tiny")
    assert set(rates["keep"]) == {0.25, 0.5} and "ToMe: " in words.of_rates(rates)
    even = divergence.averages("tiny")
    assert even.index[0] == "RandomPrune, 62.5 % on average"


def test_divergences_of_each_image_have_the_stored_mean(root, bare):
    assert np.isnan(divergence.each("tiny", "FastV")).all(), "nothing is measured in an empty root"


def test_divergences_of_each_image_are_those_of_the_records(root):
    values = divergence.each("tiny", "FastV")
    stored = load_divergence("tiny")["table"]["methods"]["fastv-50"]["values"][DIVERGENCE]
    assert len(values) == 3 and values.mean() == pytest.approx(stored)
    with pytest.raises(KeyError):
        divergence.each("tiny", "nobody's")


def test_costs_are_shares_of_the_unpruned_model(root):
    bill, shares = cost.table("tiny"), cost.flops_ratios("tiny")
    assert list(bill.index) == list(shares.index) and (shares.loc["Unpruned"] == 100).all()
    assert bill.loc["FastV", "full count"] < bill.loc["Unpruned", "full count"]
    with_vision = shares["with vision and scorer"]
    assert with_vision["ToMe"] < with_vision["RandomPrune"], "ToMe spares the tower work, too"
    ratios = paper.ratios("tiny")
    assert ratios.loc["ToMe", "latency, paper"] == 73.6 and "FLOPs, ours" in ratios
    assert (ratios.loc["Unpruned"].dropna() == 100).all()
    assert "Unpruned" in words.of_split(bill)


def test_the_sweep_stands_against_what_was_measured(root):
    sweep = ablations.sweep("tiny")
    assert [name for name, _ in ablations.axes(sweep)] == ["kept", "GFLOPs", "ms"]
    assert [name for name, _ in ablations.axes(sweep, of="ms")] == ["kept", "GFLOPs"]
    assert ablations.budgets(sweep, "BLEU-4").loc["Unpruned", "50 %"] == "–"
    assert "RandomPrune: " in words.of_sweep(sweep, "BLEU-4")
    assert np.isfinite(sweep[["BLEU-4", "BLEU-4 low"]]).all(axis=None)
    assert sweep["GFLOPs"].notna().sum() >= 5


@pytest.fixture
def empty(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "cider, verdict",
    [
        (1.092, "unpruned CIDEr 109.2; expected 108 to 110"),
        (1.0796, "Verdict: inside"),
        (1.10, "Verdict: inside"),
        (1.104, "Verdict: off by +0.4: check prompt, precision, image processor, references"),
        (0.998, "Verdict: off by -8.2: check prompt"),
        (None, "cannot be checked: CIDEr is not among"),
    ],
)
def test_the_unpruned_score_is_held_against_the_published_one(empty, cider, verdict):
    folder = paths.results_dir("paper")
    folder.mkdir(parents=True)
    document = {"methods": {"unpruned": {"values": {"BLEU-4": 0.3, "CIDEr": cider}}}}
    (folder / "scores.json").write_text(json.dumps(document))
    shutil.copy(PROFILES / "paper.yaml", empty / "notebooks" / "profiles")
    assert verdict in paper.credibility("paper")
    assert "99.8" in paper.credibility("paper") or cider is None


@pytest.mark.parametrize("name", ["embedded", "shape"])
def test_other_models_are_not_held_against_it(empty, name):
    shutil.copy(PROFILES / f"{name}.yaml", empty / "notebooks" / "profiles")
    assert paper.credibility(name).startswith("does not apply")


def test_other_data_are_not_held_against_it(empty):
    text = (PROFILES / "paper.yaml").read_text().replace("profile: paper", "profile: other")
    other = empty / "notebooks" / "profiles" / "other.yaml"
    for line in ("split: val", "json_path: mine.json"):
        other.write_text(text.replace("split: test", "") + f"{line}\n")
        assert paper.credibility("other").startswith("does not apply")
