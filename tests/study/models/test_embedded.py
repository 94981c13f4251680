"""The committed model is a small LLaVA that names what it sees."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lib.study import models
from lib.study.data.scenes import captions, draw, object_f1, sample_scene, scene_seed
from lib.study.models import format_prompt
from lib.study.paths import embedded_dir

PROMPT = "USER: <image>\nDescribe the image briefly. ASSISTANT:"


def inputs(processor, images):
    prompt = format_prompt(processor)
    return processor(images=images, text=[prompt] * len(images), return_tensors="pt")


def test_the_embedded_model_is_a_small_llava(embedded):
    model, processor, name = embedded
    assert name == "embedded" and isinstance(model, LlavaForConditionalGeneration)
    assert not model.training and model.dtype == torch.float32
    assert 8e6 < sum(p.numel() for p in model.parameters()) < 16e6
    config = model.config
    assert config.image_seq_length == 256 and config.vision_feature_layer == -2
    assert config.vision_feature_select_strategy == "default"
    assert config.text_config.num_hidden_layers >= 8
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (224, 14)
    assert format_prompt(processor) == PROMPT
    batch = inputs(processor, [Image.new("RGB", (224, 224))])
    assert (batch["input_ids"] == config.image_token_id).sum() == 256


def test_the_embedded_model_names_what_it_sees(embedded):
    """Object F1 on test scenes, through the public API alone; .994 on all 1,000."""
    model, processor, _ = embedded
    scenes = [sample_scene(scene_seed("test", i)) for i in range(24)]
    scores = []
    for start in range(0, 24, 8):
        part = scenes[start : start + 8]
        batch = inputs(processor, [Image.fromarray(draw(scene)) for scene in part])
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=48, do_sample=False)
        said = processor.batch_decode(
            out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        scores += [
            object_f1(text, [item.record() for item in scene.objects]).f1
            for text, scene in zip(said, part)
        ]
    assert np.mean(scores) > 0.96


def test_from_pretrained_alone_is_enough(embedded):
    model = LlavaForConditionalGeneration.from_pretrained(embedded_dir(), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(embedded_dir())
    batch = inputs(processor, [Image.fromarray(draw(sample_scene(5)))])
    ours = inputs(embedded.processor, [Image.fromarray(draw(sample_scene(5)))])
    assert torch.equal(batch["input_ids"], ours["input_ids"])
    assert torch.allclose(batch["pixel_values"], ours["pixel_values"], atol=1e-5)
    with torch.inference_mode():
        a, b = model(**batch).logits, embedded.model(**ours).logits
    assert torch.allclose(a, b, atol=1e-3)


def test_committed_shards_are_small_float16_and_as_published():
    shards = sorted(embedded_dir().glob("*.safetensors"))
    assert len(shards) == 2
    for shard in shards:
        assert shard.stat().st_size < 16 * 2**20
        with safe_open(shard, "pt") as file:
            assert {file.get_slice(k).get_dtype() for k in file.keys()} == {"F16"}  # noqa: SIM118
    lines = (embedded_dir() / models.SUMS).read_text().splitlines()
    assert len(lines) >= 9
    for digest, name in (line.split("  ") for line in lines):
        assert hashlib.sha256((embedded_dir() / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("mode", "size", "colour"),
    [("L", (224, 224), 90), ("RGBA", (300, 200), (9, 9, 9, 128)), ("RGB", (1, 1), "red"),
     ("P", (40, 500), 3), ("1", (64, 64), 1)],
)  # fmt: skip
def test_any_picture_becomes_224_pixels_of_colour(embedded, mode, size, colour):
    batch = inputs(embedded.processor, [Image.new(mode, size, colour)])
    assert batch["pixel_values"].shape == (1, 3, 224, 224)
    assert batch["pixel_values"].isfinite().all()


def test_any_text_has_an_encoding(embedded):
    tokenizer = embedded.processor.tokenizer
    for text in (captions(sample_scene(9))[0], "naïve 🙂 <b> Zürich 12%"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
