"""Several processes share the work and write the same records.

`tests/study/cost/test_scaling.py` has accelerate launch them.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lib.study import cli, models
from lib.study.captioning import caption
from lib.study.records import canonical, read_records
from tests.study.captioning.kit import QUICK


@pytest.fixture(scope="module")
def on_disk(kit, tmp_path_factory):
    """A model folder and a Karpathy JSON, as other processes need them."""
    folder = tmp_path_factory.mktemp("on_disk")
    models.save(*kit, folder / "model")
    rng, images = np.random.default_rng(1), []
    for number in range(48):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((60, 50)).save(folder / f"{number}.png")
        images.append({"split": "test", "filename": f"{number}.png", "cocoid": 500 - number,
                       "filepath": "", "sentences": [{"raw": "a picture"}]})  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return folder


def command(on_disk, results, *extra):
    return [
        "-m", "lib", "caption", "--model", str(on_disk / "model"), "--data",
        str(on_disk / "data.json"), "--method", "unpruned,random", "--max-new-tokens", "5",
        "--batch-size", "2", "--device", "cpu", "--quiet", "--results-dir", str(results), *extra,
    ]  # fmt: skip


def merged(results):
    for slug in ("unpruned", "random-0.5"):
        names = sorted(p.name for p in (results / slug).iterdir())
        assert names == ["manifest.json", "records.jsonl"]
    return {s: canonical(read_records(results / s)) for s in ("unpruned", "random-0.5")}


@pytest.fixture(scope="module")
def by_one_process(on_disk, tmp_path_factory):
    results = tmp_path_factory.mktemp("one")
    assert cli.main(command(on_disk, results)[2:]) == 0
    return merged(results)


def test_the_command_line_says_what_it_did_and_continues(on_disk, tmp_path, capsys):
    arguments = command(on_disk, tmp_path, "--limit", "6", "--random-state", "3")[2:]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "unpruned: 6 of 6 images, 100.0% tokens kept" in printed
    assert "random-0.5: 6 of 6 images, 50.0% tokens kept" in printed
    stored = json.loads((tmp_path / "unpruned" / "manifest.json").read_text())["parameters"]
    assert stored["source"] == {
        "model": "model", "revision": None, "data": "data.json", "split": "test", "limit": 6,
        "random_state": 3,
    }  # fmt: skip
    for change, complaint in (
        (("--limit", "7"), "source.limit: 6 -> 7"),
        (("--split", "no"), "no"),
    ):
        assert cli.main([*arguments, *change]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and complaint in error


def test_ranks_share_the_work_and_merge_the_same_records(kit, pictures, tmp_path):
    whole = caption(*kit, pictures, records=tmp_path / "whole", **QUICK)
    for world_size in (2, 3, 4):
        folder, parts = tmp_path / str(world_size), []
        for rank in range(world_size):
            parts.append(
                caption(*kit, pictures, records=folder, rank=rank, world_size=world_size, **QUICK)
            )
        assert canonical(parts[-1]) == canonical(whole) == canonical(read_records(folder))
        assert [e["image_id"] for e in parts[0]] == [
            e.image_id for n, e in enumerate(pictures) if n // 3 % world_size == 0
        ]


def run_rank(arguments, rank, world_size, port, report):
    """One rank, in a process of its own; what went wrong is written to `report`."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "WORLD_SIZE": str(world_size)}  # fmt: skip
    torch.set_num_threads(1)
    with report.open("w") as sys.stderr:
        raise SystemExit(cli.main(arguments))


@pytest.fixture(scope="module")
def start_ranks(on_disk):
    """Starts ranks from a server that has everything imported, which saves most of the time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["lib.study.cli", "lib.study.captioning.split", "lib.study.models", "lib.pruning",
        "transformers.models.llama"
         ".modeling_llama", "transformers.models.clip.modeling_clip", "accelerate"]
    )  # fmt: skip

    def start(results, world_size):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = command(on_disk, results)[2:]
        ranks = []
        for rank in range(world_size):
            report = results / f"error-{rank}"
            ranks.append(
                context.Process(target=run_rank, args=(arguments, rank, world_size, port, report))
            )
            ranks[-1].start()
        return ranks

    return start


def test_four_processes_write_the_same_records(start_ranks, by_one_process, tmp_path):
    ranks = start_ranks(tmp_path, 4)
    for rank in ranks:
        rank.join(240)
    errors = [path.read_text() for path in tmp_path.glob("error-*")]
    assert [rank.exitcode for rank in ranks] == [0] * 4, errors
    assert merged(tmp_path) == by_one_process


def test_a_killed_rank_loses_nothing_of_the_others(start_ranks, by_one_process, on_disk, tmp_path):
    ranks = start_ranks(tmp_path, 3)
    shard = tmp_path / "random-0.5" / "records.rank-0002-of-0003.jsonl"
    while ranks[2].is_alive() and not (shard.exists() and shard.stat().st_size):
        time.sleep(0.0005)
    ranks[2].kill()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [1, 1, -signal.SIGKILL]
    for rank in (0, 1):
        assert "another process of this run stopped" in (tmp_path / f"error-{rank}").read_text()
        for slug in ("unpruned", "random-0.5"):
            own = tmp_path / slug / f"records.rank-{rank:04d}-of-0003.jsonl"
            assert len(read_records(own)) == 16
    assert 34 <= len(read_records(tmp_path / "random-0.5")) < 48
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another number of processes is no reason to warn
        assert cli.main(command(on_disk, tmp_path)[2:]) == 0
    assert merged(tmp_path) == by_one_process
