"""Captured graphs: on a CPU the cache, with a capture that only pretends; on a GPU the graphs."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from lib.pruning import EntropyPrune, SelectionPrune
from lib.pruning import entropy_prune as entropy_module
from lib.pruning.engine.graphs import Captured, GraphCache, recording
from lib.selection import STRATEGIES
from tests.kernels.kinds import make, needs_gpu


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


class OnGpu:
    """What is asked of a tensor before it is captured."""

    def __init__(self, index=0, requires_grad=False):
        self.device, self.requires_grad = torch.device("cuda", index), requires_grad


def test_what_suits_a_capture_lies_on_one_gpu_and_needs_no_gradient(monkeypatch):
    suits = GraphCache._suits
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert suits([OnGpu(), OnGpu()])
    assert not suits([OnGpu(), OnGpu(1)]) and not suits([OnGpu(), torch.ones(1)])
    with torch.enable_grad():
        assert suits([OnGpu(), OnGpu()])
        assert not suits([OnGpu(), OnGpu(requires_grad=True)])
    with torch.no_grad():
        assert suits([OnGpu(requires_grad=True)])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not suits([OnGpu()])


def test_the_graphs_used_longest_ago_go_first(cache):
    def use(*keys):
        for key in keys:
            cache(key, double, [torch.ones(1)])

    use("a", "a", "b", "b", "a", "c", "c")  # b was used before a was
    assert [key for (key, _) in cache._graphs] == ["a", "c"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_that_fails_at_its_end_does_not_keep_its_stream(monkeypatch, fails):
    streams, asked = ["caller's"], []

    @contextmanager
    def captured(graph, stream, **options):
        asked.append((graph, options))
        streams.append(stream)
        yield
        if fails:  # before the caller's stream is put back, as PyTorch does
            raise RuntimeError("capture invalidated")
        streams.append("caller's")

    monkeypatch.setattr(torch.cuda, "graph", captured)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    raised = pytest.raises(RuntimeError, match="invalidated") if fails else nullcontext()
    with raised, recording("graph", "own", pool=7):
        assert streams[-1] == "own"
    assert streams[-1] == "caller's" and asked == [("graph", {"pool": 7})]


def test_a_key_is_remembered_until_many_others_came(cache):
    def graphs_after(others):
        cache.clear()
        for key in ("first", *range(others), "first"):
            cache(key, double, [torch.ones(1)])
        return len(cache)

    assert graphs_after(16 * cache.size - 1) == 1  # seen before: captured
    assert graphs_after(16 * cache.size) == 0  # forgotten: seen for the first time


def test_more_keys_than_there_is_room_for_mostly_run_plainly(cache):
    captures = []
    cache._capture = lambda *given: captures.append(1) or pretend(*given)
    for _ in range(40):
        for key in "abc":  # each takes the room of one that comes again
            assert cache(key, double, [torch.ones(1)]).item() == 2
    assert len(captures) == 6  # at the second call of each, and eight calls later


def test_replays_on_another_stream_wait_for_the_last_one(monkeypatch):
    class Stream:
        waited = ()

        def wait_stream(self, other):
            self.waited = (*self.waited, other)

    cache, first, second = GraphCache(), Stream(), Stream()
    for stream in (first, first, second, second, first):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device, now=stream: now)
        cache._follow(torch.device("cuda", 0))
    assert second.waited == (first,) and first.waited == (second,)
    cache._follow(torch.device("cuda", 1))  # whose graphs are others
    assert first.waited == (second,)


def test_eight_graphs_are_kept_unless_another_number_is_asked_for():
    assert GraphCache().size == 8 and GraphCache(3).size == 3


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


@needs_gpu
@pytest.mark.parametrize("inference", [False, True])
def test_captured_graphs_on_a_gpu(monkeypatch, inference):
    cache = GraphCache()
    monkeypatch.setattr(entropy_module, "graphs", cache)
    pruner = EntropyPrune(n_clusters=32, core_clusters=16, cluster_on="unit")
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
