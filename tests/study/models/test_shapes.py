"""Exact architectures with random weights."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lib.pruning import create
from lib.study.models import format_prompt, load, shapes


def inputs(processor, images):
    prompt = format_prompt(processor)
    return processor(images=images, text=[prompt] * len(images), return_tensors="pt")


def test_the_7b_shape_is_llavas():
    model, processor, _ = load("shape:llava-1.5-7b", device="meta", dtype="bfloat16")
    # 7.06 billion, as published for llava-hf/llava-1.5-7b-hf
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072
    assert model.dtype == torch.bfloat16 and model.config.image_seq_length == 576
    batch = inputs(processor, [Image.new("RGB", (640, 480))])
    assert batch["pixel_values"].shape == (1, 3, 336, 336)
    assert (batch["input_ids"] == model.config.image_token_id).sum() == 576


def test_other_gpus_are_left_alone(monkeypatch):
    """Drawing weights asks for the state of the generator of one device, not of every GPU's."""
    asked = []
    fork = torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices) or fork([]))
    stub = SimpleNamespace(eval=lambda: None)
    monkeypatch.setattr(shapes.AutoModelForImageTextToText, "from_config", lambda *_, **__: stub)
    for device in ("cpu", "meta", "cuda:1"):
        shapes.build_shape("shape:tiny", device, torch.float32, "sdpa")
    assert asked == [[], [], [torch.device("cuda", 1)]]


def test_drawing_weights_leaves_the_caller_its_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load("shape:tiny", device="cpu").model
    assert torch.equal(torch.rand(3), expected)
    second = load("shape:tiny", device="cpu").model
    assert all(map(torch.equal, first.parameters(), second.parameters()))


@pytest.mark.parametrize("name", ["tiny-qwen2.5-vl", "tiny-qwen3-vl"])
def test_the_shapes_of_qwen_caption_through_their_processors(name):
    model, processor, _ = load(f"shape:{name}", device="cpu")
    prompt = format_prompt(processor, "Describe the image briefly.")
    images = [Image.new("RGB", (120, 90), "red"), Image.new("RGB", (60, 140), "blue")]
    inputs = processor(images=images, text=[prompt] * 2, padding=True, return_tensors="pt")
    with create("entropy", keep=0.25)(model) as pruner:
        out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    tokens = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    assert out.shape[0] == 2 and [len(m) for m in pruner.kept_masks] == tokens
