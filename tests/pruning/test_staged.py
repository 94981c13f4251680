"""Schedules of several stages: places, shares, averages; and what any method plans and reports."""

from itertools import pairwise

import pytest
import torch

from lib import geometry
from lib.pruning import available, create
from tests.tiny import TOKENS, ragged, tiny_llava

STAGED = ["pyramiddrop", "sparsevlm", "v2drop"]
every_staged = pytest.mark.parametrize("name", STAGED)


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def places(name, depth, **options):
    pruner = create(name, **options)
    pruner._depth = depth
    return pruner.stages()


def test_places_are_fractions_of_the_depth():
    assert places("pyramiddrop", 32) == (8, 16, 24)
    assert places("pyramiddrop", 8) == (2, 4, 6)
    assert places("sparsevlm", 32) == (3, 7, 16)
    assert places("sparsevlm", 28) == (3, 6, 14)
    assert places("v2drop", 32) == (3, 17, 22)
    assert places("pyramiddrop", 32, layer=2) == (2, 12, 22)  # the rest spread over what is left
    assert places("sparsevlm", 5) == (1, 2, 3)  # never the same layer twice


@every_staged
@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.9, 1.0])
def test_no_stage_leaves_more_than_the_one_before(name, keep):
    counts = create(name, keep=keep).layer_counts(576, 32)
    assert all(a >= b for a, b in pairwise(counts)) and min(counts) >= 1
    if name != "sparsevlm":  # whose recycled tokens come on top
        assert counts[-1] == geometry.kept_count(keep, 576)


@every_staged
@pytest.mark.parametrize("tokens, share", [(576, 1 / 3), (256, 1 / 3), (576, 0.45), (36, 0.6)])
def test_an_average_is_kept_as_nearly_as_whole_tokens_allow(name, tokens, share):
    pruner = create(name, average=share)
    counts = pruner.layer_counts(tokens, 32)
    wanted = share * tokens
    assert wanted - 0.04 * tokens < sum(counts) / 32 <= wanted + 1e-9


@pytest.mark.parametrize("name", sorted({*available()} - {"sparsevlm"}))
def test_averages_are_planned_and_processed(model, name):
    """What is asked for, what is planned and what a prefill reports are one."""
    wanted = 0.72 if name in STAGED else 0.65
    pruner = create(name, average=wanted)
    with torch.inference_mode(), pruner(model):
        model(**ragged())
        planned = pruner.layer_counts(TOKENS, 5)
    assert sum(planned) / 5 <= wanted * TOKENS + 1e-9
    if pruner.exact:
        assert pruner.average_tokens() == pytest.approx([sum(planned) / 5] * 4)
        assert pruner.kept_counts == [planned[-1]] * 4
    more = create(name, average=int(wanted * TOKENS))  # the same in tokens
    assert sum(more.layer_counts(TOKENS, 5)) / 5 <= int(wanted * TOKENS)


def test_what_a_prefill_reports_stage_by_stage(model):
    pruner = create("pyramiddrop", keep=0.25)
    with torch.inference_mode(), pruner(model):
        model(**ragged())
    assert pruner.stages() == (1, 2, 4)
    assert [layer for layer, _ in pruner.kept_stages] == [1, 2, 4]
    first, second, last = (masks[0] for _, masks in pruner.kept_stages)
    assert int(first.sum()) == 36 and int(second.sum()) == 18 and int(last.sum()) == 9
    assert bool((last <= second).all()) and torch.equal(last, pruner.kept_masks[0])
    assert pruner.average_tokens() == [(36 + 36 + 18 + 18 + 9) / 5] * 4


def test_a_mask_is_counted_as_if_the_tokens_were_gone(model):
    counts = []
    for mode in ("inplace", "mask"):
        with torch.inference_mode(), create("fastv", keep=0.25, mode=mode)(model) as pruner:
            model(**ragged())
        counts.append(pruner.average_tokens())
    assert counts[0] == counts[1] == [(2 * 36 + 3 * 9) / 5] * 4


def test_everything_kept_is_reported_too(model):
    with torch.inference_mode(), create("pyramiddrop", keep=1.0)(model) as pruner:
        model(**ragged())
    assert pruner.kept_counts == [TOKENS] * 4 and pruner.average_tokens() == [36.0] * 4
    with torch.inference_mode(), create("fastv", average=1.0)(model) as pruner:
        model(**ragged())
    assert pruner.keeps_all and pruner.kept_counts == [TOKENS] * 4


@pytest.mark.parametrize("average", [0, -3, 1.5, 0.0, True, "64", float("nan")])
def test_bad_averages(average):
    with pytest.raises(ValueError, match="average must be a whole number of tokens, or a share"):
        create("fastv", average=average)


def test_averages_out_of_reach_name_what_is_in_reach(model):
    with pytest.raises(ValueError, match="an average of 10 tokens a layer is out of reach: 2 of"):
        create("fastv", average=10).layer_counts(36, 5)
    with pytest.raises(ValueError, match=r"stages before layers \(1, 2, 4\) of 5: .* makes 8"):
        create("pyramiddrop", average=5).layer_counts(36, 5)
    with pytest.raises(RuntimeError, match="bind it to the model first"):
        create("fastv", average=10).budget(36)


@pytest.mark.parametrize("options, message", [
    ({"places": (3, 2)}, "places must be rising layers"),
    ({"places": ()}, "places must be rising layers"),
    ({"places": (1, 2)}, r"2 stages need as many ratios, got 3"),
    ({"ratios": (0.5, 0.25)}, r"3 stages need as many ratios, got 2"),
    ({"ratios": (0.5, 0.6, 0.1)}, "ratios must fall"),
    ({"ratios": (1.5, 0.6, 0.1)}, "ratios must fall and lie in"),
    ({"layer": 2, "places": (1, 2, 3)}, "give layer or places, not both"),
])  # fmt: skip
def test_bad_schedules(options, message):
    with pytest.raises(ValueError, match=message):
        create("v2drop", **options)


def test_stages_beyond_the_model(model):
    with pytest.raises(ValueError, match="below the language model's 5 layers, got 5"):
        create("pyramiddrop", places=(1, 3, 5))(model)
