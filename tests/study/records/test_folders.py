"""Shards merge to the same records whatever the ranks."""

import time

import pytest

from lib.study.records import RecordFile, RecordFolder, canonical, read_records
from tests.study.records.writing import fill, record, writer

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
