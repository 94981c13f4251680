"""What the tests of captioning share: pictures, methods, quick settings."""

from dataclasses import dataclass
from pathlib import Path

from lib.pruning import create

QUICK = {"batch_size": 3, "max_new_tokens": 5, "progress": False, "workers": 2}


@dataclass(frozen=True)
class Picture:
    image_id: int
    path: Path
    references: tuple[str, ...] = ("a picture",)


METHODS = {
    "unpruned": None,
    "random": ("random", {"keep": 0.5}),
    "tome": ("tome", {"keep": 0.5}),
    "fastv": ("fastv", {"keep": 0.25, "layer": 2}),
    "entropy": ("entropy", {"keep": 0.5}),
}


def pruners():
    return {s: None if m is None else create(m[0], **m[1]) for s, m in METHODS.items()}
