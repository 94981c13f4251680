"""A whole study on a model of a few thousand parameters, in a root of its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from lib.study import models, paths
from lib.study import run as study
from lib.study.data import scenes
from lib.study.profiles import load_profile

PROFILE = """
profile: tiny
description: tiny random model, 3 generated scenes
model: embedded
limit: 3
batch_size: 3
max_new_tokens: 3
ablation_limit: 2
ablation_keep: 0.25
sweep: [0.5]
places: [0, 2, 9]
budgets: [0.25]
metrics: [BLEU-4, CIDEr, SPICE]
n_bootstrap: 20
efficiency: {new_tokens: 2, repeats: 1, sweep: false}
"""


def make_root(folder: Path, *, image_size: int = 84) -> Path:
    """A root with a tiny model, a profile and no results; set `lib.study.paths.ROOT` to it.

    `image_size` in pixels makes (image_size / 14)² visual tokens.
    """
    profiles = folder / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "tiny.yaml").write_text(PROFILE)
    captions = [
        text
        for index in range(40)
        for text in scenes.captions(scenes.sample_scene(scenes.scene_seed("train", index)))
    ]
    tokenizer = models.train_tokenizer(captions, vocab_size=400)
    model = models.build_embedded(
        tokenizer,
        vision={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5,
                "num_attention_heads": 2, "image_size": image_size, "projection_dim": 16},
        text={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
              "num_attention_heads": 2, "num_key_value_heads": 2},
    )  # fmt: skip
    processor = models.build_processor(tokenizer, image_size=image_size)
    models.save(model, processor, folder / "data" / "embedded")
    listing = few_scenes(folder / "data" / "raw" / "scenes", test=3)
    text = PROFILE + f"json_path: {listing}\n"
    (profiles / "tiny.yaml").write_text(text)
    return folder


def few_scenes(folder: Path, **splits: int) -> Path:
    """Draw that many scenes of each split; returns their list, which holds no others.

    A list that is missing would be written for all 3,503, and every word of theirs made up.
    """
    folder.mkdir(parents=True)
    few = json.dumps(scenes.karpathy(splits=splits), separators=(",", ":"))
    (folder / "dataset_scenes.json").write_text(few)
    for split, count in splits.items():
        listing = scenes.ensure_scenes(split, limit=count, progress=False, folder=folder)
    return listing


def run(**options) -> dict:
    """The study of the tiny profile under the current `lib.study.paths.ROOT`."""
    return study.run(load_profile("tiny"), device="cpu", progress=False, **options)


def computed_once(factory: pytest.TempPathFactory) -> Path:
    """A root in which the whole study has run, once for all processes of the tests: copy it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers'
    folder, done = base / "tiny-study", base / "tiny-study.done"
    with FileLock(base / "tiny-study.lock"), pytest.MonkeyPatch.context() as patch:
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            patch.setattr(paths, "ROOT", make_root(folder))
            run()
            done.touch()
    return folder


def copied(computed: Path, folder: Path) -> Path:
    """A copy of a root at a new place, its profile's paths, too."""
    shutil.copytree(computed, folder)
    profile = folder / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text().replace(str(computed), str(folder)))
    return folder
