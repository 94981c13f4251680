"""One batch: what a record holds, and that the model stays as it was."""

import pytest
import torch

from lib.pruning import create
from lib.study import models
from lib.study.captioning import (
    PROMPT,
    caption,
    caption_methods,
    load_image,
    repeatable_attention,
)
from tests.study.captioning.kit import METHODS, QUICK, pruners
from tests.tiny_captioner import SIDE, TOKENS


def test_a_record_holds_what_the_model_generates(kit, pictures):
    model, processor = kit
    records = caption(model, processor, pictures, **QUICK)
    assert [r["image_id"] for r in records] == [e.image_id for e in pictures]
    assert {r["kept"] for r in records} == {r["visual_tokens"] for r in records} == {TOKENS}
    assert all(r["seconds"] > 0 for r in records)
    assert len({r["caption"] for r in records}) > 4, "the model should look at the image"
    prompt = models.format_prompt(processor, PROMPT)
    for example, record in list(zip(pictures, records))[:3]:
        inputs = processor(images=load_image(example.path), text=prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=5)
        text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert record["caption"] == " ".join(text.split())


def test_token_ids_are_recorded_up_to_the_end(kit, pictures, monkeypatch):
    model, processor = kit
    decode = processor.tokenizer.decode
    records = caption(model, processor, pictures, token_ids=True, **QUICK)
    for record in records:
        assert len(record["token_ids"]) == QUICK["max_new_tokens"], "this model never ends"
        said = decode(record["token_ids"], skip_special_tokens=True)
        assert record["caption"] == " ".join(said.split())
    assert "token_ids" not in caption(model, processor, pictures[:1], **QUICK)[0]
    end = records[0]["token_ids"][2]  # from now on this token ends an answer
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    for record, longer in zip(
        caption(model, processor, pictures, token_ids=True, **QUICK), records, strict=True
    ):
        ids = longer["token_ids"]
        assert record["token_ids"] == ids[: ids.index(end) if end in ids else None]


def test_captions_use_attention_that_repeats_itself(kit, pictures):
    model, processor = kit
    seen = []
    watch = model.model.language_model.layers[0].self_attn.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    with watch:
        caption(model, processor, pictures[:1], **QUICK)
    assert len(seen) == QUICK["max_new_tokens"] and not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled(), "the setting is put back"
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with pytest.raises(RuntimeError, match="stop"), repeatable_attention():
            raise RuntimeError("stop")
        assert not torch.backends.cuda.cudnn_sdp_enabled(), "nothing is switched on"
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's attention needs a GPU")
def test_a_decoding_step_on_a_gpu_gives_the_same_bits_every_time():
    make = torch.Generator("cuda").manual_seed(0)
    options = {"device": "cuda", "dtype": torch.bfloat16, "generator": make}
    query = torch.randn(16, 32, 1, 128, **options)
    keys, values = torch.randn(2, 16, 32, 640, 128, **options)
    attention = torch.nn.functional.scaled_dot_product_attention
    with repeatable_attention():
        first = attention(query, keys, values)
        assert all(torch.equal(attention(query, keys, values), first) for _ in range(200))


@pytest.mark.parametrize("slug", [s for s in METHODS if METHODS[s]])
def test_kept_tokens_are_recorded(kit, pictures, slug):
    pruner = pruners()[slug]
    records = caption(*kit, pictures, pruner=pruner, kept_indices=True, **QUICK)
    for record in records:
        assert record["kept"] == len(record["kept_indices"]) == pruner.budget(TOKENS)
        assert record["kept_indices"] == sorted(set(record["kept_indices"]))
        assert 0 <= record["kept_indices"][0] <= record["kept_indices"][-1] < TOKENS


def test_the_model_is_left_as_it_was(kit, pictures):
    model, processor = kit

    def state():
        return [
            (name, vars(m).get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks))
            for name, m in model.named_modules()
        ]

    # transformers' own recorders of hidden states stay on from the first use
    model.model.vision_tower(torch.rand(1, 3, SIDE, SIDE), output_hidden_states=True)
    model.train()
    before = state()
    caption_methods(model, processor, pictures[:2], pruners(), None, **QUICK)
    assert model.training and state() == before
    model.eval()


def test_random_choices_go_with_the_image_and_not_with_the_batch(kit, pictures):
    def chosen(examples, batch_size):
        options = QUICK | {"batch_size": batch_size}
        pruner = create("random", keep=0.5)
        records = caption(*kit, examples, pruner=pruner, kept_indices=True, **options)
        last = examples[(len(examples) - 1) // batch_size * batch_size :]
        assert pruner.image_keys.tolist() == [e.image_id for e in last]
        return {r["image_id"]: r["kept_indices"] for r in records}

    single = chosen(pictures, 1)
    assert single == chosen(pictures, 3) == chosen(pictures[::-1], 8)
    assert len({tuple(indices) for indices in single.values()}) == len(pictures)
