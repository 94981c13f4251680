"""The benchmark of the large model in tables and sentences, from a record of known numbers."""

import json

import numpy as np
import pytest

from lib.study import paths
from lib.study import run as study
from lib.study.cost import benchmark
from lib.study.reports import tables


def timing(ms):
    return {"median": ms / 1e3, "low": 0.9 * ms / 1e3, "high": 1.2 * ms / 1e3, "repeats": 3}


def row(method, batch=1, keep=0.5, *, first=10.0, new=64, plain=True, **more):
    """A row with a fast path twice as fast to the first token, and 64 tokens in ten times that."""
    cells = {"method": method, "batch": batch, "keep": keep, "kept": keep, "new_tokens": new}
    times = {"vision": 2.0, "scorer": 0.0 if method == "unpruned" else 0.1 * batch,
             "prefill": 2 * first, "static_prefill": first, "static_decode": 0.5,
             "static_end_to_end": 10 * first}  # fmt: skip
    times |= {"decode": 1.5, "end_to_end": 40 * first} if plain else {}
    cells |= {name: timing(ms) for name, ms in times.items()}
    flops = {"fastv": 1e12, "sparsevlm": 2e12, "exact": 4e12, "vision": 5e11, "scorer": 1e10}
    return cells | {"cache_bytes": 2.5e8, "peak_bytes": 15e9, "flops_counted": 4.6e12,
                    "flops": flops} | more  # fmt: skip


@pytest.fixture
def record():
    rows = [
        row("entropy", 8, first=42.0, plain=False), row("fastv", first=8.0),
        row("entropy", first=7.0, plain=False, static_agreement=0.25),
        row("unpruned", keep=1.0, first=14.0, static_agreement=0.5),
        row("unpruned", 8, 1.0, first=82.0, plain=False),
        row("entropy", 8, 0.25, first=30.0, new=1), row("entropy", 8, 0.125, first=20.0, new=1),
    ]  # fmt: skip
    growth = [row(m, tokens=n, first=n / 10, new=1) for n in (576, 144) for m in ("entropy",)]
    for entry in growth:
        del entry["keep"], entry["flops"]  # as `lib.study.cost.benchmark.growth` writes them
    return {
        "model": "shape:llava-1.5-7b", "dtype": "bfloat16", "attention": "sdpa",
        "machine": {"device": "H200", "threads": None}, "rows": rows, "growth": growth,
        "agreement": [{"method": "entropy", "dtype": "float32", "batch": 2, "tokens": 64,
                       "same": 1.0}],
        "leave_one_out": [{"tokens": 576, "exact": timing(0.5), "naive": timing(3000.0),
                           "ratio": 6000.0, "largest_error_over_spread": 3e-5}],
    }  # fmt: skip


def test_every_method_of_the_benchmark_has_a_name():
    assert list(tables.BENCHMARKED) == list(benchmark.METHODS)


def test_measurements_are_in_milliseconds_gigabytes_and_teraflops(record):
    frame = tables.benchmark(record)
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
    kept = tables.at_keep(tables.benchmark(record), 0.5)
    times = tables.benchmark_times(kept)
    assert {batch: list(table.index) for batch, table in times.items()} == {
        "Batch 1": ["Unpruned", "FastV (layer 2)", "Entropy-Prune"],
        "Batch 8": ["Unpruned", "Entropy-Prune"],
    }
    assert list(times["Batch 1"].loc["Unpruned"]) == [
        "2.0", "0.00", "28.0", "14.0", "1.50", "0.50", "560", "140"
    ]  # fmt: skip
    assert list(times["Batch 8"].loc["Entropy-Prune"])[-4:] == ["–", "0.50", "–", "420"]
    resources = tables.benchmark_resources(kept)
    assert list(resources.index) == ["Unpruned", "FastV (layer 2)", "Entropy-Prune"]
    cells = ["15.0", "15.0", "0.25", "0.25", "4.51", "4.60"]
    assert list(resources.loc["Entropy-Prune"]) == cells
    assert list(resources.loc["FastV (layer 2)"]) == ["15.0", "–", "0.25", "–", *cells[4:]]


def test_speedups_are_against_the_unpruned_model_of_the_same_batch(record):
    table = tables.speedups(tables.at_keep(tables.benchmark(record), 0.5))
    assert list(table.index) == ["FastV (layer 2)", "Entropy-Prune"]
    assert list(table.loc["Entropy-Prune"]) == ["2.00", "1.95", "2.00", "1.95"]
    assert list(table.loc["FastV (layer 2)"]) == ["1.75", "–", "1.75", "–"]


def test_the_sweep_has_the_batch_and_the_methods_with_several_keep_rates(record):
    found = tables.swept(tables.benchmark(record))
    assert set(found["batch"]) == {8} and set(found["label"]) == {"Unpruned", "Entropy-Prune"}
    assert sorted(found["keep"]) == [0.125, 0.25, 0.5, 1.0]
    assert tables.swept(tables.at_keep(tables.benchmark(record), 0.5)).empty
    said = tables.describe_benchmark(found, "static_prefill", "ms", by="kept")
    assert said == "ms: Unpruned 82 at 1; Entropy-Prune 20 at 0.125, 30 at 0.25, 42 at 0.5."


def test_the_findings_are_computed_from_the_record(record):
    said = "\n".join(tables.benchmark_findings(record, keep=0.5))
    assert "within 20.0 % of the median" in said
    assert "64 tokens in 140 ms against 560 ms through generate, 4.0 times faster" in said
    assert "a further token in 0.5 ms against 1.5 ms" in said
    assert "at batch 8, Entropy-Prune, the scorer included: 80 ms to 40 ms, 2.00 times" in said
    assert "Scorer of Entropy-Prune: 0.10 at batch 1, 0.10 at batch 8 (ms an image)" in said
    # 0.8 of 42 ms, 0.1 of 7 and of 57.6 and of 14.4 ms
    assert "at most 1.9 % of the time to the first token (batch 8)" in said
    assert "0.50 ms, by its definition 3,000 ms: 6,000 times faster" in said
    assert "float32, 1 method, 128 tokens each: every one the same" in said
    assert "in bfloat16, as timed: 25 to 50 %" in said
    record["growth"][1]["scorer"] = timing(7.2)
    record["agreement"][0]["same"] = 0.5
    said = "\n".join(tables.benchmark_findings(record, keep=0.5))
    assert "at most 50.0 % of the time to the first token (144 visual tokens, batch 1)" in said
    assert "the same but for Entropy-Prune 50.0 %" in said


def test_a_record_that_is_partial_or_missing_says_what_measures_the_rest(record):
    said = tables.benchmark_missing(record, "shape")
    assert "growth: " not in said and "RandomPrune: not measured" in said
    del record["growth"], record["leave_one_out"]
    said = tables.benchmark_missing(record, "shape")
    model = study.load_profile("shape").model
    assert (
        f"python -m lib.study.cost.benchmark --profile shape --model {model} --methods --growth"
        in said
    )
    findings = "\n".join(tables.benchmark_findings(record, keep=0.5))
    assert "definition" not in findings and "Scorer of" in findings
    assert tables.benchmark_where(record).startswith("LLaVA-1.5-7B's configuration with random")
    assert tables.benchmark_where(record | {"model": "embedded"}).startswith("embedded, one H200")
    empty = tables.benchmark({})
    assert empty.empty and tables.benchmark_times(empty) == {} and tables.swept(empty).empty
    assert tables.speedups(empty).empty and tables.benchmark_resources(empty).empty
    assert tables.benchmark_findings({}, keep=0.5) == []
    assert (
        tables.benchmark_missing({}, "shape").count("not measured\n  python -m lib.study.cost.b")
        == 4
    )
    assert "--profile elsewhere --agreement" in tables.benchmark_missing({}, "elsewhere")
    assert tables.describe_benchmark(empty, "peak", "GB") == "GB: not measured."


def test_no_record_is_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert tables.benchmark_record("paper") == {}


def test_scaling_has_a_row_a_batch_size_and_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(tables.paths, "ROOT", tmp_path)
    assert tables.scaling("p").empty
    rows = [
        {"processes": n, "batch_size": 16, "images_per_second": 8.0 * n, "gain": float(n),
         "waiting_share": 0.01 * n, "same_records": n < 4}
        for n in (1, 2, 4)
    ]  # fmt: skip
    path = tmp_path / "data" / "results" / "p" / "scaling.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"rows": rows}))
    frame = tables.scaling("p")
    assert frame.index.tolist() == [(16, 1), (16, 2), (16, 4)]
    assert frame.loc[16, 2].tolist() == [16.0, 2.0, 2.0, True]
    assert not frame.loc[(16, 4), "same captions"]
