"""DART against a prefill written out, pivot by pivot; counts; degenerate prompts."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.dart import duplication_aware
from tests.pruning.methods.loop import agrees, largest
from tests.tiny import TOKENS, batch, prompt, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def reference(pruner):
    budget = pruner.budget(TOKENS)

    def choose(moment):
        norm = moment.model.model.language_model.norm
        states, keys = norm(moment.states), moment.before["keys"].double()
        size = keys.abs().sum((0, 2))
        first = min(pruner.visual_pivots, budget)
        visual = [moment.columns[i] for i in largest(size[moment.columns], first)]
        text = [moment.text[i] for i in largest(size[moment.text], pruner.text_pivots)]
        pivots, kept = visual + text, set(visual)
        share, more = divmod(budget - first, len(pivots))
        for number, pivot in enumerate(pivots):
            pool = [c for c in moment.columns if c not in kept]
            far = [-cosine(states[pivot], states[c]) for c in pool]
            kept |= {pool[i] for i in largest(far, share + (number < more))}
        return sorted(kept), None

    return choose


@pytest.mark.parametrize("options", [
    {}, {"keep": 0.3}, {"keep": 0.05}, {"count": "published", "keep": 0.6},
    {"visual_pivots": 2, "text_pivots": 1, "layer": 1}, {"visual_pivots": 1, "text_pivots": 0},
])  # fmt: skip
def test_it_is_the_written_out_method(model, options):
    pruner = create("dart", **options)
    agrees(model, pruner, reference(pruner), ragged(seed=1))


def test_released_counts():
    """4 + 8t tokens: at r = .778 and .889 of 576, 124 and 60, which average to 152 and 92."""
    for rate, kept, average in ((0.778, 124, 152), (0.889, 60, 92)):
        counts = create("dart", keep=1 - rate, count="published").layer_counts(576, 32)
        assert counts[2] == kept and round(sum(counts) / 32) == average
    assert create("dart", keep=0.222).budget(576) == 128


def test_a_prompt_with_less_text_has_fewer_pivots(model):
    pruner = create("dart", keep=0.5)
    alone = batch([prompt(before=3, after=1)], 1)
    agrees(model, pruner, reference(pruner), alone)


def test_copies_do_not_shorten_the_choice():
    states = torch.ones(2, 12, 4)
    mask = duplication_aware(
        states, torch.ones(2, 12), torch.ones(2, 3, 4), torch.tensor([[True] * 3, [False] * 3]),
        count=7, pivots=4,
    )  # fmt: skip
    assert mask.sum(1).tolist() == [7, 7]
    assert mask[0].tolist() == [True] * 7 + [False] * 5  # ties by index


def test_a_permutation_of_the_tokens_permutes_the_choice():
    generator = torch.Generator().manual_seed(0)
    states, text = torch.randn(1, 30, 8, generator=generator), torch.randn(1, 4, 8)
    size = torch.rand(1, 30, generator=generator)
    there = torch.ones(1, 4, dtype=torch.bool)
    turn = torch.randperm(30, generator=generator)
    # visual pivots come by position, so their order must not change the shares: 4 + 8 * 2
    options = {"count": 20, "pivots": 1}
    one = duplication_aware(states, size, text, there, **options)
    other = duplication_aware(states[:, turn], size[:, turn], text, there, **options)
    assert torch.equal(other, one[:, turn])


@pytest.mark.parametrize("bad", [{"visual_pivots": 0}, {"text_pivots": -1}, {"count": "some"}])
def test_bad_options(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        create("dart", **bad)
