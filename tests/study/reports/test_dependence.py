"""The known cases and the features are computed once, and are those of the estimators."""

import pytest
import torch

from lib.study import models
from lib.study.captioning.images import load_image
from lib.study.dependence import Gaussians, caption_features, gaussian_gram, image_features, sweep
from lib.study.examples import examples
from lib.study.profiles import load_profile
from lib.study.reports import dependence


def test_known_cases_are_the_sweep_and_are_kept(bare, monkeypatch):
    cases = [Gaussians(20, 1, 0.5), Gaussians(20, 2, 0.0)]
    frame = dependence.known_cases("tiny", cases, seeds=(0,))
    wanted = sweep(cases, seeds=(0,))
    assert list(frame["value"]) == pytest.approx([row["value"] for row in wanted])
    assert list(frame["estimator"]) == [row["estimator"] for row in wanted]
    monkeypatch.setattr(dependence, "sweep", None)  # not called again
    again = dependence.known_cases("tiny", cases, seeds=(0,))
    assert list(again["value"]) == list(frame["value"])


def test_features_are_those_of_the_profiles_images(root, monkeypatch):
    images, captions = dependence.paired_features("tiny", 3)
    profile = load_profile("tiny")
    few = examples(profile, limit=3, progress=False)
    assert len(images) == len(captions) == 3
    model, processor, _ = models.load(profile.model)
    alone = [processor.image_processor(load_image(e.path), return_tensors="pt") for e in few]
    pixels = torch.cat([one["pixel_values"] for one in alone])
    said = caption_features(model, processor.tokenizer, [e.references[0] for e in few])
    for got, want in ((images, image_features(model, pixels)), (captions, said)):
        torch.testing.assert_close(gaussian_gram(got), gaussian_gram(want), atol=2e-2, rtol=0)
    monkeypatch.setattr(dependence, "loaded_quietly", None)  # stored: no model is needed
    assert torch.equal(dependence.paired_features("tiny", 3)[0], images)
