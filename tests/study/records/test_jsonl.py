"""Records survive kills, and a file has one writer."""

import lzma
import signal
import time

import pytest

from lib.study.records import (
    PUBLISHED,
    RECORDS,
    RecordFile,
    RecordFolder,
    canonical,
    packed_records,
    read_records,
)
from tests.study.records.writing import record, writer


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


def test_published_records_are_read_and_the_same_bytes_each_time(tmp_path):
    with RecordFolder(tmp_path, {}) as folder:
        folder.append([{"image_id": i, "caption": "Ein grüner Hund."} for i in (3, 1)])
    rows = read_records(tmp_path)
    (tmp_path / RECORDS).unlink()
    (tmp_path / PUBLISHED).write_bytes(packed_records(rows))
    assert packed_records(rows) == packed_records(rows)
    assert [record["image_id"] for record in read_records(tmp_path)] == [3, 1]
    with RecordFolder(tmp_path, {}) as folder:  # goes on from what is published
        folder.append([{"image_id": 1, "caption": "?"}, {"image_id": 2, "caption": "A cat."}])
        assert [r["image_id"] for r in folder.finish([1, 2, 3])] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("records*")) == [RECORDS]
    (tmp_path / PUBLISHED).write_bytes(packed_records(rows)[:-9])
    with pytest.raises(ValueError, match=f"{PUBLISHED}: damaged .*Restore it"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"image_id": 1, "kl": [0.5, 1.5], "kept": [3, 4]}],
        [{"image_id": i, "kl": [i / 7, -i], "parts": [1] * i, "x": None} for i in (3, 1, 2)],
        [{"image_id": 1, "a": []}, {"image_id": 2, "a": []}],
        [{"image_id": 1, "a": 1}, {"image_id": 2, "b": 2}],
        [{"image_id": 1, "columns": {"a": 1}}, {"image_id": 2, "columns": {}}],
    ],
)
def test_columns_give_the_records_back(tmp_path, rows):
    (tmp_path / PUBLISHED).write_bytes(packed_records(rows))
    found = read_records(tmp_path)
    assert found == rows and [list(row) for row in found] == [list(row) for row in rows]
    text = lzma.decompress((tmp_path / PUBLISHED).read_bytes()).decode()
    like = len({tuple(row) for row in rows}) == 1
    assert text.startswith('{"columns"') == like and text.count("\n") == (1 if like else len(rows))
