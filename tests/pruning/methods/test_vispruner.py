"""VisPruner: against its definition in plain loops."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.vispruner import thinned
from tests.pruning.methods.reference import Tower, cosines, kept_by
from tests.tiny import TOKENS, ragged


def definition(weights, features, budget, important, step):
    """The kept tokens of one image, one comparison at a time."""
    ranked = sorted(range(len(weights)), key=lambda i: (-weights[i].item(), i))
    first = int(budget * important)
    kept, rest, similar = ranked[:first], ranked[first:], cosines(features)
    wanted = budget - first
    while wanted and len(rest) > wanted:
        ours, theirs = rest[0::2], rest[1::2]
        delete = min(step, len(rest) - wanted, len(ours))
        best = {i: max(similar[i, j].item() for j in theirs) for i in ours}
        order = sorted(ours, key=lambda i: (-best[i], ours.index(i)))
        rest = order[delete:] + theirs
    return sorted(kept + rest[:wanted])


@pytest.mark.parametrize("keep", [0.05, 0.25, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("options", [{}, {"important": 0.0}, {"important": 0.75, "step": 3}])
def test_follows_its_definition_for_odd_and_even_remainders(model, keep, options):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    pruner = create("vispruner", keep=keep, **options)
    wanted = [
        definition(w, f, pruner.budget(TOKENS), pruner.important, pruner.step)
        for w, f in zip(tower.class_attention(), tower.features)
    ]
    assert kept_by("vispruner", model, inputs, keep=keep, **options) == wanted


def test_all_important_is_fastervlm(model):
    inputs = ragged()
    assert kept_by("vispruner", model, inputs, important=1.0) == kept_by("fastervlm", model, inputs)


@pytest.mark.parametrize("size", range(2, 22))
def test_every_remainder_thins_to_every_size(size):
    """The code fails where the two halves differ in length."""
    generator = torch.Generator().manual_seed(size)
    tokens = torch.nn.functional.normalize(torch.randn(1, size, 4, generator=generator), dim=-1)
    order = torch.randperm(size, generator=generator)[None]
    for keep in range(1, size + 1):
        left = thinned(tokens, order, keep, 8)
        assert left.shape == (1, keep) and len(left.unique()) == keep


def test_constant_images_are_no_special_case(model):
    inputs = ragged()
    inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    kept = kept_by("vispruner", model, inputs)
    assert all(own == kept[0] and len(own) == 18 for own in kept)


def test_bad_options():
    with pytest.raises(ValueError, match=r"important must be in \[0, 1\], got 2"):
        create("vispruner", important=2)
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        create("vispruner", step=0)
