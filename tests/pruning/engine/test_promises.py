"""What a method promises is compared with what it does."""

import pytest
import torch

from lib.pruning import FixedPrune, VisualPruner, available, create
from lib.pruning.engine.sequence import Chosen
from tests.pruning.engine.common import kept
from tests.tiny import TOKENS, one, ragged


class Above(VisualPruner):
    """README's kind of method, with a count of its own."""

    threshold = 0.0

    def select(self, images):
        return images.hidden.float().norm(dim=-1) >= self.threshold


class HonestlyAbove(Above):
    exact = False


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_another_count_than_promised_is_named(model, share):
    features = model.model.get_image_features(one()["pixel_values"]).pooler_output[0]
    threshold = features.norm(dim=-1).quantile(share).item()
    pruner, honest = Above(), HonestlyAbove()
    pruner.threshold = honest.threshold = threshold
    with pruner(model), pytest.raises(ValueError, match=r"promises budget\(36\) = 18 .* exact"):
        model(**one())
    with honest(model):
        got = model(**one()).logits
    with FixedPrune(indices=kept(honest))(model):
        torch.testing.assert_close(got, model(**one()).logits)


def test_chosen_tokens_with_another_count_or_shape_are_named(model):
    class Odd(VisualPruner):
        answer = None

        def select(self, images):
            return self.answer

    for answer, message in [
        (Chosen(torch.arange(9)[None]), "promises budget"),
        (Chosen(torch.arange(18.0)[None]), "int64 indices"),
        (Chosen(torch.arange(18)), "int64 indices"),
        (Chosen(torch.arange(18)[None], torch.zeros(1, 9, 32)), "states"),
        (torch.ones(1, 36), "must return bool"),
        ([1, 2], "must return bool"),
    ]:
        pruner = Odd()
        pruner.answer = answer
        with pruner(model), pytest.raises(ValueError, match=message):
            model(**one())


def test_a_method_that_keeps_nothing_is_named(model):
    class Nothing(VisualPruner):
        exact = False

        def select(self, images):
            return torch.zeros_like(images.columns, dtype=torch.bool)

    with Nothing()(model), pytest.raises(ValueError, match="keeps nothing of image 0"):
        model(**one())


@pytest.mark.parametrize("name", available())
def test_options_cannot_change_inside_the_block(model, name):
    pruner = create(name)
    pruner.keep = 0.25
    with pruner(model):
        for option, value in pruner.options().items():
            if option != "method":
                with pytest.raises(RuntimeError, match=f"{option} cannot change inside"):
                    setattr(pruner, option, value)
        model(**one())
        assert len(pruner.kept[0]) == pruner.budget(TOKENS)
    pruner.keep = 0.5


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_features_name_their_image(model, name, bad):
    inputs = ragged()
    inputs["pixel_values"][2, 0, 5, 5] = bad
    with create(name)(model), pytest.raises(ValueError, match="image 2 hold NaN or infinite"):
        model(**inputs)
