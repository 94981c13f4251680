"""Records survive kills, manifests refuse mixtures, shards merge the same whatever the ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

from lib.study import records as results
from lib.study.records import (
    Manifest,
    ManifestMismatch,
    RecordFile,
    RecordFolder,
    canonical,
    digest,
    load_or_compute,
    read_records,
)


def record(i, **extra):
    return {"image_id": i, "caption": f"naïve café {i} \u2028", "seconds": random.random(), **extra}


def fill(folder, ids, *, rank=0, world_size=1, parameters=None, order=None):
    with RecordFolder(folder, parameters or {"a": 1}, rank=rank, world_size=world_size) as store:
        for i in ids:
            store.append([record(i)])
        return store.finish(order if order is not None else list(ids))


# ------------------------------------------------------------------ record files


def test_records_come_back_in_order_and_appending_goes_on(tmp_path):
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append([record(3), record(1)])
    with RecordFile(path) as file:
        assert [r["image_id"] for r in file.records] == [3, 1]
        file.append([record(2)])
    assert [r["image_id"] for r in read_records(path)] == [3, 1, 2]
    assert len(path.read_bytes().splitlines()) == 3


def test_a_torn_line_is_cut_off_at_every_possible_byte(tmp_path):
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append([record(1), record(2)])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with RecordFile(path) as file:
            assert [r["image_id"] for r in file.records] == ([1] if size >= first else [])
        assert path.stat().st_size == (first if size >= first else 0)


def test_a_tail_of_zeros_is_cut_off_but_damage_inside_is_an_error(tmp_path):
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append([record(1)])
    good = path.read_bytes()
    path.write_bytes(good + b"\0\0\0\n")
    with RecordFile(path) as file:
        assert len(file.records) == 1
    assert path.read_bytes() == good
    path.write_bytes(b"{oops}\n" + good)
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1: damaged record"):
        RecordFile(path)


def test_two_writers_of_one_file_are_refused(tmp_path):
    with RecordFile(tmp_path / "r.jsonl"), pytest.raises(RuntimeError, match="another process"):
        RecordFile(tmp_path / "r.jsonl")
    RecordFile(tmp_path / "r.jsonl").close()


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with RecordFile(tmp_path / "r.jsonl") as file:
        with pytest.raises(ValueError, match="finite"):
            file.append([record(1), record(2, score=float("nan"))])
        with pytest.raises(TypeError, match="set"):
            file.append([record(1, kept_indices={1, 2})])
    assert (tmp_path / "r.jsonl").stat().st_size == 0


def test_canonical_drops_timings_only():
    assert canonical([{"image_id": 1, "seconds": 1.0, "prefill_seconds": 2.0, "kept": 3}]) == [
        {"image_id": 1, "kept": 3}
    ]


WRITER = """
import sys, time
from lib.study.records import RecordFolder
folder, rank, world_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with RecordFolder(folder, {"a": 1}, rank=rank, world_size=world_size) as store:
    for i in range(rank, 60, world_size):
        store.append([
            {"image_id": 4 * i + j, "caption": "x" * 5000, "seconds": time.time()} for j in range(4)
        ])
    store.finish(range(240))
"""


def writer(folder, rank=0, world_size=1):
    command = [sys.executable, "-c", WRITER, str(folder), str(rank), str(world_size)]
    return subprocess.Popen(command)


def test_killed_at_random_moments_a_rerun_ends_with_the_same_file(tmp_path):
    assert writer(tmp_path / "whole").wait() == 0
    expected = canonical(read_records(tmp_path / "whole"))
    assert len(expected) == 240
    path = tmp_path / "killed" / "records.jsonl"
    sizes = []
    for goal in (1, 200_000, 700_000):
        process = writer(tmp_path / "killed")
        while process.poll() is None and (not path.exists() or path.stat().st_size < goal):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert writer(tmp_path / "killed").wait() == 0
    assert canonical(read_records(path)) == expected


# ------------------------------------------------------------------ manifest


def test_other_parameters_are_refused_with_every_difference(tmp_path):
    stored = {"prompt": "a", "method": {"name": "fastv", "keep": 0.5}, "seed": 0}
    fill(tmp_path / "m", [1], parameters=stored)
    before = (tmp_path / "m" / "records.jsonl").read_bytes()
    asked = {"prompt": "b", "method": {"name": "fastv", "keep": 0.25}, "dtype": "float16"}
    with pytest.raises(ManifestMismatch) as caught:
        RecordFolder(tmp_path / "m", asked)
    message = str(caught.value)
    for line in (
        'prompt: "a" -> "b"',
        "method.keep: 0.5 -> 0.25",
        "seed: 0 -> (absent)",
        'dtype: (absent) -> "float16"',
    ):
        assert line in message
    assert "method.name" not in message
    assert "another results folder, or delete" in message
    assert (tmp_path / "m" / "records.jsonl").read_bytes() == before


def test_tuples_numpy_and_torch_values_compare_as_json_does(tmp_path):
    import numpy as np
    import torch

    Manifest(tmp_path, {"layers": (1, 2), "n": np.int64(3), "dtype": torch.float16})
    Manifest(tmp_path, {"layers": [1, 2], "n": 3, "dtype": "float16"})
    with pytest.raises(TypeError, match=r"parameters\.f must be plain JSON, got a function"):
        Manifest(tmp_path, {"f": lambda: 0})


def test_another_environment_warns_when_records_are_continued_and_is_noted(tmp_path):
    def run(ids, torch_version):
        environment = {"versions": {"torch": torch_version}}
        with RecordFolder(tmp_path, {"a": 1}, run=environment) as store:
            store.append([record(i) for i in ids])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run([1], "2.11")
        run([2], "2.11")
        run([1, 2], "2.13")  # nothing to compute: no warning, no run
    with pytest.warns(UserWarning, match=r'versions\.torch: "2\.11" -> "2\.13"'):
        run([3], "2.13")
    runs = json.loads((tmp_path / "manifest.json").read_text())["runs"]
    assert [r["versions"]["torch"] for r in runs] == ["2.11", "2.11", "2.13"]


def test_records_without_a_manifest_and_a_damaged_manifest_are_refused(tmp_path):
    fill(tmp_path, [1])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ManifestMismatch, match="is not a manifest"):
        RecordFolder(tmp_path, {"a": 1})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ManifestMismatch, match=r"manifest\.json is missing"):
        RecordFolder(tmp_path, {"a": 1})


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    results.write_atomically(path, "old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        results.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_digest_is_the_same_everywhere():
    assert digest({"b": [1, 2.5, "é"], "a": None}) == digest({"a": None, "b": (1, 2.5, "é")})
    assert digest(1).startswith("6b86b273ff34fce1")  # sha256 of the character "1"


# ------------------------------------------------------------------ shards


ORDER = [7, 3, 11, 2, 5, 13, 17, 19]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_merged_records_do_not_depend_on_the_number_of_ranks(tmp_path, world_size):
    for rank in reversed(range(world_size)):
        fill(tmp_path, ORDER[rank::world_size], rank=rank, world_size=world_size, order=ORDER)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "records.jsonl"]
    merged = read_records(tmp_path)
    assert [r["image_id"] for r in merged] == ORDER
    assert canonical(merged) == canonical([record(i) for i in ORDER])


def test_a_lost_rank_loses_nothing_of_the_others_and_the_number_of_ranks_may_change(tmp_path):
    for rank in (0, 2):  # rank 1 of 3 was killed before its first record
        fill(tmp_path, ORDER[rank::3], rank=rank, world_size=3, order=ORDER)
    # its torn line is not a record, and another rank's file is not touched by readers
    shard = tmp_path / "records.rank-0001-of-0003.jsonl"
    shard.write_bytes(b'{"image_id": 3, "capt')
    assert len(read_records(tmp_path)) == 5
    missing = []
    for rank in range(2):
        with RecordFolder(tmp_path, {"a": 1}, rank=rank, world_size=2) as store:
            mine = [i for i in ORDER[rank::2] if i not in store.done]
            missing += mine
            store.append([record(i) for i in mine])
            merged = store.finish(ORDER)
    assert sorted(missing) == sorted(ORDER[1::3])
    assert canonical(merged) == canonical([record(i) for i in ORDER])
    assert not list(tmp_path.glob("*rank*"))


def test_a_kill_between_merge_and_clean_up_does_no_harm(tmp_path):
    for rank in range(2):
        fill(tmp_path, ORDER[rank::2], rank=rank, world_size=2, order=ORDER)
    merged = read_records(tmp_path)
    with RecordFile(tmp_path / "records.rank-0000-of-0002.jsonl") as file:
        file.append(merged[::2])
    assert fill(tmp_path, [], order=ORDER) == merged
    assert not list(tmp_path.glob("*rank*"))


def test_contradicting_shards_and_records_nobody_asked_for_are_named(tmp_path):
    fill(tmp_path, [1, 2])
    with pytest.raises(ValueError, match="not asked for: image_id 2"):
        fill(tmp_path, [], order=[1])
    with RecordFile(tmp_path / "records.rank-0000-of-0002.jsonl") as file:
        file.append([record(2, kept=9)])
    with pytest.raises(ValueError, match="image_id 2 has two different records"):
        RecordFolder(tmp_path, {"a": 1})


def test_killing_one_of_two_ranks_and_rerunning_with_three(tmp_path):
    first, second = writer(tmp_path, 0, 2), writer(tmp_path, 1, 2)
    shard = tmp_path / "records.rank-0001-of-0002.jsonl"
    while second.poll() is None and (not shard.exists() or not shard.stat().st_size):
        time.sleep(0.0005)
    second.kill()
    second.wait()
    assert first.wait() == 0
    assert len(read_records(tmp_path)) >= 120
    for process in [writer(tmp_path, rank, 3) for rank in range(3)]:
        assert process.wait() == 0
    merged = read_records(tmp_path / "records.jsonl")
    assert [r["image_id"] for r in merged] == list(range(240))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "records.jsonl"]


def test_reading_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no records\.jsonl"):
        read_records(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.jsonl is missing"):
        read_records(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="rank must be in"):
        RecordFolder(tmp_path, {}, rank=2, world_size=2)


# ------------------------------------------------------------------ load or compute


def test_a_result_is_computed_once_and_other_parameters_are_refused(tmp_path):
    path, calls = tmp_path / "r" / "x.json", []

    def compute():
        calls.append(1)
        return {"values": (1, 2.5)}

    for _ in range(2):
        assert load_or_compute(path, {"n": 2}, compute) == {"values": [1, 2.5]}
    assert len(calls) == 1
    with pytest.raises(ManifestMismatch, match="n: 2 -> 3"):
        load_or_compute(path, {"n": 3}, compute)
    assert load_or_compute(path, {"n": 3}, compute, recompute=True) == {"values": [1, 2.5]}
    assert len(calls) == 2
    document = json.loads(path.read_text())
    assert document["parameters"] == {"n": 3} and "torch" in document["environment"]["versions"]
    path.write_text("[]")
    with pytest.raises(ManifestMismatch, match="not a stored result"):
        load_or_compute(path, {"n": 3}, compute)


def test_a_failed_computation_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        load_or_compute(tmp_path / "x.json", {}, lambda: 1 / 0)
    assert not list(tmp_path.iterdir())
