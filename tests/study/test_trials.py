"""Trials measure what they say, and keep it where the card looks for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.geometry import feature_layer
from lib.pruning import create
from lib.study import clusters, trials
from lib.study.divergence import divergence
from lib.study.examples import examples
from lib.study.models import load
from lib.study.profiles import load_profile
from tests.tiny_study import few_scenes


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The embedded model on three scenes in place of photographs."""
    model, processor, _ = load("embedded", device="cpu")

    def bench(self, weights, device, batch_size):
        self.model, self.processor, self.batch_size = model, processor, batch_size

    listing = few_scenes(tmp_path / "scenes", val=3, test=3)
    profile = replace(load_profile("embedded"), limit=3, json_path=str(listing))
    monkeypatch.setattr(trials._Bench, "__init__", bench)
    monkeypatch.setattr(trials, "load_profile", lambda name: profile)
    monkeypatch.setattr(trials, "COUNTS", (16, 64))
    monkeypatch.setattr(trials.paths, "data_dir", lambda: tmp_path)
    return model, processor, profile


def test_budgets_and_entropies_are_those_of_plain_calls(small):
    model, processor, profile = small
    path = trials.measure("budgets", limit=2, device="cpu", batch_size=1)
    found = trials.load_trial("budgets")
    assert path.name == "budgets.json.xz" and found["environment"]["device"] == "cpu"
    assert found["layer"] == 2 and found["budgets"].keys() == {"val", "test"}
    part, images = found["budgets"]["test"], examples(profile, limit=2, progress=False)
    assert part["image_ids"] == [image.image_id for image in images]
    pruner = {"x": create("fastv", keep=16 / 256, layer=2)}
    rows = divergence(model, processor, images, pruner, prompt=profile.prompt, progress=False)["x"]
    np.testing.assert_allclose(part["kl"]["fastv-6.25"], [row["kl"] for row in rows], rtol=6e-3)
    for image, entropy in zip(images, part["entropy"], strict=True):
        pixels = processor.image_processor([trials.load_image(image.path)], return_tensors="pt")
        with torch.no_grad():
            states = model.model.vision_tower(**pixels, output_hidden_states=True).hidden_states
        tokens = states[feature_layer(model.config)][0, 1:].double().numpy()
        unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
        values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
        values = values[values > 1e-15]
        assert entropy == pytest.approx(-(values * np.log(values)).sum(), rel=1e-4)


def test_checkpoints_are_named_after_their_files(small, tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    trials.measure("checkpoints", limit=1, weights=files, device="cpu")
    found = trials.load_trial("checkpoints")["checkpoints"]
    assert found.keys() == {"a", "b"} and found["a"] == found["b"]
    assert {slug.rsplit("-", 1)[0] for slug in found["a"]["kl"]} == {
        "fastv", "random", "entropy-prune", "selection", "weighted"
    }  # fmt: skip


def test_clusters_are_measured_on_both_splits(small, monkeypatch):
    profile = replace(small[2], budgets=(1 / 16,))
    monkeypatch.setattr(trials, "load_profile", lambda name: profile)
    monkeypatch.setattr(clusters, "CLUSTERS", (8,))
    monkeypatch.setattr(clusters, "VARIED", ())
    trials.measure("clusters", limit=1, device="cpu")
    found = trials.load_trial("clusters")
    assert found["layer"] == 2 and found["clusters"].keys() == {"val", "test"}
    assert [part["kl"].keys() for part in found["clusters"].values()] == [{"8-4-16"}] * 2


def test_the_half_with_more_entropy_keeps_more():
    generator = np.random.default_rng(0)
    entropy, low, high = generator.random((3, 7))
    found = trials.two_levels(entropy, low, high)
    for value, a, b, rank in zip(found, low, high, entropy.argsort().argsort(), strict=True):
        assert value == (b if rank >= 3 else a)


def test_an_unknown_trial_is_refused():
    with pytest.raises(ValueError, match="unknown trial 'x': choose from candidates, checkpoints"):
        trials.measure("x")
