"""The kernels themselves, without a GPU: compiled for several, and run by Triton's interpreter.

The interpreter must be chosen before the kernels are imported, so one test runs this file in a
process of its own; there the others compare every kernel with the plain code.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.clustering import centroid_gram, kmeans
from lib.clustering.kmeans import clusters_of
from lib.clustering.lloyd import refilled
from lib.clustering.seeding import uniforms
from lib.entropy import entropy_operator, gram, leave_one_out
from lib.kernels import backend_for, dispatch, use_kernels
from lib.selection import (
    STRATEGIES,
    Worth,
    conditional_dpp,
    facility_location,
    farthest_points,
    hierarchical,
    token_level,
    weighted,
)

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None
interpreted = pytest.mark.skipif(not INSIDE, reason="runs in the process of the first test")


@pytest.mark.skipif(INSIDE, reason="this is that process")
@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton: pip install triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them: test_on_a_gpu.py")
def test_the_kernels_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {k: v for k, v in environment.items() if not k.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr  # every failure, each with its report
    assert re.search(r"^\d+ passed", done.stdout.splitlines()[-1]), done.stdout


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

    def note(self, *args, num_warps=4, **named) -> None:
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
            signature[name] = "*" + KINDS[value.dtype] if tensor else "i32"
            if tensor or (value % 16 == 0 and name not in general):
                aligned.append(index)
        key = (self.kernel.__name__, tuple(signature.items()), tuple(constants.items()))
        self.launches[*key, tuple(aligned), num_warps] = self.kernel


def launched(monkeypatch, *, overlap: bool) -> dict:
    """Every kernel with the arguments of LLaVA-1.5's images: 576 tokens, half of them kept.

    overlap: launches start while the one before ends, as on Hopper.
    """
    kernels = importlib.import_module("lib.kernels.operations")
    modules = [importlib.import_module(f"lib.kernels.{name}") for name in MODULES]
    monkeypatch.setattr(
        importlib.import_module("lib.kernels.greedy"), "_overlap", lambda _: overlap
    )
    launches: dict = {}
    every = set()
    for module in modules:
        for name, kernel in vars(module).copy().items():
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Recorder(kernel, launches))
                every.add(name)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tokens = torch.zeros(2, 576, 1024, dtype=dtype)
        kernels.stretched(kernels.gram(tokens), tokens)
    matrix, nodes = torch.zeros(2, 576, 576), torch.ones(18)
    kernels.resolvent_diagonal(matrix, nodes)
    kernels.resolvent_sum(matrix, nodes, nodes)
    numbers = uniforms((0,), 144, torch.float64, matrix.device)
    for unit in (True, False):
        labels, counts, distances = kernels.kmeans(
            matrix, 144, numbers, n_iter=20, refill_every=5, unit=unit
        )
        kernels.centroid_gram(matrix, labels, 144, unit=unit)
    for budget in (288, None):
        kernels.choose(torch.zeros(2, 144), counts, labels, distances, cores=72, per_cluster=4,
                       budget=budget)  # fmt: skip
    gains, eight, many = torch.zeros(2, 576), torch.ones(8), torch.ones(24)
    kernels.forward(gains, 2, spectral=(matrix, eight, eight), cover=(matrix, gains))
    kernels.forward(gains, 2, spectral=(matrix, many, many))
    table = torch.zeros(2, 576, 640)
    kernels.forward(gains, 2, cover=(table, None))
    kernels.forward(gains, 2, spectral=(matrix, eight, eight), cover=(table, None))
    kernels.forward(torch.zeros(1, 4096), 2, cover=(torch.zeros(1, 4096, 4200), None))
    kernels.farthest(matrix, gains, 2)
    kernels.volume(matrix.double(), gains.double(), 2)
    assert {key[0] for key in launches} == every
    return launches


@pytest.mark.skipif(INSIDE, reason="the interpreter compiles nothing")
@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton: pip install triton")
@pytest.mark.parametrize("capability, shared_kib", [(86, 99), (90, 227)])
def test_the_kernels_compile_and_fit(monkeypatch, tmp_path, capability, shared_kib):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for (name, signature, constants, aligned, warps), kernel in launched(
        monkeypatch, overlap=capability >= 90
    ).items():
        source = ASTSource(
            fn=kernel,
            signature=dict(signature),
            constexprs={(kernel.arg_names.index(key),): value for key, value in constants},
            attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
        )
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": warps})
        assert compiled.metadata.shared <= 1024 * shared_kib, name


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    if not INSIDE:
        return
    import triton.language as tl

    from lib.kernels import common, operations

    monkeypatch.setattr(dispatch, "_devices", ("cuda", "cpu"))
    # the interpreter multiplies no bfloat16; what stands in for it holds more digits, not fewer
    monkeypatch.setattr(common, "_PART", tl.constexpr(tl.float32))
    assert backend_for(torch.zeros(1, 16, 8)).kernels is operations


def make(kind: str, size: int, *, items: int = 2, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    noise = torch.randn(items, size, width, generator=generator)
    if kind == "duplicates":
        return noise[:, torch.randint(0, size // 4, (size,), generator=generator)]
    if kind == "themes":
        member = torch.randint(0, 8, (size,), generator=generator)
        centres = torch.randn(items, 8, width, generator=generator)
        return centres[:, member] + torch.linspace(0.2, 1.5, size)[:, None] * noise
    return noise


def plainly(function):
    with use_kernels(False):
        return function()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gram(dtype):
    tokens = make("themes", 70, width=100).to(dtype)
    exact = gram(tokens.double())
    ours = gram(tokens)
    assert (ours - exact).abs().max() < 1e-5 and torch.equal(ours, ours.mT)


@interpreted
@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_gram_of_tokens_as_they_are(scale):
    from lib.kernels import operations

    tokens = make("themes", 40) * torch.linspace(0.1, 10, 40)[:, None]
    tokens[:, 3] = 0
    rows = tokens.double()
    exact = rows @ rows.mT
    exact /= exact.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    given = tokens * scale
    ours = operations.stretched(operations.gram(given), given)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
    zero = torch.zeros(1, 16, 4)
    assert not operations.stretched(operations.gram(zero), zero).any()


@interpreted
@pytest.mark.parametrize("size", [40, 130])
def test_scores_and_operator(size):
    matrix = gram(make("themes", size, items=1).double())
    scores = leave_one_out(matrix.float(), gram=True, solver="cholesky")
    exact = leave_one_out(matrix, gram=True, solver="eigh")
    assert (scores - exact).abs().max() < 5e-5 / size
    exact = entropy_operator(matrix, gram=True, solver="eigh")
    for nodes in (None, 24) if size == 40 else (None,):  # fitted, or by the rule
        operator = entropy_operator(matrix.float(), gram=True, solver="cholesky", nodes=nodes)
        assert (operator - exact).abs().max() < 2e-4 / size


@interpreted
def test_nearly_equal_tokens_are_survived():
    # copies whose cosines exceed one by rounding: the smallest eigenvalue is negative
    matrix = torch.full((64, 64), 1 + 1e-5)
    matrix.diagonal().fill_(1)
    scores = leave_one_out(matrix, gram=True, solver="cholesky")
    assert scores.abs().max() < 1e-5


@interpreted
def test_no_pivot_falls_below_the_node():
    from lib.kernels import resolvent as module

    # The second pivot of I + X would be 1 - 1.5²; the least that K + t allows is t / (c + t).
    y = torch.zeros(1, 64, 64)
    y[0, 1, 0] = y[0, 0, 1] = 1.5
    m, mt = torch.zeros(2, 1, 64, 64)
    c, t = torch.ones(1, 64), torch.tensor([0.01])
    module._pivot_kernel[(1,)](y, m, mt, c, t, 64, 64, 1, 0, HALF=32)
    wanted = torch.ones(64)
    wanted[1] = (0.01 / 1.01) ** -0.5
    torch.testing.assert_close(m[0].diagonal(), wanted)
    assert torch.equal(mt[0], m[0].mT)


def signs(size: int, width: int = 64, items: int = 2) -> torch.Tensor:
    """Tokens of plus and minus one: in powers of two every product and sum is exact."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 2, (items, size, width), generator=generator) * 2.0 - 1


@interpreted
@pytest.mark.parametrize("width", [4, 16, 64])
@pytest.mark.parametrize("size, clusters", [(33, 20), (70, 16)])
def test_kmeans_of_exact_distances_and_many_ties(width, size, clusters):
    tokens = signs(size, width)
    ours = kmeans(tokens, clusters)
    plain = plainly(lambda: kmeans(tokens, clusters))
    assert torch.equal(ours.labels, plain.labels) and torch.equal(ours.counts, plain.counts)
    assert (ours.centroid_gram - plain.centroid_gram).abs().max() < 1e-5
    assert (ours.distances - plain.distances).abs().max() < 1e-5


@interpreted
@pytest.mark.parametrize("kind", ["gaussian", "themes", "duplicates"])
@pytest.mark.parametrize("size, clusters", [(33, 20), (70, 16)])
def test_kmeans(kind, size, clusters):
    tokens = make(kind, size)
    ours = kmeans(tokens, clusters)
    plain = plainly(lambda: kmeans(tokens, clusters))
    # the kernels draw on a coarser grid: where a draw nearly hits a boundary, another centre
    torch.testing.assert_close(ours.inertia, plain.inertia, rtol=0.1, atol=1e-4)
    own = centroid_gram(tokens, ours.labels, clusters)
    assert (ours.centroid_gram - own).abs().max() < 1e-5
    assert torch.equal(ours.counts, torch.stack([x.bincount(minlength=clusters) for x in ours[0]]))


def of_mean_one(tokens: torch.Tensor) -> torch.Tensor:
    """Float64 Gram matrices of tokens as they are, with a diagonal of mean one."""
    matrix = tokens.double() @ tokens.double().mT
    return matrix / matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]


@interpreted
@pytest.mark.parametrize("size, clusters", [(32, 20), (70, 16)])
def test_kmeans_of_tokens_as_they_are_and_many_ties(size, clusters):
    # squared lengths 4 and 12, of mean 8: every product, sum and distance is exact
    tokens = signs(size, 4)
    tokens[:, ::2, 0] *= 3
    matrix = of_mean_one(tokens)
    options = {"random_state": 0, "n_iter": 20, "unit": False}
    ours = clusters_of(matrix.float(), clusters, backend=backend_for(matrix.float()), **options)
    plain = clusters_of(matrix, clusters, **options)
    assert torch.equal(ours.labels, plain.labels) and torch.equal(ours.counts, plain.counts)
    assert (ours.distances - plain.distances).abs().max() < 1e-5


@interpreted
@pytest.mark.parametrize("longest", [1, 40, 1000])
@pytest.mark.parametrize("kind", ["gaussian", "themes", "duplicates"])
def test_kmeans_of_tokens_as_they_are(kind, longest):
    # one token outweighs the others; two copies of it stay together whatever their products err
    tokens = make(kind, 70)
    tokens *= torch.linspace(0.5, 2, 70)[:, None]
    tokens[:, 7] *= longest
    tokens[:, 60] = tokens[:, 7]
    matrix = of_mean_one(tokens)
    options = {"random_state": 0, "n_iter": 20, "unit": False}
    ours = clusters_of(matrix.float(), 16, backend=backend_for(matrix.float()), **options)
    plain = clusters_of(matrix, 16, **options)
    if longest < 1000:  # else the others differ by less than the grid
        assert torch.equal(ours.labels, plain.labels)
    assert torch.equal(ours.labels[:, 7], ours.labels[:, 60])
    assert torch.equal(ours.counts, torch.stack([x.bincount(minlength=16) for x in ours.labels]))
    assert (ours.distances.sum(-1) - plain.distances.sum(-1)).abs().max() < 1e-4 * 70


@interpreted
def test_an_empty_cluster_attracts_no_token():
    from lib.kernels import kmeans as module

    # A centroid of length 1/2, with four of its tokens farther from it than from the origin, where
    # the mean of an empty cluster would lie.
    tokens = torch.zeros(1, 32, 4)
    tokens[0, :12, 0], tokens[0, 12:16, 0], tokens[0, 16:, 1] = 1, -1, 1
    labels = torch.tensor([[0] * 16 + [1] * 16], dtype=torch.int32)
    matrix = gram(tokens)
    following, done = torch.empty_like(labels), torch.zeros(1, dtype=torch.int32)
    own = torch.empty(1, 32)
    module._own_kernel[(2, 1)](matrix, labels, following, own, done, 32, ROWS=16, COLS=128)
    module._assign_kernel[(1, 1, 1)](
        matrix, matrix, labels, following, own, done, 32, 3,
        UNIT=True, ROWS=64, COLS=16, DEPTH=128,
    )  # fmt: skip
    assert (following & 4095).tolist() == [[0] * 12 + [1] * 4 + [1] * 16]
    distances = (following >> 12).float() / 2**16
    assert distances.tolist() == [[0.25] * 12 + [2.0] * 4 + [0.0] * 16]


@interpreted
@pytest.mark.parametrize("seed", range(4))
def test_empty_clusters_get_the_farthest_spare_tokens(seed):
    from lib.kernels import kmeans as module

    size, clusters = 24, 7
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (1, size), generator=generator) * 2  # three clusters are empty
    labels[0, :4] = torch.tensor([0, 2, 4, 6])
    far = torch.randint(0, 6, (1, size), generator=generator)  # with ties and zeros
    following = (far.int() << 12) | labels.int()
    packed, done, missing = torch.zeros_like(following), torch.zeros(1).int(), torch.zeros(1).int()
    vacant = torch.empty(1, clusters, dtype=torch.int32)
    module._empty_kernel[(1,)](
        packed, following, done, missing, vacant, size, clusters, BLOCK=32, BINS=16
    )
    assert missing.item() == 3 and vacant[0, :3].tolist() == [1, 3, 5]
    grid = (2, 1)
    module._spare_kernel[grid](packed, following, missing, size, BLOCK=32, ROWS=16)
    module._move_kernel[grid](packed, following, missing, vacant, size, clusters, BLOCK=32, ROWS=16)
    counts = labels[0].bincount(minlength=clusters).unsqueeze(0)
    wanted = refilled(labels, far, counts)
    assert not torch.equal(wanted, labels)
    assert torch.equal(torch.where(wanted != labels, following, following & 4095), wanted)


@interpreted
@pytest.mark.parametrize("budget", ["adaptive", 20])
@pytest.mark.parametrize("weighting", ["unit", "mass", "token-sum"])
@pytest.mark.parametrize("cluster_on", ["raw", "unit"])
def test_algorithm_1(budget, weighting, cluster_on):
    lengths = torch.linspace(1, 3, 40)[:, None]
    layers = [lengths * make("themes", 40, width=32), make("themes", 40, width=32) / lengths]
    options = {"layers": layers, "budget": budget, "weighting": weighting}
    ours = hierarchical(None, 20, 10, 2, **options, cluster_on=cluster_on)
    plain = plainly(lambda: hierarchical(None, 20, 10, 2, **options, cluster_on=cluster_on))
    assert torch.equal(ours.mask, plain.mask)
    assert torch.equal(ours.core, plain.core)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)


@interpreted
def test_gram_matrices_of_any_scale():
    # what a caller gives as a Gram matrix may exceed the range of float16
    matrix = 1e6 * gram(make("themes", 40))
    ours = hierarchical(matrix, 12, 6, 2, gram=True)
    plain = plainly(lambda: hierarchical(matrix, 12, 6, 2, gram=True))
    assert torch.equal(ours.mask, plain.mask)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)


@interpreted
def test_token_level():
    layers = [make("themes", 40, width=width) for width in (32, 32)]
    ours = token_level(None, 20, layers=layers)
    assert torch.equal(ours, plainly(lambda: token_level(None, 20, layers=layers)))


@interpreted
@pytest.mark.parametrize("strategy", ["adaptive", "greedy", "dpp"])
@pytest.mark.parametrize("kind, size, k", [("gaussian", 24, 24), ("themes", 40, 15)])
def test_greedy_selection(strategy, kind, size, k):
    tokens = make(kind, size)
    ours = STRATEGIES[strategy](tokens, k)
    assert torch.equal(ours, plainly(lambda: STRATEGIES[strategy](tokens, k)))
    assert bool((ours.sum(-1) == k).all())


@interpreted
@pytest.mark.parametrize("kind, size, k", [("gaussian", 24, 24), ("themes", 40, 15)])
@pytest.mark.parametrize("items", [1, 3])
def test_rules_of_one_row_a_pick(kind, size, k, items):
    tokens = make(kind, size, items=items)
    quality = torch.rand(items, size, generator=torch.Generator().manual_seed(1))
    quality[:, 3] = 0  # nothing of it can be added
    for rule in (
        lambda: farthest_points(tokens, k),
        lambda: conditional_dpp(tokens, quality, k),
        lambda: facility_location(gram(tokens).softmax(-1), k),
        lambda: facility_location(gram(tokens)[:, :20], k, weights=quality),
        lambda: facility_location(gram(tokens).repeat(1, 3, 1), k),
    ):
        assert torch.equal(rule(), plainly(rule))


@interpreted
@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(
    "worth",
    [
        Worth(),
        Worth(cover=0.5, entropy=1.0),
        Worth(cover=0.0, entropy=1.0, relevance=0.3),
        Worth(cover=1.0, relevance=0.2),
        Worth(volume=0.5),
    ],
)
def test_weighted_choices(worth, first):
    tokens = make("themes", 40, items=2)
    weights = torch.rand(2, 40, generator=torch.Generator().manual_seed(1))

    def order():
        return weighted(tokens, 15, weights, worth=worth, first=first, priority=weights.flip(1))

    assert torch.equal(order(), plainly(order))


@interpreted
def test_a_wide_table_is_read_in_parts(monkeypatch):
    greedy = importlib.import_module("lib.kernels.greedy")
    tokens = make("themes", 40, items=2)
    whole = facility_location(gram(tokens), 15)
    monkeypatch.setattr(greedy, "_HELD", 64)
    assert torch.equal(facility_location(gram(tokens), 15), whole)


@interpreted
def test_empty_clusters_are_never_core():
    tokens = torch.eye(3).repeat(8, 1)
    ours = hierarchical(tokens, 6, 5, 2, cluster_on="unit")
    plain = plainly(lambda: hierarchical(tokens, 6, 5, 2, cluster_on="unit"))
    assert ours.core.sum() == 3 and torch.equal(ours.core, plain.core)
    assert torch.equal(ours.mask, plain.mask)


@interpreted
@pytest.mark.parametrize("strategy", ["adaptive", "greedy", "dpp"])
def test_a_copy_is_another_token(strategy):
    # After eight distinct tokens every gain ties with that of a token already taken.
    tokens = torch.eye(8).repeat(3, 1)
    mask = STRATEGIES[strategy](tokens, 20)
    assert mask.sum() == 20
    assert STRATEGIES[strategy](tokens, 8).nonzero().flatten().tolist() == list(range(8))


@interpreted
def test_layers_of_several_widths_are_clustered_plainly_beside_the_kernels():
    layers = [make("themes", 40, width=w) * torch.linspace(1, 3, 40)[:, None] for w in (32, 48)]
    options = {"layers": layers, "cluster_on": "raw", "budget": 15}
    ours = hierarchical(None, 12, 6, 2, **options)
    plain = plainly(lambda: hierarchical(None, 12, 6, 2, **options))
    assert torch.equal(ours.labels, plain.labels) and torch.equal(ours.mask, plain.mask)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)
