"""Put the photograph model together from its parts, once, and keep it as a Hugging Face folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from ... import paths
from . import weights
from .architecture import build, photo_processor, read_gguf
from .publishing import SUMS
from .wheel import check, language_file

#: `photos` learnt with all visual tokens, `photos-dropout` with random ones hidden.
NAMES = ("photos", "photos-dropout")
FORMAT = "1"  # of assembled folders: a change makes them afresh


def photos_dir() -> Path:
    """This project's own weights, `data/photos/`."""
    return paths.data_dir() / "photos"


def _tell(message: str) -> None:
    print(f"photos: {message}", file=sys.stderr, flush=True)


def assembled(name: str = "photos", *, report: Callable[[str], None] = _tell) -> Path:
    """The folder of a model of `NAMES`, ready for `from_pretrained`; put together if need be.

    It lies in `data/raw/models/`, named after what it was made of, and may be deleted.

    Raises
    ------
    ValueError : another name.
    FileNotFoundError, OSError : weights are missing or damaged; see `language_file`.
    """
    if name not in NAMES:
        raise ValueError(f"unknown photograph model {name!r}: known are {', '.join(NAMES)}")
    folder = photos_dir()
    parts = [folder / "tower.safetensors", folder / f"{name}.safetensors"]
    digests = _published(folder, parts)
    key = hashlib.sha256("".join([FORMAT, *digests]).encode()).hexdigest()[:12]
    ready = paths.raw_dir() / "models" / f"{name}-{key}"
    if (ready / "config.json").is_file():
        return ready
    model, processor = assemble(language_file(report), parts[0], parts[1], report=report)
    ready.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ready.parent, prefix=".") as scratch:
        report(f"writing {ready}")
        made = Path(scratch) / "made"
        save(model, processor, made)
        for old in ready.parent.glob(f"{name}-{'[0-9a-f]' * 12}"):
            shutil.rmtree(old, ignore_errors=True)
        os.replace(made, ready)
    return ready


def assemble(
    language: Path, tower: Path, adapters: Path, *, report: Callable[[str], None] = _tell
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model, float32, and its processor, from a GGUF file and this project's two files."""
    report("dequantising the language model")
    words, tokenizer = read_gguf(language)
    state, facts = weights.read(tower)
    vision = {key: int(value) for key, value in facts.items()}
    model = build(words, tokenizer, vision=vision)
    report("adding tower, projector and adapters")
    load_tower(model, state)
    own, facts = weights.read(adapters)
    merge(model, own, scale=facts["alpha"] / facts["rank"])
    sizes = model.config.vision_config
    processor = photo_processor(tokenizer, image_size=sizes.image_size, patch_size=sizes.patch_size)
    return model.eval(), processor


def load_tower(model: LlavaForConditionalGeneration, state: Mapping[str, torch.Tensor]) -> None:
    """Take a tower's weights; the last layer, which nothing reads, may be missing."""
    tower = model.model.vision_tower
    last = f"encoder.layers.{len(tower.encoder.layers) - 1}."
    wanted = tower.state_dict()
    missing = [n for n in wanted if n not in state and not n.startswith((last, "post_layernorm"))]
    strange = [n for n in state if n not in wanted]
    if missing or strange:
        raise ValueError(
            f"these are not this tower's weights: missing {missing[:2]}, unknown {strange[:2]}"
        )
    tower.load_state_dict(state, strict=False)


def merge(
    model: LlavaForConditionalGeneration, state: Mapping[str, torch.Tensor], *, scale: float
) -> None:
    """Add scale·B·A to each matrix that has adapters; take the projector's weights. In place."""
    language = dict(model.model.language_model.named_parameters())
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        for name, weight in state.items():
            if name.endswith(".A"):
                place = name.removesuffix(".A")
                language[f"{place}.weight"] += scale * (state[f"{place}.B"] @ weight)
    inside = {n.removeprefix("projector."): w for n, w in state.items() if "projector." in n}
    projector.load_state_dict(inside)


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """An ordinary Hugging Face folder: float16 weights, configuration, processor."""
    half = model.to(torch.float16)
    half.save_pretrained(folder)
    processor.save_pretrained(folder)


def _published(folder: Path, parts: list[Path]) -> list[str]:
    """The parts' checksums, each file found to be the published one."""
    remedy = f"restore it with 'git checkout -- {folder}', or train it with notebook 91"
    sums = folder / SUMS
    for path in (sums, *parts):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {remedy}")
    known = dict(reversed(line.split("  ")) for line in sums.read_text().splitlines())
    for path in parts:
        try:
            check(path, known[path.name])
        except OSError as error:
            raise OSError(f"{path} is not the published file (see {SUMS}): {remedy}") from error
    return [known[path.name] for path in parts]
