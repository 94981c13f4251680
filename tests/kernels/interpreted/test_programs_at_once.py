"""Programs that wait for each other: each is interpreted in a process of its own, on shared memory.

What a GPU may reorder, this does not: see `tests/kernels/test_on_a_gpu.py`.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from typing import Any

import pytest
import torch

from lib.clustering import lloyd as reference
from lib.entropy import gram
from lib.selection import Worth, conditional_dpp, weighted
from tests.kernels.interpreted.kit import interpreted, make, plainly

pytestmark = interpreted


class AtOnce:
    """Stands for a kernel, and runs its programs at the same time, begun one after the other."""

    def __init__(self, kernel) -> None:
        self.kernel, self.programs = kernel, 0

    def __getitem__(self, grid):
        self.programs = grid[0] * grid[1]
        return lambda *args, **named: self.launch(grid, args, named)

    def launch(self, grid, args, named) -> None:
        for arg in args:
            if isinstance(arg, torch.Tensor):
                arg.share_memory_()
        processes = []
        for number in range(self.programs):
            if process := os.fork():
                processes.append(process)
                continue
            code = 1
            try:
                signal.alarm(60)  # what waits for ever ends
                time.sleep(0.2 * (number * 2 % 3))
                self.program(grid, number, args, named)
                code = 0
            finally:
                os._exit(code)
        assert [os.waitpid(process, 0)[1] for process in processes] == [0] * self.programs

    def program(self, grid, number, args, named) -> None:
        builder: Any = importlib.import_module("triton.runtime.interpreter").interpreter_builder
        dim, at = builder.set_grid_dim, builder.set_grid_idx
        builder.set_grid_dim = lambda *_: dim(grid[0], grid[1], 1)
        builder.set_grid_idx = lambda *_: at(number % grid[0], number // grid[0], 0)
        self.kernel[1, 1](*args, **named)


@pytest.mark.parametrize(
    "cover, entropy, first, holds",
    [(0.0, 1.0, 0, 1024), (1.0, 1.0, 3, 1024), (1.0, 1.0, 0, 30), (1.0, 0.0, 0, 1024)],
)
def test_programs_that_wait_for_each_other(monkeypatch, cover, entropy, first, holds):
    blocks, common = (importlib.import_module(f"lib.kernels.{n}") for n in ("blocks", "common"))
    kernel = AtOnce(blocks._resident_kernel)
    monkeypatch.setattr(common, "_room", lambda *_: 6)
    patches = {"_resident_kernel": kernel, "_ROWS": 16, "_PICKS": (4, 4), "_TILE": 16}
    for name, value in {**patches, "_HOLDS": holds, "_AT_ONCE": 16, "_COLS": 8}.items():
        monkeypatch.setattr(blocks, name, value)
    # the programs of two items are at work, and one of the items is followed by a third
    tokens = make("gaussian", 40, items=3)
    weights = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))

    def order():
        worth = Worth(cover=cover, entropy=entropy)
        return weighted(tokens, 18, weights, worth=worth, first=first)

    assert torch.equal(order(), plainly(order)) and kernel.programs == 6


@pytest.mark.parametrize("room", [3, 6])  # one item after the other, two at once
def test_determinants_by_programs_that_wait_for_each_other(monkeypatch, room):
    volume, common = (importlib.import_module(f"lib.kernels.{n}") for n in ("volume", "common"))
    kernel = AtOnce(volume._volume_kernel)
    monkeypatch.setattr(common, "_room", lambda *_: room)
    for name, value in {"_volume_kernel": kernel, "_ROWS": (16,), "_AT_ONCE": 128}.items():
        monkeypatch.setattr(volume, name, value)
    tokens = make("gaussian", 40, items=3)
    quality = torch.rand(3, 40, generator=torch.Generator().manual_seed(1))

    def order():
        return conditional_dpp(tokens, quality, 20)

    assert torch.equal(order(), plainly(order)) and kernel.programs == room


@pytest.mark.parametrize("room", [9, 6, 2])  # three programs an item, two, one that takes turns
def test_programs_that_meet(monkeypatch, room):
    lloyd, common = (importlib.import_module(f"lib.kernels.{n}") for n in ("lloyd", "common"))
    kernel = AtOnce(lloyd._lloyd_kernel)
    for name, value in {"_lloyd_kernel": kernel, "_ROWS": 16}.items():
        monkeypatch.setattr(lloyd, name, value)
    monkeypatch.setattr(common, "_room", lambda *_: room)
    # seven clusters are empty at first: without one of the meetings the labels are others
    generator = torch.Generator().manual_seed(3)
    matrix = gram(torch.randn(3, 40, 16, generator=generator))
    labels = torch.randint(0, 4, (3, 40), generator=generator) * 2
    keys = torch.empty(3, 2, 40, dtype=torch.int32)
    keys[:, 0] = labels
    options = {"n_iter": 7, "unit": True}
    found, *_ = lloyd.lloyd(matrix, matrix, keys, 11, refill_every=5, **options)
    assert torch.equal(found, reference.lloyd(matrix.double(), labels, 11, **options))
    assert kernel.programs == room
