"""Batches under a pruner against the model's own `generate` and forward pass."""

from contextlib import nullcontext

import pytest
import torch

from lib.geometry import kept_count
from lib.plugins.lmms_eval import prompts
from lib.plugins.lmms_eval.generation import decoding
from lib.plugins.lmms_eval.running import Runner
from lib.pruning import create
from tests.plugins.lmms_eval.kit import GREEDY, question
from tests.tiny_captioner import TOKENS

TEXTS = ("red", "a red circle and two blue squares", "near the window")
PRUNERS = {
    "none": lambda: None,
    "entropy": lambda: create("entropy", keep=0.5, layer=1),
    "fastv": lambda: create("fastv", keep=0.25, layer=2),
}
PRUNED = pytest.mark.parametrize("method", PRUNERS)


def runner(model, processor, method) -> Runner:
    return Runner(model, processor, PRUNERS[method]())


def asked(images, **more):
    return [question(image, text=text, **more) for image, text in zip(images, TEXTS)]


def generated(model, given, pruner, length) -> list[int]:
    """The new ids of one prompt, by the model's own `generate`."""
    with torch.inference_mode(), nullcontext() if pruner is None else pruner(model):
        ids = model.generate(**given, do_sample=False, max_new_tokens=length)
    return ids[0, given["input_ids"].shape[1] :].tolist()


@PRUNED
def test_a_batch_is_answered_as_its_questions_alone(model, processor, images, method):
    together = runner(model, processor, method).answer(asked(images), decoding(GREEDY))
    for one, made in zip(asked(images), together):
        given = prompts.inputs(processor, [one])
        new = generated(model, given, PRUNERS[method](), 5)
        assert made.text == processor.tokenizer.decode(new, skip_special_tokens=True)
        assert made.measured.prompt == given["input_ids"].shape[1]


@PRUNED
def test_counts_and_times_are_measured(model, processor, images, method):
    pruner = PRUNERS[method]()
    keep = 1.0 if pruner is None else pruner.keep
    several = [question(*images[:2]), question(images[2])]
    made = [
        one.measured for one in runner(model, processor, method).answer(several, decoding(GREEDY))
    ]
    assert [m.visual for m in made] == [2 * TOKENS, TOKENS]
    each = kept_count(keep, TOKENS)
    assert [m.kept for m in made] == [2 * each, each]
    assert all(0 < m.first_token <= m.seconds and m.generated <= 5 for m in made)


def test_beams_of_a_prompt_count_once(model, processor, images):
    how = decoding(GREEDY | {"num_beams": 3})
    made = runner(model, processor, "entropy").answer(asked(images), how)
    assert [one.measured.kept for one in made] == [kept_count(0.5, TOKENS)] * 3


def test_a_question_without_images_is_not_pruned(model, processor):
    (made,) = runner(model, processor, "entropy").answer([question(text="red")], decoding(GREEDY))
    assert made.measured.visual == made.measured.kept == 0 and made.text


def test_an_answer_ends_at_a_stop(model, processor, images):
    whole = runner(model, processor, "none").answer(asked(images)[:1], decoding(GREEDY))[0].text
    stop = whole[2]
    (made,) = runner(model, processor, "none").answer(
        asked(images)[:1], decoding(GREEDY | {"until": [stop]})
    )
    assert made.text == whole.split(stop)[0]


def test_a_likelihood_is_that_of_one_pass_over_everything(model, processor, images):
    """Unpruned, by definition: the whole text at once."""
    ends = (" a blue square", " red", " two red squares on a table")
    batch = [question(i, text=t, continuation=e) for i, t, e in zip(images, TEXTS, ends)]
    for one, made in zip(batch, runner(model, processor, "none").score(batch)):
        given = prompts.inputs(processor, [one])
        ids = torch.tensor(prompts.continuations(processor, [one]))
        whole = {"input_ids": torch.cat([given["input_ids"], ids], 1)}
        with torch.inference_mode():
            logits = model(**whole, pixel_values=given["pixel_values"]).logits
        logits = logits[0, -ids.shape[1] - 1 : -1].double()
        wanted = torch.nn.functional.cross_entropy(logits, ids[0])
        assert made.loss == pytest.approx(wanted.item(), rel=1e-5)
        assert made.measured.generated == ids.shape[1]


@PRUNED
def test_what_a_model_answers_is_greedy(model, processor, images, method, monkeypatch):
    """Its own answer as a continuation is greedy; with another last token it is not."""
    (one,) = asked(images, continuation="what it says")[:1]
    run = runner(model, processor, method)
    new = generated(model, prompts.inputs(processor, [one]), PRUNERS[method](), 3)
    other = [*new[:-1], new[-1] + 1]
    monkeypatch.setattr(prompts, "continuations", lambda *_: [new, other])
    same, different = run.score([one, one])
    assert same.greedy and not different.greedy and same.loss < different.loss


def test_what_cannot_be_pruned_is_refused_at_once(model, processor):
    with pytest.raises(
        ValueError, match="layer must be below the language model's 4 layers, got 9"
    ):
        Runner(model, processor, create("fastv", keep=0.5, layer=9))
    with pytest.raises(TypeError):
        Runner(model.model.vision_tower, processor, None)
