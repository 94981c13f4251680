"""The tower as one graph: on a CPU with a capture that only pretends, on a GPU with real ones."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from lib.pruning import RandomPrune, create
from lib.pruning.engine import replayed
from lib.pruning.engine.graphs import Captured, GraphCache
from lib.pruning.engine.vision import record_of
from tests.kernels.kinds import needs_gpu
from tests.tiny import PATCH, SIDE, tiny_llava


class Graph:
    """Computes again what was computed when it was captured."""

    def __init__(self, again):
        self.again, self.replays = again, 0

    def replay(self):
        self.replays += 1
        self.again()


def pretend(function, tensors, pool):
    inputs = [tensor.clone() for tensor in tensors]
    left = function(inputs).clone()

    def again():
        for static, tensor in zip(left.tensors, function(inputs).tensors, strict=True):
            static.copy_(tensor)

    return Captured(Graph(again), inputs, left)


@pytest.fixture
def pretending(monkeypatch):
    """A cache of towers whose captures pretend."""
    monkeypatch.setattr(GraphCache, "_suits", staticmethod(lambda tensors: True))
    monkeypatch.setattr(GraphCache, "_pool", lambda self, device: None)
    monkeypatch.setattr(GraphCache, "_follow", lambda self, device: None)
    monkeypatch.setattr(replayed, "_on_gpu", lambda tensors: True)
    monkeypatch.setattr(replayed, "towers", GraphCache(size=2, capture=pretend))
    return replayed.towers


def features(model, pixels):
    with torch.no_grad():
        return model.get_image_features(pixel_values=pixels)


def pixels(seed, rows=1, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, SIDE * PATCH, SIDE * PATCH, generator=generator).to(device)


def assert_same(found, wanted):
    assert torch.equal(found.pooler_output[0], wanted.pooler_output[0])
    assert torch.equal(found.last_hidden_state, wanted.last_hidden_state)
    ours, plain = record_of(found), record_of(wanted)
    for name in ("hidden", "projections"):
        theirs = getattr(plain, name)
        assert theirs.keys() == getattr(ours, name).keys()
        assert all(torch.equal(getattr(ours, name)[key], theirs[key]) for key in theirs)


def plainly(model, pruner, given):
    with pytest.MonkeyPatch.context() as patch, pruner(model):
        patch.setattr(replayed.towers, "enabled", False)
        return features(model, given)


OPTIONS = {"fastv": {"layer": 2}, "selection": {"layer": 2}}


@pytest.mark.parametrize("method", ["entropy", "visionzip", "random", "fastv", "tome"])
def test_a_replayed_tower_says_what_a_plain_one_does(pretending, method):
    model, options = tiny_llava(), OPTIONS.get(method, {})
    with create(method, keep=0.5, **options)(model):
        found = [features(model, pixels(seed)) for seed in range(4)]
    (graph,) = [captured.graph for captured in pretending._graphs.values()]
    assert graph.replays == 3
    graph.again = lambda: None  # it would run with the hooks of another block
    with create(method, keep=0.5, **options)(model):  # it serves later blocks, too
        assert_same(features(model, pixels(3)), found[-1])
    assert graph.replays == 4
    for seed, one in enumerate(found):  # what a call leaves outlives the next
        assert_same(one, plainly(model, create(method, keep=0.5, **options), pixels(seed)))
    assert "forward" not in vars(model.model.vision_tower)


def graphs_after(pretending, model, *given, prune=None):
    """How many graphs there are after one block of calls with these pixels."""
    pretending.clear()
    with (prune or create("entropy"))(model) as pruner:
        for each in given:
            features(model, each(pruner) if callable(each) else each)
    return len(pretending)


def test_other_calls_have_other_graphs(pretending):
    model = tiny_llava()
    tower = model.model.vision_tower
    assert graphs_after(pretending, model, pixels(0), pixels(1)) == 1
    assert graphs_after(pretending, model, *[pixels(0), pixels(0, rows=2)] * 2) == 2

    def moved(_):
        weight = tower.post_layernorm.weight
        weight.data = weight.data.clone()
        return pixels(0)

    def attending(_):
        tower.config._attn_implementation = "eager"
        return pixels(0)

    for change in (moved, attending):
        assert graphs_after(pretending, model, pixels(0), change) == 0


def graphs_in_blocks(pretending, model, *pruners):
    found = []
    for pruner in pruners:
        with pruner(model):
            features(model, pixels(0))
        found.append(len(pretending))
    return found


def test_later_blocks_use_the_same_graphs(pretending):
    model = tiny_llava()
    options = [0.5, 0.25, 0.5, 0.25]
    pruners = [create("entropy", keep=keep) for keep in options]
    assert graphs_in_blocks(pretending, model, *pruners) == [0, 0, 1, 2]
    pretending.clear()  # neither looks into the tower
    pruners = [create("random"), create("fastv", layer=2)]
    assert graphs_in_blocks(pretending, model, *pruners) == [0, 1]
    pretending.clear()
    assert graphs_in_blocks(pretending, model, create("entropy")) == [0]
    model.model.vision_tower.encoder.layers[0].mlp.activation_fn = torch.nn.Tanh().eval()
    assert graphs_in_blocks(pretending, model, create("entropy")) == [0]


class Adapted(torch.nn.Linear):
    """A module of somebody else's."""


@dataclass(eq=False, kw_only=True)
class Counting(RandomPrune):
    """A method of somebody else's, with a hook in the tower."""

    calls = 0

    def attach(self, model):
        super().attach(model)
        self.hook(self.family.blocks()[0], self.count, before=True)

    def count(self, *_):
        self.calls += 1


def hooked(tower, block):
    return block.register_forward_hook(lambda *_: None).remove


def hooked_everywhere(tower, block):
    return register_module_forward_hook(lambda *_: None).remove


def replaced(tower, block):
    block.forward = block.forward
    return lambda: delattr(block, "forward")


def compiled(tower, block):
    block.compile(backend="eager")
    return lambda: setattr(block, "_compiled_call_impl", None)


def training(tower, block):
    block.train()
    return block.eval


def adapted(tower, block):
    old, block.mlp.fc1 = block.mlp.fc1, Adapted(32, 64).eval()
    return lambda: setattr(block.mlp, "fc1", old)


def with_many_numbers(tower, block):
    patch = pytest.MonkeyPatch()
    patch.setattr(replayed, "_REPLAYED", pixels(0).numel() - 1)
    return patch.undo


def under_autocast(tower, block):
    patch = pytest.MonkeyPatch()
    patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    return patch.undo


def in_a_mode(tower, block):
    mode = torch.device("cpu")
    mode.__enter__()
    return lambda: mode.__exit__(None, None, None)


@pytest.mark.parametrize("change", [
    hooked, hooked_everywhere, replaced, compiled, training, adapted, with_many_numbers,
    under_autocast, in_a_mode,
])  # fmt: skip
def test_where_it_might_change_something_the_tower_runs_plainly(pretending, change):
    model, given = tiny_llava(), [pixels(0)] * 3
    tower = model.model.vision_tower
    undo = change(tower, tower.encoder.layers[1])
    try:
        assert graphs_after(pretending, model, *given) == 0
    finally:
        undo()
    assert graphs_after(pretending, model, *given) == 1


def test_what_changes_inside_a_block_is_seen(pretending):
    model, given = tiny_llava(), [pixels(0)] * 2
    block = model.model.vision_tower.encoder.layers[1]

    def hook(pruner):
        pruner.hook(block, lambda *_: None, before=True)
        return pixels(0)

    def exchange(pruner):
        block.mlp.fc1 = torch.nn.Linear(32, 64).eval()
        return pixels(0)

    for change in (hook, exchange):
        assert graphs_after(pretending, model, change, *given) == 0
    counting = Counting()
    assert graphs_after(pretending, model, *given, prune=counting) == 0 and counting.calls == 2
    assert graphs_after(pretending, model, *given, prune=create("entropy", keep=1.0)) == 0
    assert graphs_after(pretending, model, *[given[0].mT.contiguous().mT] * 2) == 0
    assert graphs_after(pretending, model, *given) == 1


def test_gradients_reach_the_tower(pretending):
    model = tiny_llava()
    with create("entropy")(model), torch.enable_grad():
        for _ in range(3):
            model.get_image_features(pixel_values=pixels(0)).pooler_output[0].sum().backward()
    assert len(pretending) == 0
    assert model.model.vision_tower.encoder.layers[1].mlp.fc1.weight.grad is not None


@needs_gpu
@pytest.mark.parametrize("method", ["entropy", "visionzip", "random", "fastv", "tome", "selection"])
def test_on_a_gpu_a_replayed_tower_says_what_a_plain_one_does(monkeypatch, method):
    monkeypatch.setattr(replayed, "towers", GraphCache())
    model, options = tiny_llava().cuda(), OPTIONS.get(method, {})
    found = []
    for _ in range(2):
        with create(method, keep=0.5, **options)(model):
            found += [features(model, pixels(seed, device="cuda")) for seed in range(4)]
    assert len(replayed.towers) == 1
    for seed, one in zip([*range(4)] * 2, found):
        wanted = plainly(model, create(method, keep=0.5, **options), pixels(seed, device="cuda"))
        assert_same(one, wanted)
    with create(method, keep=0.5, **options)(model), torch.no_grad():
        model.model.vision_tower.embeddings.patch_embedding.weight.mul_(2)
        doubled = features(model, pixels(0, device="cuda"))
    wanted = plainly(model, create(method, keep=0.5, **options), pixels(0, device="cuda"))
    assert_same(doubled, wanted)  # weights may change where they are
