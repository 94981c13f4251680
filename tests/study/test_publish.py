"""A finished run becomes the reference: only what is needed, and nothing of an unfinished one."""

import json

import pytest

from lib.study import cli, paths, publish
from lib.study.compare import compare_run
from lib.study.files import write_atomically
from lib.study.records import read_records
from lib.study.reports import report
from tests.study import places

CAPTIONS = ["a red star", "a dog"]


@pytest.fixture(autouse=True)
def refreshed(monkeypatch):
    """The profiles whose pages were written anew."""
    profiles = []
    monkeypatch.setattr(report, "refresh", profiles.append)
    return profiles


@pytest.fixture
def run(tmp_path, monkeypatch):
    places.root(tmp_path, monkeypatch)
    places.fill(paths.run("smoke"), CAPTIONS)
    return paths.run("smoke")


def files(place):
    return {
        path.relative_to(folder).as_posix()
        for folder in (place.results, place.figures, place.reports)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_divergences_are_published_and_old_ones_go(run):
    reference = paths.reference("smoke")
    for name in ("population.json", "divergence.json"):
        write_atomically(reference.results / name, '{"old": 1}')
    folder = run.results / "divergence" / "table"
    line = {"image_id": 0, "tokens": 3, "visual_tokens": 16, "kl": [0.5], "nll": [1], "kept": [8]}
    measured = line | {"kl": [0.50041], "nll": [1.00004]}  # three digits are published, and four
    write_atomically(folder / "records.jsonl", json.dumps(measured) + "\n")
    write_atomically(folder / "manifest.json", json.dumps(places.manifest(1)))
    write_atomically(run.results / "divergence.json", '{"new": 1}')
    assert cli.main(["publish", "--profile", "smoke"]) == 0
    assert json.loads((reference.results / "divergence.json").read_text()) == {"new": 1}
    assert not (reference.results / "population.json").exists(), "this run has none"
    assert read_records(reference.results / "divergence" / "table") == [line]


@pytest.mark.parametrize("own", [True, False])
def test_only_what_is_needed_is_published(run, refreshed, capsys, monkeypatch, own):
    monkeypatch.setattr(publish, "OWN", "smoke" if own else "other")
    write_atomically(run.results / "scores" / "unpruned.json", "{}")
    write_atomically(run.results / "figures" / "tokens.npz", b"npz")
    write_atomically(run.reports / "06_table1.ipynb", "{}")
    write_atomically(run.reports / "06_table1.html", "<html></html>")
    write_atomically(run.figures / "table1.md", "| a |")
    write_atomically(run.figures / "figure1.svg", "<svg/>")
    reference = paths.reference("smoke")
    places.fill(reference, ["old"])
    write_atomically(reference.results / "captions" / "gone-50" / "records.jsonl", "")
    write_atomically(reference.results / "benchmark.json", '{"kept": 1}')
    write_atomically(reference.figures / "old.png", b"old")
    write_atomically(reference.reports / "old.html", "old")
    assert cli.main(["publish", "--profile", "smoke"]) == 0
    assert "data/results/smoke: 0.0" in capsys.readouterr().out
    slugs = ("captions/unpruned", "captions/fastv-50", "ablations/entropy-25")
    stored = {f"{slug}/{name}" for slug in slugs for name in ("records.jsonl.xz", "manifest.json")}
    summaries = {"study.json", "scores.json", "efficiency.json", "benchmark.json"}
    drawn = {"figure1.png", "table1.md", *["figures/tokens.npz"] * own}
    # the pages are written anew where they lie, from what the run has executed
    assert files(reference) == stored | summaries | drawn | {"index.html", "old.html"}
    assert refreshed == ["smoke"]
    records = read_records(reference.results / "captions" / "unpruned")
    assert [r["caption"] for r in records] == CAPTIONS
    assert not any("seconds" in record for record in records)
    made = json.loads((reference.results / "captions" / "unpruned" / "manifest.json").read_text())
    assert made == {"parameters": {"images": {"count": 2}}, "runs": [{"device": "cpu"}]}
    assert json.loads((reference.results / "benchmark.json").read_text()) == {"kept": 1}
    assert compare_run("smoke")["captions"]["same"] == 6


def test_publishing_again_changes_nothing(run):
    reference = paths.reference("smoke")
    assert cli.main(["publish", "--profile", "smoke"]) == 0
    places.fill(run, CAPTIONS, seconds=True)
    before = {p: p.read_bytes() for p in reference.results.rglob("*") if p.is_file()}
    assert cli.main(["publish", "--profile", "smoke"]) == 0
    assert {p: p.read_bytes() for p in reference.results.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("gone", ["scores.json", "study.json", "efficiency.json"])
def test_an_unfinished_run_is_refused_before_anything_changes(run, gone, capsys):
    (run.results / gone).unlink()
    places.fill(paths.reference("smoke"), ["old"])
    before = {p: p.read_bytes() for p in paths.reference("smoke").results.rglob("*") if p.is_file()}
    assert cli.main(["publish", "--profile", "smoke"]) == 1
    error = capsys.readouterr().err
    assert gone in error and "make reproduce PROFILE=smoke" in error
    after = {p: p.read_bytes() for p in paths.reference("smoke").results.rglob("*") if p.is_file()}
    assert after == before


def test_missing_records_are_an_unfinished_run(run, capsys):
    path = run.results / "captions" / "fastv-50" / "records.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert cli.main(["publish", "--profile", "smoke"]) == 1
    assert "fastv-50 holds 1 of 2 records" in capsys.readouterr().err
    assert not paths.reference("smoke").results.exists()
