"""A run beside the reference: every difference is found, and nothing else."""

import json

import pytest

from lib.study import cli, paths
from lib.study.compare import compare_run, load_comparison, summary
from lib.study.files import write_atomically, write_json
from tests.study import places

CAPTIONS = ["a red star", "a dog", "two cats"]


@pytest.fixture
def both(tmp_path, monkeypatch):
    places.root(tmp_path, monkeypatch)
    places.fill(paths.reference("smoke"), CAPTIONS, seconds=False)
    places.fill(paths.run("smoke"), CAPTIONS)
    return paths.reference("smoke"), paths.run("smoke")


def test_equal_runs_are_equal_whatever_the_time(both):
    found = compare_run("smoke")
    assert (found["captions"]["same"], found["captions"]["of"]) == (9, 9)
    assert not any(ids for one in found["captions"]["folders"].values() for ids in one.values())
    assert (found["scores"]["inside"], found["scores"]["of"]) == (2, 2)
    (pair,) = found["figures"]
    assert pair == {
        "name": "figure1", "reference": "figures/smoke/figure1.png",
        "run": "build/reproduce/smoke/figures/figure1.png", "same": True,
    }  # fmt: skip
    assert load_comparison("smoke") == found
    assert json.loads((paths.run_folder("smoke") / "comparison.json").read_text()) == found
    said = summary(found)
    assert "9 of 9 captions equal the reference's" in said
    assert "2 of 2 scores lie within" in said and "1 of 1 figures are the same" in said


def test_every_difference_is_named(both):
    _, run = both
    folder = run.results / "captions" / "fastv-50"
    rows = places.records(["a red star", "a cat", "two cats", "more"]).splitlines()
    rows[0] = rows[0].replace('"kept": 8', '"kept": 7')
    write_atomically(folder / "records.jsonl", "\n".join([rows[0], rows[1], rows[3]]) + "\n")
    places.fill(
        paths.Place(run.results / "other", run.figures, run.reports), CAPTIONS, picture=b"other"
    )
    (run.results / "scores.json").write_text(
        (run.results / "scores.json").read_text().replace("0.5", "0.61", 1)
    )
    found = compare_run("smoke")
    assert found["captions"]["folders"]["captions/fastv-50"] == {
        "differ": [1], "kept": [0], "missing": [2], "new": [3],
    }  # fmt: skip
    assert (found["captions"]["same"], found["captions"]["of"]) == (6, 8)
    outside = [row for row in found["scores"]["rows"] if not row["inside"]]
    assert [(row["slug"], row["run"]) for row in outside] == [("unpruned", 0.61)]
    assert found["figures"][0]["same"] is False
    said = summary(found)
    assert "captions/fastv-50: 1 differ, 1 kept, 1 missing, 1 new" in said
    assert "unpruned, CIDEr: 0.61 is not [0.4, 0.6]" in said


def test_both_machines_are_named(both):
    _, run = both
    places.fill(run, CAPTIONS, processor="B")
    found = compare_run("smoke")
    assert [found["made"][place]["processor"] for place in ("reference", "run")] == ["A", "B"]
    said = summary(found)
    assert "reference: A; torch 2.13" in said and "run: B; torch 2.13" in said


def test_a_profile_of_ones_own_has_no_reference(tmp_path, monkeypatch, capsys):
    places.root(tmp_path, monkeypatch)
    assert cli.main(["compare", "--profile", "smoke"]) == 1
    assert "make reproduce PROFILE=smoke" in capsys.readouterr().err
    assert load_comparison("smoke") is None
    places.fill(paths.run("smoke"), CAPTIONS)
    assert cli.main(["compare", "--profile", "smoke"]) == 0
    assert "nothing is committed of this profile" in capsys.readouterr().out
    found = load_comparison("smoke")
    assert found["captions"]["of"] == 0 and found["made"]["reference"] is None
    assert found["figures"][0]["reference"] is None and found["figures"][0]["same"] is False


def test_divergences_are_held_against_the_reference_s_intervals(both):
    for place, value in zip(both, (0.02, 0.05)):
        row = {"values": {"divergence": value}, "intervals": {"divergence": [0.01, 0.03]}}
        document = {"key": "x", "references": 2, "table": {"methods": {"fastv-50": row}}}
        (place.results / "divergence.json").write_text(json.dumps(document))
    found = compare_run("smoke")
    (row,) = [row for row in found["scores"]["rows"] if row["metric"] == "divergence"]
    assert (row["part"], row["slug"], row["inside"]) == ("divergence, table", "fastv-50", False)
    assert "fastv-50, divergence: 0.05 is not [0.01, 0.03]" in summary(found)


def test_a_smaller_run_is_compared_on_its_own_images(both):
    reference, run = both
    for place, count in ((reference, 3), (run, 2)):
        places.fill(place, CAPTIONS[:count])
        path = place.results / "scores.json"
        write_json(path, json.loads(path.read_text()) | {"images": count, "ablation_images": 2})
    found = compare_run("smoke")
    assert found["images"] == {"reference": 3, "run": 2}
    assert (found["captions"]["same"], found["captions"]["of"]) == (6, 6)
    assert not any(ids for one in found["captions"]["folders"].values() for ids in one.values())
    assert found["scores"]["of"] == 0
    assert "took 2 images, the reference 3" in summary(found)
    records = run.results / "captions" / "fastv-50" / "records.jsonl"
    records.write_text(records.read_text().splitlines()[0] + "\n")
    found = compare_run("smoke")["captions"]["folders"]["captions/fastv-50"]
    assert found["missing"] == [1, 2], "an unfinished run lacks what it was asked for"
