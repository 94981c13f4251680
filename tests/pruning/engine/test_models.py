"""Models by what they do: other towers and windows, wrapped and bare ones, and none at all."""

import warnings

import pytest
import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from lib.pruning import available, create
from tests.pruning.engine.common import GREEDY, kept
from tests.tiny import IMAGE, PATCH, SIDE, TOKENS, VOCABULARY, one, tiny_llava


def llava_of(text=None, vision=None, **options):
    """A LLaVA with another tower or language model."""
    plain = tiny_llava().config
    config = LlavaConfig(
        vision_config=vision or plain.vision_config, text_config=text or plain.text_config,
        image_token_index=IMAGE, image_seq_length=TOKENS, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    made = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = None, 0
    return made


TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["full", "default"])
@pytest.mark.parametrize("name", ["random", "fastv", "entropy", "selection"])
@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_a_siglip_tower_has_no_class_token(strategy, name, keep):
    tower = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
        image_size=PATCH * SIDE, patch_size=PATCH,
    )  # fmt: skip
    if strategy == "default":
        tower.image_size += PATCH  # 49 patches, of which LLaVA takes the first for a class token
        inputs = one() | {"pixel_values": torch.randn(1, 3, PATCH * 7, PATCH * 7)}
        tokens, ids = 48, one()["input_ids"][0].tolist()
        start = ids.index(IMAGE)
        inputs["input_ids"] = torch.tensor([ids[:start] + [IMAGE] * 12 + ids[start:]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    else:
        inputs, tokens = one(), TOKENS
    made = llava_of(Qwen2Config(**TEXT), tower, vision_feature_select_strategy=strategy,
                    vision_feature_layer=-1)  # fmt: skip
    plain = made.generate(**inputs, **GREEDY)
    with create(name, keep=keep)(made) as pruner:
        out = made.generate(**inputs, **GREEDY)
        assert [len(k) for k in pruner.kept] == [pruner.budget(tokens)]
    assert keep < 1 or torch.equal(out, plain)


def test_layers_with_a_window_are_refused_whatever_says_so():
    for text in (
        MistralConfig(**TEXT, sliding_window=8),
        Qwen2Config(**TEXT, sliding_window=8, use_sliding_window=True, max_window_layers=2),
    ):
        with pytest.raises(TypeError, match="do not attend to the whole sequence"):
            create("random")(llava_of(text))
    for text in (MistralConfig(**TEXT, sliding_window=None), Qwen2Config(**TEXT)):
        made = llava_of(text)
        with create("fastv")(made):
            made(**one())


@pytest.mark.slow
@pytest.mark.parametrize("name", available())
def test_wrapped_and_bare_models(model, name):
    peft = pytest.importorskip("peft")
    with create(name)(model) as pruner:
        want = model(**one()).logits
        sets = kept(pruner)
    bare = model.model
    with create(name)(bare) as pruner:
        hidden = bare(**one()).last_hidden_state
        assert kept(pruner) == sets
    torch.testing.assert_close(model.lm_head(hidden), want)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        wrapped = peft.get_peft_model(tiny_llava(), config).eval()
    with create(name)(wrapped) as pruner:
        torch.testing.assert_close(wrapped(**one()).logits, want)  # LoRA starts as the identity
        assert kept(pruner) == sets
        wrapped.generate(**one(), **GREEDY)


def test_what_is_no_model_is_named():
    for thing in (torch.nn.Linear(2, 2), "llava", None):
        with pytest.raises(TypeError, match=r"supported: .*LLaVA \('llava'\)"):
            create("random")(thing)
