"""Model folders: checked before transformers reads them, and written with checksums."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, ProcessorMixin

from .. import paths

SUMS = "SHA256SUMS"


def check_folder(folder: Path) -> None:
    """Check a model folder before transformers reads it, for errors that name file and remedy.

    Looks for the config, for each weight shard, whether each is a whole safetensors file, and,
    where the folder holds ``SHA256SUMS``, whether each file is the published one.

    Raises
    ------
    FileNotFoundError : folder, config or shard missing.
    OSError : a shard is truncated, not safetensors, or does not match its checksum.
    """
    folder = Path(folder)
    remedy = _remedy(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder at {folder}: {remedy}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing: {remedy}")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for shard in (folder / name for name in names):
        if not shard.is_file():
            raise FileNotFoundError(f"weight shard {shard} is missing: {remedy}")
        try:
            with safe_open(shard, "pt"):
                pass
        except SafetensorError as error:
            raise OSError(f"weight shard {shard} is corrupt ({error}): {remedy}") from error
    sums = folder / SUMS
    if sums.is_file():
        for line in sums.read_text().splitlines():
            digest, _, name = line.partition("  ")
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: {remedy}")
            if _sha256(folder / name) != digest:
                raise OSError(
                    f"{folder / name} is not the published file (its sha256 differs "
                    f"from {SUMS}): {remedy}"
                )


def _remedy(folder: Path) -> str:
    if folder.resolve() == paths.embedded_dir().resolve():
        return (
            "restore it with 'git checkout -- data/embedded', or train it again with "
            "notebooks/90_train_embedded_model.ipynb"
        )
    return "download the model again, or check the path"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write a model folder: float16 safetensors shards below 16 MiB, processor, checksums."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    half = copy.deepcopy(model).to("cpu", torch.float16)
    half.save_pretrained(folder, max_shard_size="15MB")
    processor.save_pretrained(folder)
    published = [
        *sorted(folder.glob("*.safetensors")),
        *sorted(folder.glob("*.json")),
        *sorted(folder.glob("*.jinja")),
    ]
    (folder / SUMS).write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in published))
