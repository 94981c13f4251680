"""Scenes with questions about them, as a JSON of documents; models as folders on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import LlavaOnevisionVideoProcessor, Qwen2VLVideoProcessor

from lib.study import models
from lib.study.data import Example, ensure_scenes, read_karpathy
from lib.study.data.scenes import COLOURS, SHAPES
from lib.study.paths import ROOT
from tests.plugins.lmms_eval.proof.plan import SCENES
from tests.study.models import families

FOLDER = ROOT / "build" / "lmms-eval"
#: what the tasks read; they name it, too
DOCUMENTS = FOLDER / "scenes.json"
#: with torchvision there, transformers wants the video part of a processor that has one
_VIDEO = {"qwen2_5_vl": Qwen2VLVideoProcessor, "llava_onevision": LlavaOnevisionVideoProcessor}


def scenes() -> list[Example]:
    """The first test scenes, drawn if need be."""
    path = ensure_scenes("test", limit=SCENES, progress=False)
    return read_karpathy(path, "test", check_files=False)[:SCENES]


def documents(examples: list[Example]) -> list[dict]:
    """A document a scene: the path of its image, and for each task a question and its answer.

    The questions with yes and no differ in length, so that batches have to be padded.
    """
    return [_document(examples, number) for number in range(len(examples))]


def _document(examples: list[Example], number: int) -> dict:
    example = examples[number]
    things = {f"{o['colour']} {o['shape']}" for o in example.extra["objects"]}
    question, truth = _question(things, number)
    others = [examples[(number + step) % len(examples)].references[0] for step in (1, 2)]
    choices = [*others, example.references[0]]
    turn = number % len(choices)
    choices = choices[turn:] + choices[:turn]
    return {
        "image_id": example.image_id,
        "path": os.path.relpath(example.path, ROOT),
        "caption": example.references[0],
        "objects": sorted(things),
        "question": question,
        "yes_no": truth,
        "choices": choices,
        "answer": choices.index(example.references[0]),
    }


def _question(things: set[str], number: int) -> tuple[str, str]:
    """Every other question is about something that is there."""
    if number % 2 == 0:
        return f"Is there a {min(things)} in the image? Answer yes or no.", "yes"
    shapes = {thing.split()[1] for thing in things}
    if number % 4 == 1:
        return f"Is there a {min(SHAPES.keys() - shapes)}? Answer yes or no.", "no"
    absent = {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES} - things
    return f"Is there perhaps a small {min(absent)} somewhere? Answer yes or no.", "no"


def write(examples: list[Example]) -> list[dict]:
    """Write the documents where the tasks look for them."""
    made = documents(examples)
    FOLDER.mkdir(parents=True, exist_ok=True)
    DOCUMENTS.write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def folder(name: str) -> Path:
    """The folder of a model; a tiny one is made on first use."""
    if name == "embedded":
        return models.embedded_dir()
    place = FOLDER / "models" / name
    if not (place / "processor_config.json").is_file():
        _VIDEO[name]().save_pretrained(place)
        families.save(name, place)
    return place
