"""Passes of several tokens that are no prompt: drafts, and more logits than one."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lib.pruning import FastV, available, create
from tests.pruning.engine.common import GREEDY, kept
from tests.tiny import IMAGE, one


def placed():
    """Every method at layers 0 and 2, or where it can stand; none twice."""
    for name in available():
        done = []
        for options in ({"layer": 0}, {"layer": 2}, {}):
            try:
                settings = create(name, **options).options()
            except ValueError:  # it cannot stand there
                continue
            if settings not in done and (options or not done):
                done.append(settings)
                yield pytest.param(name, options, id=f"{name}-{settings.get('layer')}")


@pytest.fixture(scope="module")
def repeating(model):
    """Prompts in which the word before the image is one that the model says: drafts follow it."""
    prompts = []
    for seed in range(6):
        inputs = one(seed=seed)
        with torch.no_grad():
            word = model.generate(**inputs, **GREEDY)[0, -6].item()
        if word != IMAGE:
            inputs["input_ids"][0, 4] = word
            prompts.append(inputs)
    assert len(prompts) >= 4
    return prompts


@pytest.mark.slow
@pytest.mark.parametrize("name, options", list(placed()))
def test_prompt_lookup_drafts_change_nothing(model, repeating, name, options):
    """Drafts stand behind the prompt in the first pass, and may hold placeholders."""
    with create(name, keep=0.9, **options)(model) as pruner:
        for inputs in repeating:
            want = model.generate(**inputs, **GREEDY)
            sets = kept(pruner)
            got = model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=3)
            assert torch.equal(got, want) and kept(pruner) == sets


def test_an_assistant_model_changes_nothing(model):
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers hands the pixels to an assistant that takes none")
    config = model.config.text_config
    torch.manual_seed(1)
    assistant = LlamaForCausalLM(
        LlamaConfig(**(config.to_dict() | {"num_hidden_layers": 1}))
    ).eval()
    assistant.generation_config.pad_token_id = 0
    for name in ("fastv", "entropy"):
        with create(name, layer=2)(model) as pruner:
            want = model.generate(**one(), **GREEDY)
            sets = kept(pruner)
            got = model.generate(**one(), **GREEDY, assistant_model=assistant)
            assert torch.equal(got, want) and kept(pruner) == sets


def test_logits_to_keep_of_a_caller_is_no_draft(model):
    """A forward that asks for more logits still asks the last token."""
    with FastV()(model) as pruner:
        model(**one())
        sets = kept(pruner)
        out = model(**one(), logits_to_keep=4)
        assert out.logits.shape[1] == 4 and kept(pruner) == sets
