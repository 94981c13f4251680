"""What every method inherits, of toy methods that say as little as they may."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from lib.pruning import RandomPrune, ToMe, VisualPruner, create
from lib.pruning.engine.passes import Kept
from tests.pruning.families import tiny
from tests.tiny import ragged, tiny_llava


class First(VisualPruner):
    """Keeps the first tokens of every image, and says nothing else of itself."""

    name = "first"

    def select(self, images):
        mask = torch.zeros_like(images.columns, dtype=torch.bool)
        mask[:, : self.budget(images.tokens)] = True
        return mask


class Late(First):
    first_layer = 2


class Turned(First):
    reorders = True


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def test_options_have_names():
    for kind in (First, RandomPrune):
        with pytest.raises(TypeError):
            kind(0.5)
    assert create("random", keep=0.25).options()["keep"] == 0.25


def test_a_method_that_says_nothing_promises_its_budget_and_nothing_else():
    assert First.exact and First.captures
    others = (First.bounded, First.uses_own_vision, First.reorders, First.merges)
    assert not any((*others, First.vision_only, First.first_layer)) and First.supports is None
    assert First.scorer == ("select",)
    pruner = First()
    assert (pruner.keep, pruner.average, pruner.layer) == (0.5, None, 0)
    assert (pruner.mode, pruner.positions) == ("inplace", "original")
    assert pruner.stages() == (0,) and not pruner.active and not pruner.in_pass
    assert pruner.plan(9) == (5,) and pruner.most(9) == 5, "half of 9, rounded up"


def test_two_pruners_of_the_same_options_are_two():
    assert First() != First() and len({First(), First()}) == 2


@pytest.mark.parametrize("keep", [0, -0.5, 1.0001, 2, math.nan, math.inf])
def test_a_share_outside_of_its_range_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must be in \(0, 1\]"):
        First(keep=keep)
    assert First(keep=1).keep == 1 and First(keep=1e-9).budget(7) == 1


@pytest.mark.parametrize("layer", [-1, True, False, 1.0, "2", None])
def test_a_layer_is_an_integer_from_zero_on(layer):
    with pytest.raises(ValueError, match="layer must be an integer >= 0"):
        First(layer=layer)


def test_a_method_that_looks_at_layers_begins_behind_them():
    with pytest.raises(ValueError, match=r"layer must be at least 2 for Late.*; got 1"):
        Late(layer=1)
    assert Late(layer=2).layer == 2 and Late(layer=3).layer == 3


def test_only_what_keeps_the_order_can_be_done_by_a_mask():
    with pytest.raises(ValueError, match="Turned changes the order"):
        Turned(mode="mask")
    assert Turned().mode == "inplace" and First(mode="mask").mode == "mask"
    for option in ({"mode": "both"}, {"positions": "new"}):
        with pytest.raises(ValueError, match="must be one of"):
            First(**option)


@pytest.mark.parametrize("average, tokens, want", [(64, 576, 64.0), (0.25, 576, 144.0), (1, 9, 1)])
def test_an_average_is_a_count_or_a_share(average, tokens, want):
    found = First(average=average).average_of(tokens)
    assert found == want and isinstance(found, float)


@pytest.mark.parametrize("options, want", [
    ({}, False), ({"keep": 1}, True), ({"keep": 1.0}, True), ({"keep": 0.99}, False),
    ({"keep": 1, "average": 4}, False), ({"keep": 1, "average": 0.5}, False),
    ({"average": 1.0}, True), ({"average": 1}, False), ({"average": 0.5}, False),
])  # fmt: skip
def test_all_is_kept_where_the_share_or_the_average_share_is_one(options, want):
    assert First(**options).keeps_all is want


def test_options_are_plain_values_under_the_name_of_the_method():
    @dataclass(eq=False, kw_only=True)
    class More(First):
        places: tuple[int, ...] = (1, 2)

    found = More(keep=0.25, layer=3).options()
    assert found == {
        "method": "first", "keep": 0.25, "average": None, "layer": 3, "mode": "inplace",
        "positions": "original", "places": [1, 2],
    }  # fmt: skip


def test_the_depth_is_that_of_a_model_or_is_asked_for():
    pruner = First(average=4, layer=2)
    with pytest.raises(RuntimeError, match="depends on the model's depth"):
        pruner.budget(9)
    assert pruner.stage_counts(9, 8) == [(2, 2)]  # 9 + 9 + six times 2 is 30, the most below 32
    assert pruner.layer_counts(9, 8) == [9, 9, 2, 2, 2, 2, 2, 2]
    with pytest.raises(RuntimeError, match="depends on the model's depth"):
        pruner.budget(9)  # the pruner itself is not bound by having been asked


def kept(depth, stages, per_row):
    """A pruner after a prefill that left this; masks as strings."""
    pruner = First()
    pruner._depth = depth
    masks = [(layer, [torch.tensor([c == "x" for c in m]) for m in own]) for layer, own in stages]
    pruner._current.kept = Kept(masks, per_row)
    return pruner


def test_what_is_kept_is_read_off_the_last_stage():
    pruner = kept(6, [(1, ["xx.x", "xxxxx."]), (4, ["x..x", ".x..x."])], [2])
    assert [own.tolist() for own in pruner.kept] == [[0, 3], [1, 4]]
    assert pruner.kept_counts == [2, 2]
    assert [own.int().tolist() for own in pruner.kept_masks] == [[1, 0, 0, 1], [0, 1, 0, 0, 1, 0]]
    assert [layer for layer, _ in pruner.kept_stages] == [1, 4]
    # one layer with all, three with what the first stage left, two with the rest
    assert pruner.average_tokens() == [(4 + 3 * 3 + 2 * 2) / 6, (6 + 3 * 5 + 2 * 2) / 6]


def test_the_images_of_a_prompt_are_counted_through():
    pruner = kept(2, [(0, ["x.x", ".x", "xx", "..x"])], [2, 0, 1, 1])
    assert [own.tolist() for own in pruner.kept_per_prompt] == [[0, 2, 4], [], [0, 1], [2]]
    assert all(own.dtype == torch.int64 for own in pruner.kept_per_prompt)


def test_before_any_prefill_nothing_is_known():
    for ask in ("kept", "kept_masks", "kept_stages", "kept_counts"):
        with pytest.raises(RuntimeError, match="nothing was pruned yet"):
            getattr(First(), ask)


def test_a_method_works_on_the_families_it_names(model):
    class Only(First):
        supports = frozenset({"qwen2_5_vl"})

    with pytest.raises(TypeError, match=r"Only does not support .*'llava'\); supported: qw"):
        Only()(model)

    class Both(First):
        supports = frozenset({"qwen2_5_vl", "llava"})

    assert Both()(model).family is not None and First()(model).family is not None


def test_the_last_layer_is_the_last_one_that_can_be_pruned_before(model):
    depth = model.config.text_config.num_hidden_layers
    pruner = First(layer=depth - 1)(model)
    assert pruner.model_depth == depth and pruner.stages() == (depth - 1,)
    with pytest.raises(ValueError, match=f"below the language model's {depth} layers, got {depth}"):
        First(layer=depth)(model)


def test_positions_close_up_only_where_they_are_plain(model):
    qwen = tiny.ALL["qwen2_5_vl"].model()
    for positions, subject in itertools.product(("original", "contiguous"), (model, qwen)):
        pruner = First(positions=positions)
        if subject is qwen and positions == "contiguous":
            with pytest.raises(TypeError, match="positions in time, height and width"):
                pruner(subject)
            assert pruner.family is None
        else:
            assert pruner(subject).family is not None


def test_a_block_sets_what_it_takes_back(model):
    before = {name for name in vars(model.model) if "pruner" in name}
    pruner = First(keep=0.25)
    with pytest.raises(RuntimeError, match="bind a model first"):
        pruner.__enter__()
    with pruner(model) as inside, torch.inference_mode():
        assert inside is pruner and pruner.active and not pruner.in_pass
        with pytest.raises(RuntimeError, match="already active; leave"):
            pruner(model)
        with pytest.raises(RuntimeError, match="keep cannot change inside"):
            pruner.keep = 0.5
        with pytest.raises(RuntimeError, match="First is already active on this model"):
            ToMe(keep=0.5)(model).__enter__()
        pruner.image_keys = torch.arange(3)
        model(**ragged())
    assert not pruner.active and {n for n in vars(model.model) if "pruner" in n} == before
    assert pruner.kept_counts and torch.equal(pruner.image_keys, torch.arange(3))
    pruner.keep = 0.5
    assert [own.tolist() for own in pruner.kept] == [[*range(n)] for n in pruner.kept_counts]
