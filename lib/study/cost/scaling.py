"""How fast captioning is by batch size, and over several processes: the same images every time.

    python -m lib scaling --profile shape --processes 1,2,4 --split train --images 1792 \\
        --batch-size 64

One process a GPU (or, with --device cpu, several on the processor), launched by accelerate one
count after another on the same machine. Writes scaling.json of the profile's run: images a second
of the loop, first batch included but not the loading of the model; the gain over the first count of
the same batch size; the pace of the middle batch, to which the first one's start-up does not count;
and how many of the merged records, generated token ids and all but the timings, differ from the
first count's. Naming a count twice shows what differs by chance. Batches are dealt out whole:
unless they divide evenly, some processes have one more. With --fast all counts follow once more
on the fast path (`StaticDecoder.repeatable`), and the file is captioning.json: their gain is over
`generate`, their records are compared with each other.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import paths
from ..captioning import UNPRUNED, Throughput
from ..files import write_json
from ..records import MANIFEST, RECORDS, canonical, read_records
from .plan import Measurements
from .timing import machine


class LaunchFailed(RuntimeError):
    """A run with some number of processes failed; the message ends with what it printed."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What is captioned, and the counts of processes and batch sizes it is done with.

    Raises `ValueError` for counts below 1, and for more processes than GPUs unless on a CPU.
    """

    model: str = "embedded"
    processes: Sequence[int] = (1, 2, 4)
    images: int = 1000
    split: str = "test"
    method: str = UNPRUNED
    batch_size: Sequence[int] = (16,)
    new_tokens: int = 64
    device: str | None = None
    fast: bool = False

    def __post_init__(self) -> None:
        for name in ("processes", "batch_size"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least 1, got {list(values)}")
        if self.device == "cpu":
            return
        found = torch.cuda.device_count()
        if max(self.processes) > found:
            raise ValueError(
                f"{max(self.processes)} processes need as many GPUs, found {found}; "
                "name fewer, or pass --device cpu"
            )


def record_of(options: Scaling) -> str:
    """The file of a run's results that it goes into."""
    return "captioning.json" if options.fast else "scaling.json"


def command(
    processes: int, batch_size: int, options: Scaling, folder: Path, *, fast: bool = False
) -> list[str]:
    """The command that captions with so many processes into `folder`; fast: on the fast path."""
    launch = []
    if processes > 1:
        with socket.socket() as free:  # a port nobody listens on
            free.bind(("", 0))
            port = free.getsockname()[1]
        # --multi_gpu is what accelerate calls torchrun, and works on CPUs, too
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        launch += ["--num_processes", str(processes), "--main_process_port", str(port)]
        launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    given = {
        "--model": options.model,
        "--split": options.split,
        "--limit": options.images,
        "--method": options.method,
        "--batch-size": batch_size,
        "--max-new-tokens": options.new_tokens,
        "--results-dir": folder,
    }
    arguments = [str(part) for pair in given.items() for part in pair]
    place = ["--device", options.device] if options.device else []
    return [
        sys.executable, *launch, "-m", "lib", "caption", *arguments, *place, "--token-ids",
        "--quiet", *(["--fast"] if fast else []),
    ]  # fmt: skip


def run(
    processes: int, batch_size: int, options: Scaling, folder: Path, *, fast: bool = False
) -> tuple[dict[str, Any], list]:
    """One count of processes: its row, and the merged records without their timings.

    Raises `LaunchFailed`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    root = Path(__file__).parents[3]
    python_path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command(processes, batch_size, options, folder, fast=fast),
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "ENTROPY_PRUNE_ROOT": str(paths.ROOT), "PYTHONPATH": python_path},
    )
    if done.returncode:
        raise LaunchFailed(f"{processes} processes failed:\n{(done.stderr or done.stdout)[-2000:]}")
    (method,) = (path for path in folder.iterdir() if path.is_dir())
    manifest = json.loads((method / MANIFEST).read_text(encoding="utf-8"))
    noted = manifest["runs"][-1]["throughput"]
    ranks = [noted[name] for name in sorted(noted, key=lambda name: int(name.split()[-1]))]
    whole = Throughput.together(
        [Throughput(r["captions"], r["seconds"], r["waiting_share"] * r["seconds"]) for r in ranks]
    )
    records = read_records(method / RECORDS)
    middle = statistics.median(record["seconds"] for record in records)  # an image, by its batch
    row = {
        "method": options.method,
        "processes": processes,
        "batch_size": batch_size,
        "fast": fast,
        **whole.entry(),
        **({"ranks": ranks} if processes > 1 else {}),
    }
    row["middle_images_per_second"] = round(processes / max(middle, 1e-9), 3)
    return row, canonical(records)


def measure(options: Scaling, path: Path) -> dict[str, Any]:
    """Every batch size and count in turn; the document at `path`, written after each.

    Other methods and batch sizes that this machine measured with that model before stay in it.
    """
    about = {"model": options.model, "machine": machine()}
    about["new_tokens"] = options.new_tokens
    document = Measurements(path, about).document
    rows = document.setdefault("rows", [])
    rows[:] = [
        row
        for row in rows
        if row["method"] != options.method or row["batch_size"] not in options.batch_size
    ]
    folder = paths.ROOT / "build" / "scaling"
    for batch_size in options.batch_size:
        baseline = None
        for fast in (False, True)[: 1 + options.fast]:
            first = None
            for processes in options.processes:
                place = folder / f"{batch_size}-{processes}{'-fast' if fast else ''}"
                row, records = run(processes, batch_size, options, place, fast=fast)
                baseline = baseline or row["images_per_second"]
                row["gain"] = row["images_per_second"] / baseline
                row |= {"different_records": None, "same_records": None}  # the first is alone
                if first is not None:
                    different = sum(a != b for a, b in zip(records, first, strict=True))
                    row |= {"different_records": different, "same_records": not different}
                first = first or records
                rows.append(row)
                write_json(path, document)
                print(line(row), flush=True)
    return document


def line(row: Mapping[str, Any]) -> str:
    """One row as text."""
    same = {None: "nothing to compare with", True: "the same captions"}.get(
        row["same_records"], f"{row['different_records']} OTHER captions"
    )
    return (
        f"{row['method']}, {row['processes']} processes, batch {row['batch_size']}"
        f"{', fast path' if row['fast'] else ''}: "
        f"{row['images_per_second']:.2f} images/s, {row['gain']:.2f} times the first, "
        f"{row['middle_images_per_second']:.2f} in the middle, "
        f"{row['waiting_share']:.1%} waiting, {same}"
    )
