"""Runs of lmms-eval in processes of their own, and what they logged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.study.paths import ROOT
from tests.plugins.lmms_eval.proof.material import FOLDER

TASKS = Path(__file__).parents[1] / "tasks"
#: `python -m` of lmms-eval alone, and on two processes. `--multi_gpu` is what accelerate calls
#: torchrun; the processes stay on the CPU.
ALONE = ("lmms_eval",)
TWICE = {
    "accelerate": (
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "lmms_eval",
    ),
    "torchrun": (
        "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_eval",
    ),
}  # fmt: skip
_CACHE = re.compile(r"ResponseCache stats: (\d+) hits.*?(\d+) misses")


@dataclass(frozen=True)
class Run:
    """What a run left: samples by task in the order of the documents, and its results."""

    samples: dict[str, list[dict[str, Any]]]
    results: dict[str, dict[str, Any]]
    log: str

    @property
    def cache(self) -> tuple[int, int]:
        """Responses that came from lmms-eval's cache, and those that were computed."""
        hits, misses = map(int, _CACHE.search(self.log).groups())
        return hits, misses


class Failed(RuntimeError):
    """lmms-eval ended with an error; its message is the end of what it printed."""


def arguments(model: str, given: dict[str, Any]) -> str:
    """lmms-eval's `--model_args`."""
    return ",".join(f"{name}={value}" for name, value in {"pretrained": model, **given}.items())


def command(
    model_args: str, tasks: tuple[str, ...], out: Path, *options: str, launch: tuple[str, ...]
) -> list[str]:
    return [
        sys.executable, "-m", *launch, "--model", "entropy_prune", "--model_args", model_args,
        "--tasks", ",".join(tasks), "--include_path", str(TASKS), "--log_samples",
        "--output_path", str(out), *options,
    ]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """Offline, and without the checkout: the plug-in is the installed one."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    switches = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    own = {"HF_HOME": str(FOLDER / "hub"), "TOKENIZERS_PARALLELISM": "false"}
    return inherited | dict.fromkeys(switches, "1") | own | more


def evaluate(
    model_args: str, tasks: tuple[str, ...], out: Path, *options: str,
    launch: tuple[str, ...] = ALONE, **env: str,
) -> Run:  # fmt: skip
    """Run lmms-eval and read what it logged. Raises `Failed` if it ends with an error."""
    done = subprocess.run(
        command(model_args, tasks, out, *options, launch=launch),
        capture_output=True, text=True, cwd=ROOT, env=environment(**env),
    )  # fmt: skip
    log = done.stdout + done.stderr
    if done.returncode or not list(out.rglob("*_results.json")):
        raise Failed(log[-6000:])
    return read(out, tasks, log)


def read(out: Path, tasks: tuple[str, ...], log: str = "") -> Run:
    """What the latest run logged below a folder."""
    latest = sorted(out.rglob("*_results.json"))[-1]
    results = json.loads(latest.read_text(encoding="utf-8"))["results"]
    return Run({task: _samples(out, task) for task in tasks}, results, log)


def _samples(out: Path, task: str) -> list[dict[str, Any]]:
    path = sorted(out.rglob(f"*_samples_{task}.jsonl"))[-1]
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda sample: int(sample["doc_id"]))
