"""Questions through a processor and its chat template."""

import pytest
import torch

from lib.plugins.lmms_eval import prompts
from tests.plugins.lmms_eval.kit import question
from tests.tiny_captioner import TOKENS


@pytest.fixture
def ready(processor):
    prompts.prepare(processor)
    return processor


def test_prompts_are_padded_on_the_left(ready, images):
    asked = [question(images[0], text="red"), question(images[1], text="a red circle and a table")]
    given = prompts.inputs(ready, asked)
    mask = given["attention_mask"]
    assert mask[:, -1].all() and not mask[0, 0] and mask[1, 0]
    for row, one in enumerate(asked):
        alone = prompts.inputs(ready, [one])
        assert torch.equal(given["input_ids"][row][mask[row].bool()], alone["input_ids"][0])
        assert torch.equal(given["pixel_values"][row], alone["pixel_values"][0])


def test_several_images_of_a_question_each_have_their_tokens(ready, images):
    given = prompts.inputs(ready, [question(*images[:3]), question(images[3])])
    marks = given["input_ids"] == ready.tokenizer.convert_tokens_to_ids(ready.image_token)
    assert marks.sum(1).tolist() == [3 * TOKENS, TOKENS]
    assert len(given["pixel_values"]) == 4


def test_a_question_without_images_has_no_pixels(ready):
    assert "pixel_values" not in prompts.inputs(ready, [question(text="a red circle")])


@pytest.mark.parametrize("start", ["", "<s>"])
def test_the_first_token_is_there_once(ready, images, start):
    ready.chat_template = start + ready.chat_template
    ids = prompts.inputs(ready, [question(images[0])])["input_ids"][0]
    assert (ids == ready.tokenizer.bos_token_id).sum() == 1 and ids[
        0
    ] == ready.tokenizer.bos_token_id


def test_a_processor_without_a_template_is_refused(processor):
    processor.chat_template = None
    with pytest.raises(
        ValueError, match=r"LlavaProcessor has no chat template; .*chat_template=PATH"
    ):
        prompts.prepare(processor)


def test_something_to_pad_with_is_found(processor):
    processor.tokenizer.pad_token = None
    prompts.prepare(processor)
    assert processor.tokenizer.pad_token == processor.tokenizer.eos_token
    assert processor.tokenizer.padding_side == "left"


def test_a_continuation_stands_behind_the_prompt(ready, images):
    asked = question(images[0], continuation=" a blue square")
    (ids,) = prompts.continuations(ready, [asked])
    assert ready.tokenizer.decode(ids) == " a blue square"
    ready.chat_template += "{{ ' ' }}"
    (ids,) = prompts.continuations(ready, [asked])
    assert ready.tokenizer.decode(ids) == "a blue square"


@pytest.mark.parametrize("text, what", [("", "no token"), ("red</s>", "the end token '</s>'")])
def test_a_continuation_without_likelihood_is_named(ready, images, text, what):
    with pytest.raises(ValueError, match=f"has {what}"):
        prompts.continuations(ready, [question(images[0], continuation=text)])
