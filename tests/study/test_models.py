"""Loading: the committed model sees, names mean what they say, broken folders are named."""

import hashlib
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lib.study import models, paths
from lib.study.data.scenes import captions, draw, object_f1, sample_scene, scene_seed
from lib.study.models import (
    build_embedded,
    build_processor,
    format_prompt,
    load,
    loading,
    train_tokenizer,
)
from lib.study.paths import embedded_dir

PROMPT = "USER: <image>\nDescribe the image briefly. ASSISTANT:"


@pytest.fixture(scope="module")
def embedded():
    return load("embedded", device="cpu")


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(embedded_dir(), folder)
    return folder


def inputs(processor, images):
    prompt = format_prompt(processor)
    return processor(images=images, text=[prompt] * len(images), return_tensors="pt")


# ------------------------------------------------------------------------------ the committed model


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


def test_format_prompt_needs_a_template(embedded):
    bare = build_processor(embedded.processor.tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        format_prompt(bare)
    assert format_prompt(embedded.processor, "What is this?").endswith("What is this? ASSISTANT:")


# ----------------------------------------------------------------------------------- broken folders


def shard(folder):
    return sorted(folder.glob("*.safetensors"))[1]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model folder at .*nowhere"):
        load(str(tmp_path / "nowhere"))


def test_a_missing_config_is_named(copy):
    (copy / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing: download"):
        load(str(copy))


def test_a_missing_shard_is_named(copy):
    shard(copy).unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00002\.safetensors is missing"):
        load(str(copy))


def test_a_truncated_shard_is_named(copy):
    data = shard(copy).read_bytes()
    shard(copy).write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match=r"00002-of-00002\.safetensors is corrupt"):
        load(str(copy))


def test_a_flipped_bit_is_found_by_the_checksums(copy):
    data = bytearray(shard(copy).read_bytes())
    data[-1000] ^= 1
    shard(copy).write_bytes(data)
    with pytest.raises(OSError, match=r"00002-of-00002\.safetensors is not the published file"):
        load(str(copy))


def test_a_missing_tokenizer_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        load(str(copy))


def test_the_embedded_folder_says_how_to_restore_it(copy, monkeypatch):
    monkeypatch.setattr(paths, "embedded_dir", lambda: copy)
    shard(copy).unlink()
    with pytest.raises(FileNotFoundError, match="git checkout -- data/embedded"):
        load("embedded")


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("llava", {}, ValueError, "unknown model 'llava'"),
        ("shape:llava-2", {}, ValueError, "unknown shape 'shape:llava-2'"),
        ("./nowhere", {}, FileNotFoundError, "no model folder"),
        ("embedded", {"revision": "main"}, ValueError, "needs a hub id"),
        ("embedded", {"device": "cpu", "device_map": "auto"}, ValueError, "not both"),
        ("shape:llava-1.5-7b", {"device_map": "auto"}, ValueError, "device_map does not apply"),
        ("embedded", {"dtype": "float12"}, ValueError, "unknown dtype 'float12'"),
    ],
)
def test_load_refuses(name, options, error, message):
    with pytest.raises(error, match=message):
        load(name, **options)


def test_the_7b_shape_is_llavas():
    model, processor, _ = load("shape:llava-1.5-7b", device="meta", dtype="bfloat16")
    # 7.06 billion, as published for llava-hf/llava-1.5-7b-hf
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072
    assert model.dtype == torch.bfloat16 and model.config.image_seq_length == 576
    batch = inputs(processor, [Image.new("RGB", (640, 480))])
    assert batch["pixel_values"].shape == (1, 3, 336, 336)
    assert (batch["input_ids"] == model.config.image_token_id).sum() == 576


def test_save_and_load_agree(tmp_path):
    tokenizer = train_tokenizer(captions(sample_scene(3)), vocab_size=300)
    narrow = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
    model = build_embedded(tokenizer, vision=narrow, text=narrow)
    twin = build_embedded(tokenizer, vision=narrow, text=narrow)
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))
    models.save(model, build_processor(tokenizer), tmp_path)
    assert model.dtype == torch.float32  # what is saved in half is a copy
    loaded = load(str(tmp_path), device="cpu", dtype="float32")
    for name, weight in model.state_dict().items():
        assert torch.allclose(weight, loaded.model.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert loaded.processor.chat_template == models.CHAT_TEMPLATE


def test_a_revision_reaches_processor_weights_and_configuration(monkeypatch):
    from lib.study import run as study

    profile = study.load_profile("paper")
    assert re.fullmatch(r"[0-9a-f]{40}", profile.revision)
    asked = []

    def note(kind, result):
        def from_pretrained(source, **options):
            asked.append((kind, source, options.get("revision")))
            return result

        return type("Auto", (), {"from_pretrained": staticmethod(from_pretrained)})

    class Stub:
        def to(self, device):
            return self

        eval = lambda self: self  # noqa: E731

    monkeypatch.setattr(loading, "AutoProcessor", note("processor", object()))
    monkeypatch.setattr(loading, "AutoModelForImageTextToText", note("weights", Stub()))
    monkeypatch.setattr(loading, "AutoConfig", note("config", object()))
    models.load(profile.model, revision=profile.revision, device="cpu")
    models.read_config(profile.model, revision=profile.revision)
    assert asked == [
        (kind, "llava-hf/llava-1.5-7b-hf", profile.revision)
        for kind in ("processor", "config", "weights", "config")
    ]
