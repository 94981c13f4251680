"""Every kernel is compiled, without a GPU, for several of them, and fits into their memory."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from lib.clustering.seeding import uniforms

HAS_TRITON = importlib.util.find_spec("triton") is not None
MODULES = [path.stem for path in (Path(__file__).parents[2] / "lib" / "kernels").glob("*.py")]
MODULES.remove("__init__")
KINDS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
}


class Recorder:
    """Stands for a kernel, and notes what it is launched with instead of running it."""

    def __init__(self, kernel, launches: dict) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return self.note

    def note(self, *args, num_warps=4, maxnreg=None, **named) -> None:
        names = self.kernel.arg_names
        given = dict(zip(names, args)) | named
        constants = {p.name: given[p.name] for p in self.kernel.params if p.is_constexpr}
        general = {p.name for p in self.kernel.params if p.do_not_specialize}
        signature, aligned = {}, []
        for index, name in enumerate(names):
            value = given[name]
            if name in constants:
                signature[name] = "constexpr"
                continue
            tensor = isinstance(value, torch.Tensor)
            plain = "fp32" if isinstance(value, float) else "i32"
            signature[name] = "*" + KINDS[value.dtype] if tensor else plain
            if tensor or (isinstance(value, int) and value % 16 == 0 and name not in general):
                aligned.append(index)
        key = (self.kernel.__name__, tuple(signature.items()), tuple(constants.items()))
        self.launches[*key, tuple(aligned), num_warps, maxnreg] = self.kernel


def launched(monkeypatch, *, overlap: bool) -> dict:
    """Every kernel with the arguments of LLaVA-1.5's images: 576 tokens, half of them kept.

    overlap: launches start while the one before ends, as on Hopper.
    """
    kernels = importlib.import_module("lib.kernels.operations")
    modules = [importlib.import_module(f"lib.kernels.{name}") for name in MODULES]
    monkeypatch.setattr(
        importlib.import_module("lib.kernels.greedy"), "_overlap", lambda _: overlap
    )
    common = importlib.import_module("lib.kernels.common")
    launches: dict = {}
    every = set()
    for module in modules:
        for name, kernel in vars(module).copy().items():
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Recorder(kernel, launches))
                every.add(name)
    monkeypatch.setattr(common, "_room", lambda *_: 264)  # greedy choices in blocks of picks
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tokens = torch.zeros(2, 576, 1024, dtype=dtype)
        for raw in (False, True):
            kernels.gram(tokens, raw=raw)
    matrix, nodes = torch.zeros(2, 576, 576), torch.ones(18)
    kernels.resolvent_diagonal(matrix, nodes)
    kernels.entropy_operator(matrix, nodes, nodes)
    for count in (1, 2, 3):
        kernels.rolled_diagonal(torch.zeros(count, 2, 144, 144), torch.zeros(2, 144, 144), 1.0)
    numbers = uniforms((0,), 144, torch.float64, matrix.device)
    for unit in (True, False):
        labels, counts, distances = kernels.kmeans(
            matrix, 144, numbers, n_iter=20, refill_every=5, unit=unit
        )
        kernels.centroid_gram(matrix, labels, 144)
        kernels.unit_centroids(torch.zeros(4, 2, 576, 576), labels, 144, mass=unit)
        # what needs most shared memory: rows that are not aligned, and as many clusters as can be
        kernels.kmeans(torch.zeros(1, 729, 729), 364, numbers, n_iter=2, refill_every=5, unit=unit)
        most = torch.zeros(1, 4096, 4096)
        kernels.kmeans(most, 4096, numbers, n_iter=2, refill_every=5, unit=unit)
    # as many tokens as k-means takes
    kernels.gram(torch.zeros(1, 16384, 1024, dtype=torch.bfloat16), raw=True)
    many = torch.empty(1, 16384, 16384)
    kernels.kmeans(many, 144, numbers, n_iter=2, refill_every=5, unit=False)
    for budget in (288, None):
        kernels.choose(torch.zeros(2, 144), counts, labels, distances, cores=72, per_cluster=4,
                       budget=budget)  # fmt: skip
    gains, eight, many = torch.zeros(2, 576), torch.ones(8), torch.ones(24)
    table, wide = torch.zeros(2, 576, 640), torch.zeros(2, 576, 1040)
    kernels.forward(gains, 20, spectral=(matrix, eight, eight), cover=(matrix, gains))
    kernels.forward(gains, 20, spectral=(matrix, many, many))
    kernels.forward(gains, 2, cover=(table, None))
    kernels.forward(gains, 2, spectral=(matrix, eight, eight), cover=(wide, None))
    kernels.forward(torch.zeros(1, 4096), 2, cover=(torch.zeros(1, 4096, 4200), None))
    kernels.volume(matrix.double(), gains.double(), 2)
    kernels.volume(torch.zeros(1, 4096, 4096, dtype=torch.float64), gains.double(), 2)
    kernels.forward(gains, 300, spectral=(matrix, eight[:1], eight[:1]))
    monkeypatch.setattr(common, "_room", lambda *_: 40)  # narrower programs, for many items
    kernels.forward(gains, 20, spectral=(matrix, eight, eight), cover=(matrix, gains))
    kernels.forward(gains, 20, spectral=(matrix, torch.ones(16), torch.ones(16)))
    monkeypatch.setattr(common, "_room", lambda *_: 0)  # pick by pick
    kernels.forward(gains, 2, spectral=(matrix, eight, eight), cover=(table, None))
    kernels.forward(gains, 2, spectral=(matrix, many, many))
    kernels.forward(gains, 2, cover=(wide, None))
    kernels.forward(torch.zeros(1, 4096), 2, cover=(torch.zeros(1, 4096, 4200), None))
    kernels.farthest(matrix, gains, 2)
    assert {key[0] for key in launches} == every
    return launches


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton: pip install triton")
@pytest.mark.parametrize("capability, shared_kib", [(86, 99), (90, 227)])
def test_the_kernels_compile_and_fit(monkeypatch, tmp_path, capability, shared_kib):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lib.kernels import blocks, lloyd, volume

    for (name, signature, constants, aligned, warps, registers), kernel in launched(
        monkeypatch, overlap=capability >= 90
    ).items():
        source = ASTSource(
            fn=kernel,
            signature=dict(signature),
            constexprs={(kernel.arg_names.index(key),): value for key, value in constants},
            attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
        )
        target = GPUTarget("cuda", capability, 32)
        options = {"num_warps": warps} | ({"maxnreg": registers} if registers else {})
        compiled = triton.compile(source, target=target, options=options)
        # copies made ahead go through a core's own cache, which does not see what others write
        copies = [line for line in compiled.asm["ttgir"].splitlines() if "async_copy_" in line]
        assert not [line for line in copies if "isVolatile" in line], name
        if name == "_resident_kernel":  # a warp works alone between picks: its sums are its own
            assert compiled.asm["ptx"].count("bar.sync") < 30, constants
            # four numbers at once of what all programs look at
            assert "ld.volatile.global.b32" not in compiled.asm["ptx"], constants
        needed = {"_lloyd_kernel": lloyd._SHARED, "_resident_kernel": blocks._SHARED,
                  "_volume_kernel": volume._SHARED}  # fmt: skip
        assert compiled.metadata.shared <= needed.get(name, 1024 * shared_kib), name
