"""The kernels and captured graphs compute what the plain code computes.

What runs on a CPU: the mathematics of the restructured scores, the choice of route, and the cache
of graphs with a capture that only pretends. The kernels themselves need a GPU.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from lib.clustering import kmeans
from lib.entropy import entropy_operator, gram, leave_one_out, matrix_entropy
from lib.entropy.quadrature import blocks, fitted
from lib.kernels import Backend, backend_for, dispatch, use_kernels
from lib.pruning import EntropyPrune, SelectionPrune
from lib.pruning import entropy_prune as entropy_module
from lib.pruning.engine.graphs import Captured, GraphCache
from lib.selection import STRATEGIES, hierarchical, token_level

HAS_GPU = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device and Triton")

KINDS = ("gaussian", "biased", "themes", "duplicates", "low-rank")


def make(kind, size, width=256, *, items=1, seed=0):
    """Float64 tokens (items, size, width) of a kind."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    noise = normal(items, size, width)
    if kind == "biased":
        return noise + 3 * normal(items, 1, width)
    if kind == "duplicates":
        return noise[:, torch.randint(0, max(1, size // 4), (size,), generator=generator)]
    if kind == "low-rank":
        return noise[..., :20]
    if kind == "themes":
        member = torch.randint(0, 8, (size,), generator=generator)
        return normal(items, 8, width)[:, member] + torch.linspace(0.2, 1.5, size)[:, None] * noise
    return noise


# --- the mathematics, on a CPU --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 90])
def test_the_resolvents_diagonal_is_the_reference_integrand(kind, size):
    matrix = gram(make(kind, size)[0])
    scale = torch.linspace(0.5, 2, size, dtype=torch.float64).sqrt()
    matrix = matrix * scale.outer(scale)
    c = matrix.diagonal()
    for t, _, solved in blocks(matrix, 12, c):
        inverse = torch.linalg.inv(matrix + t[:, None, None] * torch.eye(size))
        shifted = c + t[:, None]
        reference = solved.square().sum(-2) / shifted
        ours = shifted * inverse.diagonal(dim1=-2, dim2=-1) - 1
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fitted_nodes_integrate_the_operator(kind):
    size = 90
    matrix = gram(make(kind, size)[0])
    t, weights = fitted(size, torch.float64, torch.device("cpu"))
    eye = torch.eye(size, dtype=torch.float64)
    between = (weights[:, None, None] * torch.linalg.inv(matrix + t[:, None, None] * eye)).sum(0)
    e = matrix - eye
    operator = (matrix * torch.log(torch.tensor(float(size))) - e - e @ between @ e) / size
    assert (operator - entropy_operator(matrix, gram=True)).abs().max() < 1e-4 / size


@pytest.mark.parametrize("size", [16, 32, 288, 576, 2304])
def test_the_fit_is_as_good_as_it_says(size):
    t, weights = fitted(size, torch.float64, torch.device("cpu"))
    x = torch.cat([torch.linspace(1e-9, size, 4001), torch.logspace(-9, 0, 500)]).double()
    x = x.clamp_max(size)
    value = torch.special.xlogy(x, x) - x + 1
    fit = (x - 1).square() * (weights / (x[:, None] + t)).sum(-1)
    assert ((fit - value).abs() / (1 + torch.special.xlogy(x, x).abs())).max() < 1e-4


# --- the route ------------------------------------------------------------------------------------


def test_a_cpu_tensor_takes_the_plain_route():
    assert not backend_for(torch.eye(32))


def test_the_switch_holds_for_its_block_only(monkeypatch):
    kernels = SimpleNamespace()
    monkeypatch.setattr(dispatch, "_devices", ("cpu",))
    monkeypatch.setattr(dispatch, "_operations", lambda: kernels)
    assert backend_for(torch.eye(32)).kernels is kernels
    with use_kernels(False):
        assert not backend_for(torch.eye(32))
        with use_kernels(True):
            assert backend_for(torch.eye(32)).kernels is kernels
    assert backend_for(torch.eye(32)) == Backend(kernels)


UNSUITABLE = {
    "float64": torch.eye(32).double(),
    "few rows": torch.eye(15),
    "many rows": torch.ones(4097, 2),
    "no rows": torch.ones(0, 32, 4),
    "one dimension": torch.ones(32),
    "integers": torch.ones(32, 4, dtype=torch.int64),
    "no tensor": [[1.0]],
    "another device": torch.empty(32, 4, device="meta"),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_the_kernels_do_not_serve(monkeypatch, name):
    monkeypatch.setattr(dispatch, "_devices", ("cpu",))
    monkeypatch.setattr(dispatch, "_operations", SimpleNamespace)
    assert backend_for(torch.eye(16)) and backend_for(torch.ones(4096, 2))
    assert not backend_for(UNSUITABLE[name])
    assert not backend_for(torch.eye(32), UNSUITABLE[name])  # the kernels serve all or none


def test_gradients_go_the_plain_way(monkeypatch):
    monkeypatch.setattr(dispatch, "_devices", ("cpu",))
    monkeypatch.setattr(dispatch, "_operations", SimpleNamespace)
    tokens = torch.eye(32).requires_grad_()
    assert not backend_for(tokens)
    with torch.no_grad():
        assert backend_for(tokens)


def test_a_backend_serves_other_sizes_of_its_call_or_not():
    backend = Backend(SimpleNamespace())
    assert [bool(backend.of_size(n)) for n in (15, 16, 4096, 4097)] == [False, True, True, False]
    assert not Backend().of_size(64)


# --- the cache of graphs --------------------------------------------------------------------------


class Graph:
    def __init__(self, run):
        self.replays = 0
        self.run = run

    def replay(self):
        self.replays += 1
        self.run()


def pretend(function, tensors, pool):
    """A capture that reruns the function on its static input, as a graph does."""
    inputs = [tensor.clone() for tensor in tensors]
    output = function(inputs)
    return Captured(Graph(lambda: output.copy_(function(inputs))), inputs, output)


@pytest.fixture
def cache(monkeypatch):
    monkeypatch.setattr(GraphCache, "_suits", staticmethod(lambda tensors: True))
    monkeypatch.setattr(GraphCache, "_pool", lambda self, device: None)
    return GraphCache(size=2, capture=pretend)


def double(tensors):
    return tensors[0] * 2


def test_the_first_call_is_plain_the_second_captures_and_later_ones_replay(cache):
    for step in range(5):
        tensor = torch.full((3,), float(step))
        assert torch.equal(cache("key", double, [tensor]), tensor * 2)
        assert len(cache) == (step > 0)
    graph = next(iter(cache._graphs.values())).graph
    assert graph.replays == 4


def test_a_result_outlives_the_next_call(cache):
    results = [cache("key", double, [torch.full((3,), float(step))]) for step in range(4)]
    assert [result[0].item() for result in results] == [0, 2, 4, 6]


def test_shapes_types_and_keys_have_their_own_graphs_and_few_are_kept(cache):
    calls = [("a", torch.ones(2)), ("a", torch.ones(3)), ("b", torch.ones(3).double())]
    for _ in range(3):
        for key, tensor in calls:
            assert torch.equal(cache(key, double, [tensor]), tensor * 2)
    assert len(cache) == 2
    cache.clear()
    assert len(cache) == 0


def test_what_cannot_be_captured_runs_plainly(monkeypatch, cache):
    tries = []

    def fail(function, tensors, pool):
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    cache._capture = fail
    for step in range(4):
        assert cache("key", double, [torch.full((1,), float(step))]).item() == 2 * step
    assert len(tries) == 1 and len(cache) == 0


def test_the_cache_can_be_switched_off(cache):
    cache.enabled = False
    for _ in range(3):
        cache("key", double, [torch.ones(1)])
    assert len(cache) == 0


def test_tensors_off_the_gpu_and_those_with_gradients_are_left_alone():
    assert not GraphCache._suits([torch.ones(2)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"count": "adaptive"},
        {"level": "token"},
        {"rollout": "scores"},
        {"weighting": "mass"},
        {"random_state": 3},
        {"keep": 0.25},
        {"n_clusters": 6, "core_clusters": 3, "tokens_per_cluster": 1},
    ],
)
def test_every_option_of_the_scorer_is_part_of_its_key(monkeypatch, cache, options):
    monkeypatch.setattr(entropy_module, "graphs", cache)
    cache.size = 8
    states = [make("themes", 40, items=2, seed=seed).float() for seed in range(2)]
    default, other = EntropyPrune(), EntropyPrune(**options)
    for _ in range(3):
        for pruner in (default, other):
            plain = pruner._select(states)
            assert torch.equal(pruner.rank(states), plain)
    assert len(cache) == (2 if options else 1)


# --- on a GPU -------------------------------------------------------------------------------------


def plainly(function):
    with use_kernels(False):
        return function()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size, width", [(16, 8), (70, 100), (576, 1024)])
def test_gram_on_a_gpu(dtype, size, width):
    tokens = make("biased", size, width, items=2).to("cuda", dtype)
    ours = gram(tokens)
    assert (ours - gram(tokens.double())).abs().max() < 1e-5
    assert torch.equal(ours, ours.mT) and bool((ours.diagonal(dim1=-2, dim2=-1) == 1).all())
    if dtype != torch.float16:
        for scale in (2.0**-90, 2.0**90):
            assert torch.equal(gram(tokens * scale), ours)


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 64, 100, 576])
def test_scores_and_operator_on_a_gpu(kind, size):
    exact = gram(make(kind, size)).cuda()
    matrix = exact.float()
    scores = leave_one_out(matrix, gram=True)
    reference = leave_one_out(exact, gram=True, solver="eigh")
    assert (scores - reference).abs().max() < 5e-5 / size
    operator = entropy_operator(matrix, gram=True)
    reference = entropy_operator(exact, gram=True, solver="eigh")
    assert (operator - reference).abs().max() < 2e-4 / size


@needs_gpu
def test_any_diagonal_on_a_gpu():
    weights = torch.linspace(0, 3, 80, dtype=torch.float64)
    exact = (gram(make("themes", 80)[0]) * weights.outer(weights)).cuda()
    scores = leave_one_out(exact.float(), gram=True)
    reference = leave_one_out(exact, gram=True, solver="eigh")
    assert (scores - reference).abs().max() < 1e-4 / 80
    assert scores[0] == 0


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size, clusters", [(40, 1), (100, 40), (576, 32), (576, 288)])
def test_kmeans_on_a_gpu(kind, size, clusters):
    tokens = make(kind, size, items=3).float().cuda()
    ours = kmeans(tokens, clusters)
    # From the same Gram matrix: another rounding may draw another centre.
    plain = kmeans(gram(tokens), clusters, gram=True)
    assert bool((ours.counts.sum(-1) == size).all())
    assert torch.equal(ours.counts > 0, plain.counts > 0)
    torch.testing.assert_close(ours.inertia, plain.inertia, rtol=2e-3, atol=1e-3)
    assert (ours.labels == plain.labels).float().mean() > 0.99
    single = kmeans(tokens[1], clusters)
    assert all(torch.equal(a[1], b) for a, b in zip(ours, single))


@needs_gpu
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("budget", ["adaptive", 100])
@pytest.mark.parametrize("weighting", ["unit", "mass", "token-sum"])
def test_algorithm_1_on_a_gpu(layers, budget, weighting):
    views = [make("themes", 200, items=2, seed=s).to("cuda", torch.bfloat16) for s in range(layers)]
    options = {"layers": views, "budget": budget, "weighting": weighting}
    ours = hierarchical(None, 100, 50, 2, **options)
    plain = plainly(lambda: hierarchical(None, 100, 50, 2, **options))
    assert (ours.mask != plain.mask).sum() <= 4  # a swap where two scores nearly tie
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)
    if budget != "adaptive":
        assert bool((ours.mask.sum(-1) == budget).all())
    single = hierarchical(None, 100, 50, 2, **options | {"layers": [v[1] for v in views]})
    assert torch.equal(single.mask, ours.mask[1])


@needs_gpu
def test_token_level_on_a_gpu():
    views = [make("themes", 200, items=2, seed=s).float().cuda() for s in range(3)]
    for layers in (views, views[:1]):
        ours = token_level(None, 100, layers=layers)
        with use_kernels(False):
            plain = token_level(None, 100, layers=layers)
        assert (ours != plain).sum() <= 4


@needs_gpu
@pytest.mark.parametrize("strategy", ["adaptive", "greedy", "dpp"])
@pytest.mark.parametrize("kind", ["gaussian", "biased", "themes"])
@pytest.mark.parametrize("size, k", [(70, 70), (100, 40), (576, 144)])
def test_greedy_selection_on_a_gpu(strategy, kind, size, k):
    tokens = make(kind, size, items=3).float().cuda()
    ours = STRATEGIES[strategy](tokens, k)
    plain = plainly(lambda: STRATEGIES[strategy](tokens, k))
    assert bool((ours.sum(-1) == k).all())
    assert (ours != plain).float().mean() < 0.02  # swaps where two gains nearly tie
    matrix = gram(tokens)
    for ours_, plain_, kept in zip(ours, plain, matrix):
        values = [matrix_entropy(kept[m][:, m], gram=True) for m in (ours_, plain_)]
        assert (values[0] - values[1]).abs() < 1e-3
    assert torch.equal(STRATEGIES[strategy](tokens[1], k), ours[1])


@needs_gpu
def test_greedy_selection_of_copies_on_a_gpu():
    # eight distinct tokens: what follows the eighth pick is as good as any other
    tokens = torch.eye(8).repeat(5, 1).cuda()
    for strategy in ("adaptive", "greedy", "dpp"):
        mask = STRATEGIES[strategy](tokens, 8)
        assert sorted((mask.nonzero().squeeze(1) % 8).tolist()) == list(range(8)), strategy


@needs_gpu
def test_nothing_waits_for_the_host():
    views = [make("themes", 200, seed=s).float().cuda() for s in range(2)]
    calls = (
        lambda: hierarchical(None, 32, 16, 2, layers=views, budget=50, check=False),
        lambda: token_level(None, 50, layers=views, check=False),
        lambda: leave_one_out(views[0], check=False),
        lambda: STRATEGIES["adaptive"](views[0], 50, check=False),
    )
    for call in calls:
        call()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("inference", [False, True])
def test_captured_graphs_on_a_gpu(monkeypatch, inference):
    cache = GraphCache()
    monkeypatch.setattr(entropy_module, "graphs", cache)
    pruner = EntropyPrune(n_clusters=32, core_clusters=16)
    for step in range(5):
        with torch.inference_mode(inference != (step == 3)):  # once the other way round
            states = [make("themes", 200, items=2, seed=9 * step + s).cuda().half() for s in (0, 1)]
            plain = pruner._select(states)
            assert torch.equal(pruner.rank(states), plain)
    assert len(cache) == 1
    small = [state[:1] for state in states]
    assert torch.equal(pruner.rank(small), pruner._select(small))


@needs_gpu
@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES)))
def test_every_strategy_can_be_captured(strategy):
    pruner = SelectionPrune(strategy=strategy, keep=0.1)
    cache = GraphCache()
    for step in range(4):
        states = [make("themes", 120, items=2, seed=step).float().cuda()]
        assert torch.equal(cache(strategy, pruner._select, states), pruner._select(states))
    assert len(cache) == 1
