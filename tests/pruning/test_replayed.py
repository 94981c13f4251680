"""The tower as one graph: on a CPU with a capture that only pretends, on a GPU with real ones."""

import pytest
import torch

from lib.pruning import create
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
    output = [tensor.clone() for tensor in function(inputs)]

    def again():
        for static, tensor in zip(output, function(inputs)):
            static.copy_(tensor)

    return Captured(Graph(again), inputs, output)


@pytest.fixture
def pretending(monkeypatch):
    """A cache whose captures pretend, and a list of the towers' runs."""
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
    with create(method, keep=0.5, **options)(model):  # it serves later blocks, too
        features(model, pixels(9))
    assert graph.replays == 4
    for seed, one in enumerate(found):  # what a call leaves outlives the next
        assert_same(one, plainly(model, create(method, keep=0.5, **options), pixels(seed)))
    assert "forward" not in vars(model.model.vision_tower)


class Adapted(torch.nn.Linear):
    """A module of somebody else's."""


def graphs_after(pretending, model, given, *, keep=0.5):
    pretending.clear()
    with create("entropy", keep=keep)(model):
        for each in given:
            features(model, each() if callable(each) else each)
    return len(pretending)


def test_other_calls_have_other_graphs(pretending):
    model = tiny_llava()
    norm = model.model.vision_tower.post_layernorm

    def moved():
        norm.weight.data = norm.weight.data.clone()
        return pixels(0)

    assert graphs_after(pretending, model, [pixels(0), pixels(1)]) == 1
    assert graphs_after(pretending, model, [pixels(0), pixels(0, rows=2)] * 2) == 2
    assert graphs_after(pretending, model, [pixels(0), moved]) == 0

    def attending():
        model.model.vision_tower.config._attn_implementation = "eager"
        return pixels(0)

    assert graphs_after(pretending, model, [pixels(0), attending]) == 0
    pretending.clear()
    for method in ("random", "fastv"):  # neither looks into the tower
        with create(method, layer=2)(model):
            features(model, pixels(0))
    assert len(pretending) == 1
    pretending.clear()
    for keep, graphs in ((0.5, 0), (0.25, 0), (0.5, 1), (0.25, 2)):  # later blocks use the same
        with create("entropy", keep=keep)(model):
            features(model, pixels(0))
        assert len(pretending) == graphs


def test_where_it_might_change_something_the_tower_runs_plainly(pretending, monkeypatch):
    model = tiny_llava()
    tower = model.model.vision_tower
    block = tower.encoder.layers[1]
    given = [pixels(0)] * 3
    seen = []
    handle = block.register_forward_hook(lambda *_: seen.append(1))
    assert graphs_after(pretending, model, given) == 0 and len(seen) == 3
    handle.remove()
    block.forward = block.forward
    assert graphs_after(pretending, model, given) == 0
    del block.forward
    tower.train()
    assert graphs_after(pretending, model, given) == 0
    tower.eval()
    old = block.mlp.fc1
    block.mlp.fc1 = Adapted(old.in_features, old.out_features)  # could be switched off
    assert graphs_after(pretending, model, given) == 0
    block.mlp.fc1 = old

    def exchanged():
        block.mlp.fc1 = torch.nn.Linear(old.in_features, old.out_features)
        return pixels(0)

    assert graphs_after(pretending, model, [exchanged, *given]) == 0
    block.mlp.fc1 = old
    assert graphs_after(pretending, model, [given[0].mT.contiguous().mT] * 3) == 0
    monkeypatch.setattr(replayed, "_REPLAYED", pixels(0).numel() - 1)
    assert graphs_after(pretending, model, given) == 0
    monkeypatch.undo()
    with create("entropy")(model), torch.enable_grad():
        for _ in range(3):
            model.get_image_features(pixel_values=pixels(0)).pooler_output[0].sum().backward()
    assert len(pretending) == 0 and block.mlp.fc1.weight.grad is not None
    assert graphs_after(pretending, model, given, keep=1.0) == 0  # the model runs untouched


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
