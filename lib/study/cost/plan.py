"""What the model benchmark measures, and the record that it fills."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...pruning import create
from ..files import write_json

#: the methods of Table 1, and variants of the study's own
METHODS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "unpruned": None,
    "random": ("random", {}),
    "tome": ("tome", {}),
    "fastv": ("fastv", {}),
    "entropy": ("entropy", {}),
    "entropy-layer2": ("entropy", {"layer": 2}),
    "entropy-token": ("entropy", {"level": "token", "layers": (-2, -2)}),
    "adaptive": ("selection", {}),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of the benchmark.

    methods: names in `METHODS`. generate: those timed through `generate`, too. compiled: fuse the
    fast path's small kernels. growth: numbers of visual tokens. agreement: compare that path's
    tokens with those of `generate`, and nothing else. definition: time the scores against theirs.
    layers: before which the first tokens of the methods that can stand there are compared with
    those of `against`, in turn. catalogue: the same for its runs, against the unpruned model.
    step: say where the time of a decoding step goes.

    Raises `ValueError` for an unknown method and counts below 1.
    """

    model: str = "embedded"
    methods: Sequence[str] = tuple(METHODS)
    batches: Sequence[int] = (1, 8)
    keep: Sequence[float] = (0.5,)
    generate: Sequence[str] = tuple(METHODS)
    new_tokens: int = 64
    repeats: int = 7
    compiled: bool = False
    growth: Sequence[int] = ()
    agreement: bool = False
    definition: bool = False
    layers: Sequence[int] = ()
    against: Sequence[str] = ("fastv", "random", "unpruned")
    catalogue: bool = False
    step: bool = False

    def __post_init__(self) -> None:
        if unknown := {*self.methods, *self.generate} - METHODS.keys():
            raise ValueError(f"unknown method {min(unknown)!r}: choose from {', '.join(METHODS)}")
        for name in ("new_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"batches must be at least 1, got {list(self.batches)}")


def pruner_of(method: str, keep: float) -> Any:
    """The pruner of a row of `METHODS`, None for the unpruned model."""
    spec = METHODS[method]
    return create(spec[0], keep=keep, **spec[1]) if spec else None


class Measurements:
    """benchmark.json of a profile: goes on from an earlier one of this model and machine.

    path: where it is written. earlier: what it goes on from, the same file unless given.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], earlier: Path | None = None) -> None:
        self.path, self.document = path, dict(about)
        earlier = earlier or path
        if earlier.is_file():
            before = json.loads(earlier.read_text(encoding="utf-8"))
            if all(before.get(name) == value for name, value in about.items()):
                self.document = before

    def put(self, part: str, row: Mapping[str, Any], *keys: str) -> None:
        """Add a row to a part; one that agrees with it in `keys` goes."""
        rows = self.document.setdefault(part, [])
        rows[:] = [old for old in rows if any(old.get(k) != row.get(k) for k in keys)]
        rows.append(dict(row))
        write_json(self.path, self.document)
