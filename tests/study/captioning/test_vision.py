"""One pass of the tower for several methods."""

import pytest
import torch
from PIL import Image
from transformers import LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from lib.pruning import create
from lib.study import models
from lib.study.captioning import SharedVision, caption_methods, loop
from lib.study.records import canonical
from tests.study.captioning.kit import QUICK, Picture
from tests.tiny import tiny_llava_next
from tests.tiny_captioner import SIDE


def test_shared_vision_serves_any_layer_and_restores_the_tower(kit):
    model, _ = kit
    tower = model.model.vision_tower
    pixels = torch.rand(2, 3, SIDE, SIDE)
    plain = tower(pixels, output_hidden_states=True)
    vision = SharedVision(model)
    with torch.inference_mode(), vision.batch([5, 6]):
        first, second = tower(pixels, return_dict=True), tower(pixels, return_dict=True)
        assert first is not second and len(second.hidden_states) == 5
        for a, b in zip(second.hidden_states, plain.hidden_states):
            torch.testing.assert_close(a, b)
        features = model.get_image_features(pixels).pooler_output
        with pytest.raises(RuntimeError, match="already in use"), vision.batch([5, 6]):
            pass
    assert (vision.computed, vision.reused) == (1, 2)
    expected = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(torch.stack(list(features)), torch.stack(list(expected)))
    assert "forward" not in vars(tower)
    with pytest.raises(ValueError, match="got 2 rows, but"), vision.batch([5]):
        tower(pixels)
    assert "forward" not in vars(tower)
    with torch.inference_mode(), vision.batch([7, 8]):  # capacity 1: the first batch is forgotten
        tower(pixels)
    with torch.inference_mode(), vision.batch([5, 6]):
        tower(pixels)
    assert vision.computed == 3
    vision.clear()


def test_a_forward_set_by_someone_else_comes_back(kit):
    model, _ = kit
    tower = model.model.vision_tower
    original = tower.forward
    tower.forward = placed = lambda *args, **kwargs: original(*args, **kwargs)
    try:
        with SharedVision(model).batch([1]):
            assert tower.forward is not placed
        assert tower.forward is placed
    finally:
        del tower.forward


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """A LLaVA-NeXT with its processor, and pictures of several shapes for it."""
    tokenizer, side = models.embedded_tokenizer(), 42
    model = tiny_llava_next()
    image = tokenizer.convert_tokens_to_ids(models.IMAGE_TOKEN)
    model.resize_token_embeddings(len(tokenizer))
    config = model.config
    config.image_token_index = config.image_token_id = model.model.config.image_token_id = image
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=models.CHAT_TEMPLATE,
    )
    folder, examples = tmp_path_factory.mktemp("tiled"), []
    for number, size in enumerate([(100, 60), (60, 100), (90, 50)]):
        Image.effect_noise(size, 60).convert("RGB").save(folder / f"{number}.png")
        examples.append(Picture(number, folder / f"{number}.png"))
    return model, processor, examples


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_tiles_are_encoded_once_for_several_methods(tiled, batch_size, monkeypatch):
    model, processor, examples = tiled
    options = QUICK | {"batch_size": batch_size}
    methods = {"unpruned": None, "fastv": ("fastv", {"layer": 2}), "mask": ("fastv", {"layer": 1})}

    def made(**more):
        pruners = {s: None if m is None else create(m[0], **m[1]) for s, m in methods.items()}
        found = caption_methods(model, processor, examples, pruners, None, **options, **more)
        return {slug: canonical(records) for slug, records in found.items()}

    shared = []
    monkeypatch.setattr(loop, "SharedVision", lambda m: shared.append(SharedVision(m)) or shared[0])
    together = made()
    assert together == made(share_vision=False)
    batches = -(-len(examples) // batch_size)
    assert (shared[0].computed, shared[0].reused) == (batches, 2 * batches)
    assert all(0 < r["kept"] < r["visual_tokens"] for r in together["fastv"])


def test_fewer_rows_than_images_are_another_batch(tiled):
    model, _, _ = tiled
    with pytest.raises(ValueError, match="got 1 rows, but"), SharedVision(model).batch([1, 2]):
        model.model.vision_tower(torch.rand(1, 3, 42, 42))
