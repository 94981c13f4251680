"""The same answers in other ways: after a kill, and by two processes; and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.plugins.lmms_eval.proof import host, material, plan
from tests.plugins.lmms_eval.proof.rows import given, texts

RUNS = material.FOLDER / "runs"
#: what one run of `plan.AGAIN` answers
TASKS = ("scenes_caption", "scenes_yesno")
BATCH = ("--batch_size", str(plan.BATCH))
_ERROR = re.compile(r"Error during evaluation: (.*?)\.? Please set `--verbosity=DEBUG`", re.DOTALL)


def _same(run: host.Run, before: host.Run) -> int:
    pairs = [zip(texts(run.samples[t]), texts(before.samples[t]), strict=True) for t in TASKS]
    return sum(a == b for task in pairs for a, b in task)


def resumed(before: host.Run) -> dict[str, int]:
    """A run is killed when a batch of it is in lmms-eval's cache, and started again."""
    place = _fresh("resumed")
    cache = place / "cache"
    options = (*BATCH, "--use_cache", str(cache))
    args, name = given(*plan.AGAIN), {"LMMS_CACHE_RUN_ID": "proof"}
    process = subprocess.Popen(
        host.command(args, TASKS, place / "first", *options, launch=host.ALONE),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=host.ROOT,
        env=host.environment(**name),
    )  # fmt: skip
    audit = cache / "runs" / name["LMMS_CACHE_RUN_ID"] / "rank_0.audit.jsonl"
    while process.poll() is None and _lines(audit) < plan.BATCH:
        time.sleep(0.05)
    process.kill()
    process.wait()
    run = host.evaluate(args, TASKS, place / "second", *options, **name)
    hits, misses = run.cache
    return {"answers": len(TASKS) * plan.SCENES, "from_cache": hits, "computed": misses,
            "equal": _same(run, before)}  # fmt: skip


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def by_two(launcher: str, before: host.Run) -> dict[str, int]:
    """Two processes share the scenes."""
    run = host.evaluate(
        given(*plan.AGAIN), TASKS, _fresh(launcher), *BATCH, launch=host.TWICE[launcher]
    )
    ranks = set(re.findall(r"Running on rank (\d+)", run.log))
    return {"answers": len(TASKS) * plan.SCENES, "processes": len(ranks),
            "equal": _same(run, before)}  # fmt: skip


def refused() -> dict[str, str]:
    """What lmms-eval says of arguments that do not fit."""
    said = {}
    for wrong in plan.WRONG:
        try:
            host.evaluate(
                f"pretrained={material.folder('embedded')},{wrong}", TASKS, _fresh("refused")
            )
        except host.Failed as error:
            found = _ERROR.search(str(error))
            said[wrong] = " ".join(found[1].split()) if found else str(error)[-300:]
    return said


def _fresh(name: str) -> Path:
    shutil.rmtree(RUNS / name, ignore_errors=True)
    return RUNS / name
