"""What every stage of training needs: a clock, a log, a checkpoint to go on from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_atomically


class Run:
    """A stage that ends after a number of steps or of seconds, whichever its plan names.

    Parameters
    ----------
    folder : checkpoint and log go there as ``<name>.pt`` and ``<name>.jsonl``.
    parts : what is saved, by name: anything with ``state_dict`` and ``load_state_dict``.
    plan : settings that a checkpoint must share with this run.
    steps, seconds : the stage's length; with both 0 < seconds, seconds decide.
    limit : seconds after which this process stops in between, to go on in a later one; 0 for none.
    checkpoint_every : steps between checkpoints.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        parts: dict[str, object],
        plan: dict,
        *,
        steps: int = 0,
        seconds: float = 0.0,
        limit: float = 0.0,
        checkpoint_every: int = 500,
    ) -> None:
        if steps <= 0 and seconds <= 0:
            raise ValueError(f"{name}: give steps or seconds, got {steps} and {seconds}")
        self.name, self.folder, self.parts, self.plan = name, Path(folder), parts, plan
        self.steps, self.seconds, self.limit = steps, seconds, limit
        self.checkpoint_every = checkpoint_every
        self._saved: dict[str, dict] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step, self.before, self.rows = 0, 0.0, []
        self._resume()
        self.began = time.perf_counter()

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / f"{self.name}.pt"

    @property
    def elapsed(self) -> float:
        """Seconds of this stage, earlier runs included."""
        return self.before + time.perf_counter() - self.began

    @property
    def progress(self) -> float:
        """How much of the stage is over, 0 to 1."""
        part = self.elapsed / self.seconds if self.seconds > 0 else self.step / self.steps
        return min(1.0, part)

    @property
    def over(self) -> bool:
        """The stage has ended."""
        return self.progress >= 1 or (self.steps > 0 and self.step >= self.steps)

    @property
    def halted(self) -> bool:
        """The stage has ended, or this process is to stop in between."""
        used = time.perf_counter() - self.began
        return self.over or (self.limit > 0 and used >= self.limit)

    def attach(self, name: str, part: object) -> None:
        """One more part that is saved; it takes its state now, if a checkpoint holds one."""
        self.parts[name] = part
        if name in self._saved:
            part.load_state_dict(self._saved.pop(name))

    def advance(self) -> None:
        """Count a step, and keep it from time to time."""
        self.step += 1
        if self.step % self.checkpoint_every == 0:
            self.checkpoint()

    def rate(self, highest: float, *, warmup: int, lowest: float = 0.01) -> float:
        """Learning rate now: a linear rise, then half a cosine down to `lowest` of the highest."""
        wave = (1 + math.cos(math.pi * self.progress)) / 2
        return highest * (lowest + (1 - lowest) * wave) * min(1.0, (self.step + 1) / max(1, warmup))

    def generator(self, device: torch.device | str, seed: int) -> torch.Generator:
        """Randomness of this step alone, so that a resumed run draws what an unbroken one would."""
        return torch.Generator(device).manual_seed(seed * 1_000_003 + self.step)

    def note(self, **values) -> dict:
        """Add a row to the log."""
        row = {"stage": self.name, "step": self.step, "seconds": round(self.elapsed, 1), **values}
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RuntimeError(f"{key} is {value} at step {self.step} of {self.name}")
        self.rows.append(row)
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def checkpoint(self) -> Path:
        """Write everything a later run needs, atomically."""
        saved = {
            "step": self.step,
            "seconds": self.elapsed,
            "plan": self.plan,
            "rows": self.rows,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        write_atomically(self.path, lambda file: torch.save(saved, file))
        return self.path

    def _resume(self) -> None:
        log = self.folder / f"{self.name}.jsonl"
        if not self.path.is_file():
            log.unlink(missing_ok=True)
            return
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        refuse_others(self.path, saved["plan"], self.plan)
        self._saved = saved["parts"]
        for name, part in self.parts.items():
            part.load_state_dict(self._saved.pop(name))
        self.step, self.before, self.rows = saved["step"], saved["seconds"], saved["rows"]
        log.write_text("".join(json.dumps(row) + "\n" for row in self.rows))


def refuse_others(checkpoint: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a checkpoint's settings are not those of the run that found it."""
    differ = {
        key: (there.get(key), value) for key, value in here.items() if there.get(key) != value
    }
    if differ:
        told = ", ".join(f"{k}: {a!r} there, {b!r} here" for k, (a, b) in differ.items())
        raise ValueError(
            f"{checkpoint} belongs to a run with other settings ({told}): give another "
            "folder, or delete it to start afresh"
        )


class Means:
    """Means of numbers over the steps since a run's last note, which they go into.

    Parameters
    ----------
    names : what the log calls them.
    every : steps between notes; the last step has one, too.
    report : called with the run after each.
    """

    def __init__(
        self,
        run: Run,
        names: Sequence[str],
        *,
        every: int,
        report: Callable[[Run], None] | None = None,
    ) -> None:
        self.run, self.names, self.every, self.report = run, names, every, report
        self._total: Tensor | None = None
        self._count = 0

    def add(self, *values: Tensor) -> None:
        """The numbers of a step that the run has counted (`Run.advance`)."""
        row = torch.stack([value.detach().float() for value in values])
        self._total = row if self._total is None else self._total + row
        self._count += 1
        if self.run.step % self.every == 0 or self.run.over:
            means = (self._total / self._count).tolist()
            self._total, self._count = None, 0
            self.run.note(**{name: round(mean, 4) for name, mean in zip(self.names, means)})
            if self.report is not None:
                self.report(self.run)


def descend(optimizer: torch.optim.Optimizer) -> None:
    """A step with gradients of norm 1 at most, which are forgotten then."""
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    nn.utils.clip_grad_norm_([w for w in weights if w.grad is not None], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
