"""Weights in each of their places, and GPUs of each size."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration

from lib.study.doctor import models
from lib.study.doctor.models import GPU, WEIGHTS, check_gpu, check_model
from lib.study.models.qwen_shapes import CONFIGS
from tests.study.doctor.kit import EMBEDDED, HUB, PAPER, SHAPE, hub_cache, model_folder


def test_the_revision_counts(tmp_path):
    hub_cache(tmp_path, revision="a" * 40)
    assert check_model(PAPER, tmp_path).good
    assert check_model(replace(PAPER, revision="a" * 40), tmp_path).good
    other = check_model(replace(PAPER, revision="b" * 40), tmp_path)
    assert not other.good and f"--revision {'b' * 40}" in other.remedy


def test_a_local_folder_is_a_model_too_and_a_small_one_needs_no_gpu(tmp_path, monkeypatch):
    local = replace(PAPER, model=str(model_folder(tmp_path / "mine")))
    assert check_model(local).good
    monkeypatch.setattr(models, "find_gpu", lambda: None)
    gpu = check_gpu(local)
    assert not gpu.good and not gpu.needed and gpu.mark == "optional"
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"cut off")
    assert "corrupt" in check_model(local).detail
    assert "no model folder" in check_model(replace(PAPER, model=str(tmp_path / "x"))).detail


def test_the_embedded_weights_are_those_of_the_checkout(tmp_path):
    assert "no model folder" in check_model(EMBEDDED).detail
    model_folder(tmp_path / "data" / "embedded")
    assert check_model(EMBEDDED).good


def test_the_shape_needs_a_large_gpu_and_the_committed_tokenizer(tmp_path, monkeypatch):
    assert "no model folder" in check_model(SHAPE).detail
    model_folder(tmp_path / "data" / "embedded")
    assert check_model(SHAPE).good and check_gpu(SHAPE).good
    monkeypatch.setattr(models, "find_gpu", lambda: GPU("Tesla T4", 1, 15_800_000_000))
    small = check_gpu(SHAPE)
    assert not small.good and "needs 16.5 GB" in small.detail
    monkeypatch.setattr(models, "find_gpu", lambda: GPU("Tesla T4", 2, 15_800_000_000))
    assert check_gpu(SHAPE).remedy == "use a larger GPU, or several"
    assert "'device_map: auto' in the profile spreads" in check_gpu(PAPER).remedy
    assert check_gpu(replace(PAPER, device_map="auto")).good


def test_a_batch_that_does_not_fit_is_found_before_the_run(monkeypatch):
    monkeypatch.setattr(models, "find_gpu", lambda: GPU("RTX 3090", 1, 24 * 2**30))
    assert "about 26 images fit at a time" in check_gpu(PAPER).detail
    large = check_gpu(replace(PAPER, batch_size=64))
    assert not large.good and "26 images fit at a time, not 64" in large.detail
    assert large.remedy == "'batch_size: 26' in the profile"


def test_the_weights_table_agrees_with_the_architecture():
    config = LlavaConfig()  # transformers' defaults are LLaVA-1.5-7B's
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    size = 2 * sum(parameter.numel() for parameter in model.parameters())
    assert WEIGHTS[HUB].size == pytest.approx(size, rel=0.002)
    text = config.text_config
    assert WEIGHTS[HUB].cache_per_token == text.num_hidden_layers * text.hidden_size * 2 * 2
    assert WEIGHTS["shape:llava-1.5-7b"] == WEIGHTS[HUB]


@pytest.mark.parametrize("shape", ["qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_the_shapes_of_qwen_weigh_what_the_table_says(shape):
    kind, _, values = CONFIGS[shape]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(kind(**values))
    own = WEIGHTS[f"shape:{shape}"]
    assert own.size == 2 * sum(parameter.numel() for parameter in model.parameters())
    attention = model.model.language_model.layers[0].self_attn
    width = attention.k_proj.out_features
    assert own.cache_per_token == len(model.model.language_model.layers) * width * 2 * 2
