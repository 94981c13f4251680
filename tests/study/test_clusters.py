"""Choices of Algorithm 1 per image are measured as the method itself is, and chosen as said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.geometry import feature_layer
from lib.pruning import create
from lib.selection import hierarchical
from lib.study import clusters, trials
from lib.study.divergence import divergence
from lib.study.examples import examples
from lib.study.models import load
from lib.study.profiles import load_profile

SIZES = (8, 32)


@pytest.fixture(scope="module")
def found():
    """The trial on two scenes, one a batch, and what it was made with."""
    model, processor, _ = load("embedded", device="cpu")
    profile = replace(load_profile("embedded"), limit=3)
    images = examples(profile, limit=2, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "CLUSTERS", SIZES)
        patch.setattr(clusters, "VARIED", (32,))
        made = clusters.measure_clusters(
            model, processor, images, (16, 64), prompt=profile.prompt, batch_size=1
        )
    return model, processor, profile, images, made


def test_every_pair_is_measured_once(found):
    *_, images, made = found
    assert made["image_ids"] == [image.image_id for image in images]
    few = {f"8-4-{count}" for count in (16, 64)}
    assert made["kl"].keys() == few | {
        *(f"32-{k}-64" for k in (8, 12, 16, 20, 24)), *(f"32-{k}-16" for k in (8, 12, 16))
    }  # fmt: skip


def test_divergences_are_those_of_the_method(found):
    model, processor, profile, images, made = found
    numbers = [(8, 4, 16), (32, 12, 64), (32, 16, 16)]
    pruners = {
        f"{m}-{k}-{count}": create(
            "entropy", keep=count / 256, layer=2, n_clusters=m, core_clusters=k
        )
        for m, k, count in numbers
    }
    rows = divergence(model, processor, images, pruners, prompt=profile.prompt, progress=False)
    for slug, each in rows.items():
        expected = [row["kl"] for row in each]
        np.testing.assert_allclose(made["kl"][slug], expected, rtol=6e-3)
        assert len(set(expected)) == 2 and min(expected) > 0


def test_entropies_and_held_shares_are_those_of_the_tokens(found):
    model, processor, _, images, made = found
    for row, image in enumerate(images):
        pixels = processor.image_processor([trials.load_image(image.path)], return_tensors="pt")
        with torch.no_grad():
            states = model.model.vision_tower(**pixels, output_hidden_states=True).hidden_states
        last = feature_layer(model.config)
        tokens = states[last][0, 1:].double().numpy()
        unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
        values = np.linalg.eigvalsh(unit @ unit.T / len(unit))
        values = values[values > 1e-15]
        assert made["entropy"][row] == pytest.approx(-(values * np.log(values)).sum(), rel=1e-4)
        layers = [states[layer][:, 1:] for layer in range(last - 3, last + 1)]
        scores = hierarchical(layers[-1], 32, 16, 2, layers=layers).cluster_scores[0].numpy()
        scores = np.sort(np.maximum(scores, 0))[::-1]
        expected = [scores[:k].sum() / scores.sum() for k in (8, 12, 16, 20, 24)]
        np.testing.assert_allclose(made["held"]["32"][row], expected, rtol=6e-3)


def test_the_nearest_size_by_ratio():
    generator = np.random.default_rng(0)
    rank = generator.uniform(1, 80, 200)
    for value, index in zip(rank, clusters.nearest(rank, 2.5, (8, 16, 48)), strict=True):
        ratios = [max(2.5 * value / size, size / (2.5 * value)) for size in (8, 16, 48)]
        assert index == int(np.argmin(ratios))


def test_the_fewest_clusters_that_hold_a_share_and_its_calibration():
    generator = np.random.default_rng(1)
    held, levels = np.sort(generator.random((300, 5)), axis=1), (8, 12, 16, 20, 24)
    for row, index in zip(held, clusters.fewest(held, 0.6), strict=True):
        enough = [place for place, value in enumerate(row) if value >= 0.6]
        assert index == (enough[0] if enough else 4)
    for mean in (10, 16, 22):
        share = clusters.share_for(held, levels, mean)
        sizes = np.array(levels)[clusters.fewest(held, share)]
        assert sizes.mean() == pytest.approx(mean, abs=0.03)
