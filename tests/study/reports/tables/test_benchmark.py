"""The benchmark of the large model in tables, from a record of known numbers."""

import json

import numpy as np
import pytest

from lib.study import paths
from lib.study.cost.benchmark import METHODS
from lib.study.profiles import load_profile
from lib.study.reports.tables import benchmark, words
from lib.study.reports.tables.findings import findings
from tests.study.reports.tables import records


@pytest.fixture
def record():
    return records.record()


def test_every_method_of_the_benchmark_has_a_name():
    assert list(benchmark.LABELS) == list(METHODS)


def test_measurements_are_in_milliseconds_gigabytes_and_teraflops(record):
    frame = benchmark.rows(record)
    assert list(frame["label"][:3]) == ["Unpruned", "FastV (layer 2)", "Entropy-Prune"]
    assert list(frame["batch"]) == sorted(frame["batch"])
    one = frame[(frame["label"] == "Entropy-Prune") & (frame["batch"] == 1)].iloc[0]
    assert one["static_prefill"] == pytest.approx(7) and one["prefill"] == pytest.approx(14)
    assert (one["vision low"], one["vision high"]) == pytest.approx((1.8, 2.4))
    assert (one["cache"], one["peak"]) == (0.25, 15)
    assert (one["analytic"], one["counted"]) == pytest.approx((4.51, 4.6))
    assert one["scorer share"] == pytest.approx(100 * 0.1 / 7) and np.isnan(one["end_to_end"])
    single = frame[frame["new tokens"] == 1]
    # nothing about further tokens can be learnt from a row that has none
    assert single[["static_decode", "static_end_to_end"]].isna().all(axis=None)
    assert single["static_prefill"].notna().all()


def test_both_paths_stand_in_one_table_with_dashes_where_nothing_was_measured(record):
    kept = benchmark.at_keep(benchmark.rows(record), 0.5)
    times = benchmark.times(kept)
    assert {batch: list(table.index) for batch, table in times.items()} == {
        "Batch 1": ["Unpruned", "FastV (layer 2)", "Entropy-Prune"],
        "Batch 8": ["Unpruned", "Entropy-Prune"],
    }
    assert list(times["Batch 1"].loc["Unpruned"]) == [
        "2.0", "0.00", "28.0", "14.0", "1.50", "0.50", "560", "140"
    ]  # fmt: skip
    assert list(times["Batch 8"].loc["Entropy-Prune"])[-4:] == ["–", "0.50", "–", "420"]
    resources = benchmark.resources(kept)
    assert list(resources.index) == ["Unpruned", "FastV (layer 2)", "Entropy-Prune"]
    cells = ["15.0", "15.0", "0.25", "0.25", "4.51", "4.60"]
    assert list(resources.loc["Entropy-Prune"]) == cells
    assert list(resources.loc["FastV (layer 2)"]) == ["15.0", "–", "0.25", "–", *cells[4:]]


def test_speedups_are_against_the_unpruned_model_of_the_same_batch(record):
    table = benchmark.speedups(benchmark.at_keep(benchmark.rows(record), 0.5))
    assert list(table.index) == ["FastV (layer 2)", "Entropy-Prune"]
    assert list(table.loc["Entropy-Prune"]) == ["2.00", "1.95", "2.00", "1.95"]
    assert list(table.loc["FastV (layer 2)"]) == ["1.75", "–", "1.75", "–"]


def test_the_sweep_has_the_batch_and_the_methods_with_several_keep_rates(record):
    found = benchmark.swept(benchmark.rows(record))
    assert set(found["batch"]) == {8} and set(found["label"]) == {"Unpruned", "Entropy-Prune"}
    assert sorted(found["keep"]) == [0.125, 0.25, 0.5, 1.0]
    assert benchmark.swept(benchmark.at_keep(benchmark.rows(record), 0.5)).empty
    said = words.of_lines(found, "static_prefill", by="kept")
    assert said == "Unpruned 82 at 1; Entropy-Prune 20 at 0.125, 30 at 0.25, 42 at 0.5"


def test_a_record_that_is_partial_or_missing_says_what_measures_the_rest(record):
    said = benchmark.missing(record, "shape")
    assert "growth: " not in said and "RandomPrune: not measured" in said
    del record["growth"], record["leave_one_out"]
    said = benchmark.missing(record, "shape")
    model = load_profile("shape").model
    assert f"python -m lib benchmark --profile shape --model {model} --methods '' --growth" in said
    said = "\n".join(findings(record, keep=0.5))
    assert "definition" not in said and "Scorer of" in said
    assert benchmark.where(record).startswith("LLaVA-1.5-7B's configuration with random")
    assert benchmark.where(record | {"model": "embedded"}).startswith("embedded, one H200")
    assert benchmark.where({}) == ""
    empty = benchmark.rows({})
    assert empty.empty and benchmark.times(empty) == {} and benchmark.swept(empty).empty
    assert benchmark.speedups(empty).empty and benchmark.resources(empty).empty
    assert findings({}, keep=0.5) == []
    assert benchmark.missing({}, "shape").count("not measured\n  python -m lib b") == 4
    assert "--profile elsewhere --agreement" in benchmark.missing({}, "elsewhere")
    assert words.of_lines(empty, "peak") == "not measured"


def test_no_record_is_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert benchmark.read("paper") == {}


def test_scaling_has_a_row_a_batch_size_and_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert benchmark.scaling("p").empty
    rows = [
        {"method": "random", "processes": n, "batch_size": 16, "images_per_second": 8.0 * n,
         "gain": float(n), "waiting_share": 0.01 * n, "same_records": n < 4}
        for n in (1, 2, 4)
    ]  # fmt: skip
    path = tmp_path / "data" / "results" / "p" / "scaling.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"rows": rows}))
    frame = benchmark.scaling("p")
    assert frame.index.tolist() == [("RandomPrune", 16, n) for n in (1, 2, 4)]
    assert frame.loc["RandomPrune", 16, 2].tolist() == [16.0, 2.0, 2.0, True]
    assert not frame.loc[("RandomPrune", 16, 4), "same captions"]
