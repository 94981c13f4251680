"""Captioning with a model and a processor of every newer family, from a folder like the hub's."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lib.pruning import create
from lib.study import models
from lib.study.captioning import caption_methods
from tests.study.captioning.kit import QUICK, Picture
from tests.study.models.families import save

NAMES = ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "idefics3"]
METHODS = {
    "unpruned": None,
    "random": ("random", {"keep": 0.5}),
    "fastv": ("fastv", {"keep": 0.25, "layer": 2}),
    "entropy": ("entropy", {"keep": 0.5}),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of different sizes, wide and high."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    examples = []
    for number, size in enumerate([(80, 40), (40, 80), (60, 58), (90, 30)]):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = folder / f"{number}.png"
        coarse.resize(size).save(path)
        examples.append(Picture(100 - 7 * number, path))
    return examples


def pruners():
    return {s: None if m is None else create(m[0], **m[1]) for s, m in METHODS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_images_of_different_sizes_in_batches(name, tmp_path, pictures):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = save(name, tmp_path / name)
    model, processor, _ = models.load(str(folder), device="cpu")
    model.generation_config.eos_token_id = None
    together = caption_methods(model, processor, pictures, pruners(), None, **QUICK)
    alone = caption_methods(
        model, processor, pictures, pruners(), None, **(QUICK | {"batch_size": 1}),
        share_vision=False,
    )  # fmt: skip
    for slug, records in together.items():
        plain = [{k: v for k, v in r.items() if k != "seconds"} for r in records]
        assert plain == [{k: v for k, v in r.items() if k != "seconds"} for r in alone[slug]]
        for record in records:
            share = {"unpruned": 1, "random": 0.5, "entropy": 0.5, "fastv": 0.25}[slug]
            assert record["visual_tokens"] >= 16
            assert abs(record["kept"] - share * record["visual_tokens"]) <= 5
    assert len({r["visual_tokens"] for r in together["unpruned"]}) > 1


def test_kept_indices_count_through_the_tiles_of_a_prompt(tmp_path, pictures):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = save("internvl", tmp_path / "internvl")
    model, processor, _ = models.load(str(folder), device="cpu")
    records = caption_methods(
        model, processor, pictures, {"random": create("random")}, None, kept_indices=True, **QUICK
    )["random"]
    for record in records:
        kept = torch.tensor(record["kept_indices"])
        per_tile = torch.bincount(kept // 16, minlength=record["visual_tokens"] // 16)
        assert (per_tile == 8).all() and record["kept"] == len(kept)
