"""Broken folders are named; what is saved loads."""

import pytest
import torch

from lib.study import models, paths
from lib.study.data.scenes import captions, sample_scene
from lib.study.models import build_embedded, build_processor, load, train_tokenizer


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
