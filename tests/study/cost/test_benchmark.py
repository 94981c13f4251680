"""The model benchmark writes honest rows, on a tiny model."""

import json

import pytest
import torch

from lib.study import cli, paths
from lib.study.cost import benchmark
from lib.study.cost.plan import METHODS, Measurements

SHORT = ["benchmark", "--profile", "tiny", "--new-tokens", "3", "--repeats", "1"]


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "build/reproduce/tiny/results/benchmark.json"
    return lambda: json.loads(path.read_text())


def test_rows_for_every_method(tiny, stored, capsys, operations_clock):
    assert cli.main([*SHORT, "--batches", "2"]) == 0
    document = stored()
    assert [row["method"] for row in document["rows"]] == list(METHODS)
    for row in document["rows"]:
        assert row["batch"] == 2 and row["static_agreement"] == 1.0
        assert row["kept"] == (1.0 if row["method"] == "unpruned" else 0.5)
        assert (row["flops"]["scorer"] > 0) == (row["method"] not in ("unpruned", "random", "tome"))
        assert row["flops"]["encoder"] > 0
        assert 0 < row["static_prefill"]["median"] < row["static_end_to_end"]["median"]
    assert document["dtype"] == "float32" and document["attention"] == "sdpa"
    assert capsys.readouterr().out.count("captured") == len(METHODS)


def test_parts_measured_again_replace_what_was_there(tiny, stored):
    some = [*SHORT, "--methods", "fastv,unpruned", "--generate", "unpruned"]
    assert cli.main([*some, "--batches", "1,2", "--keep", "0.5, 0.25"]) == 0
    rows = {(r["method"], r["batch"], r["keep"]): r for r in stored()["rows"]}
    assert len(rows) == len(stored()["rows"]) == 2 + 4
    through_generate = {key for key, row in rows.items() if "end_to_end" in row}
    assert through_generate == {("unpruned", 1, 1.0), ("unpruned", 2, 1.0)}
    assert cli.main([*some, "--batches", "1"]) == 0
    assert len(stored()["rows"]) == 6


def test_what_the_reference_has_is_kept(tiny, stored, tmp_path):
    assert cli.main([*SHORT, "--methods", "fastv", "--batches", "1"]) == 0
    run, reference = (
        place("tiny").results / "benchmark.json" for place in (paths.run, paths.reference)
    )
    reference.parent.mkdir(parents=True)
    run.rename(reference)
    before = reference.read_bytes()
    assert cli.main([*SHORT, "--methods", "random", "--batches", "1"]) == 0
    assert [row["method"] for row in stored()["rows"]] == ["fastv", "random"]
    assert reference.read_bytes() == before


def test_agreement_and_the_definition(tiny, stored):
    assert cli.main([*SHORT, "--agreement", "--methods", "unpruned,entropy"]) == 0
    assert [(r["method"], r["same"]) for r in stored()["agreement"]] == [
        ("unpruned", 1.0),
        ("entropy", 1.0),
    ]
    record = Measurements(paths.run("tiny").results / "benchmark.json", {})
    benchmark.definition(record, torch.device("cpu"), tokens=40, width=16)
    (row,) = stored()["leave_one_out"]
    assert row["ratio"] == row["naive"]["median"] / row["exact"]["median"]
    assert row["largest_error_over_spread"] < 1e-4 and "agreement" in stored()


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--methods", "nope"], "unknown method 'nope'"),
        (["--batches", "0"], "batches must be at least 1, got [0]"),
        (["--batches", "one"], "--batches takes values such as 1,8,32"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_wrong_options_are_one_line(tiny, options, complaint, capsys):
    assert cli.main([*SHORT, *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1
