"""Assembly: the folder says what the model with adapters says, and is made once."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lib.study.models import format_prompt, load, photos, read_config
from lib.study.models.photos import assembly, weights


@pytest.fixture
def picture():
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def logits_of(model, processor, picture):
    batch = processor(images=[picture], text=[format_prompt(processor)], return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[0, -1]


def test_the_folder_says_what_the_trained_model_says(index, published, picture):
    folder = photos.assembled("photos")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    got = logits_of(model, processor, picture)
    wanted = logits_of(published["photos"], processor, picture)
    bare, _ = photos.read_gguf(folder.parents[1] / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (got - wanted).norm() < 0.06 * wanted.norm()  # bytes and float16
    assert not torch.equal(  # and the adapters are in it
        model.model.language_model.layers[0].mlp.up_proj.weight,
        bare.model.layers[0].mlp.up_proj.weight,
    )
    tied = model.get_input_embeddings().weight.data_ptr()
    assert model.lm_head.weight.data_ptr() == tied


def test_the_two_checkpoints_differ_and_share_the_tower(index, published, picture):
    models = [
        AutoModelForImageTextToText.from_pretrained(photos.assembled(name), dtype=torch.float32)
        for name in photos.NAMES
    ]
    a, b = (m.model.vision_tower.state_dict() for m in models)
    assert all(torch.equal(a[name], b[name]) for name in a)
    processor = AutoProcessor.from_pretrained(photos.assembled("photos"), backend="pil")
    one, two = (logits_of(m, processor, picture) for m in models)
    assert (one - two).abs().max() > 0.1


def test_it_is_put_together_once_and_again_when_the_weights_change(index, published):
    told = []
    first = photos.assembled("photos", report=told.append)
    assert len(told) == 5 and len(index) == 1  # downloaded, unpacked, three steps
    told.clear()
    assert photos.assembled("photos", report=told.append) == first and not told
    path = photos.photos_dir() / "photos.safetensors"
    state, facts = weights.read(path)
    state["projector.linear_1.bias"] += 1
    weights.write(path, state, **facts)
    with pytest.raises(OSError, match=r"photos.safetensors is not the published file"):
        photos.assembled("photos")
    sums = photos.photos_dir() / "SHA256SUMS"
    kept = [line for line in sums.read_text().splitlines() if "  photos.safe" not in line]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text("\n".join([*kept, f"{digest}  photos.safetensors"]) + "\n")
    second = photos.assembled("photos", report=told.append)
    assert second != first and not first.exists() and len(index) == 1  # the wheel was kept


def test_the_whole_photograph_is_seen(published, index):
    """Squashed, not cut: the right edge of a wide picture reaches the tower."""
    processor = AutoProcessor.from_pretrained(photos.assembled("photos"), backend="pil")
    wide = np.zeros((56, 560, 3), dtype=np.uint8)
    wide[:, 500:] = 255
    pixels = processor.image_processor(images=[Image.fromarray(wide)], return_tensors="pt")
    values = pixels["pixel_values"][0, 0]
    assert values.shape == (56, 56)
    assert values[:, -3:].min() > values[:, :40].max()


def test_the_prompt_is_the_language_models_own(published, index):
    processor = AutoProcessor.from_pretrained(photos.assembled("photos"), backend="pil")
    assert format_prompt(processor) == (
        "<|im_start|>user\n<image>\nDescribe the image briefly.<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids("<image>") == 3  # where <jupyter_text> was
    assert len({tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token}) == 3


def test_the_last_layer_is_never_read(published):
    tower = published["photos"].model.vision_tower
    states = torch.randn(1, 17, 32)
    with torch.no_grad():
        assert torch.equal(tower.encoder.layers[-1](states, attention_mask=None), states)


def test_what_is_missing_or_unknown_is_named(home, published):
    with pytest.raises(ValueError, match="unknown photograph model 'pictures'"):
        photos.assembled("pictures")
    (photos.photos_dir() / "tower.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"tower\.safetensors is missing: restore it"):
        photos.assembled("photos")
    with pytest.raises(ValueError, match="not this tower's weights: missing"):
        assembly.load_tower(published["photos"], {"embeddings.class_embedding": torch.zeros(32)})


def test_load_knows_them_by_name(index, published, picture):
    for name in photos.NAMES:
        model, processor, said = load(name, device="cpu")
        assert said == name and model.dtype == torch.float32 and not model.training
        got = logits_of(model, processor, picture)
        wanted = logits_of(published[name], processor, picture)
        assert (got - wanted).norm() < 0.06 * wanted.norm()
    assert read_config("photos").image_seq_length == 16
    with pytest.raises(ValueError, match=r"unknown model 'photo': use .*'photos-dropout'"):
        load("photo")
