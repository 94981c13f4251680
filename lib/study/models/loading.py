"""The only place that loads a model and its processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ..hub import is_hub_name
from .embedded import embedded_tokenizer
from .folders import check_folder
from .names import check_name, shipped_folder, ships
from .processors import complete
from .shapes import build_shape, shape_config, shape_processor
from .stills import stills


class Loaded(NamedTuple):
    """A model in evaluation mode, its processor, and the name it was asked for by."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    name: str


def load(
    name: str = "embedded",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    device_map: str | dict | None = None,
    attn_implementation: str = "sdpa",
) -> Loaded:
    """Load a model and its processor.

    Parameters
    ----------
    name : ``"embedded"``, ``"photos"``, ``"photos-dropout"``, ``"shape:llava-1.5-7b"``, a hub id
        ``"owner/name"`` or a local folder. A photograph model is put together on first use.
    device : where the weights go; the GPU if there is one, by default. Not with ``device_map``.
    dtype : of the weights; float32 on a CPU and bfloat16 on a GPU by default (models that ship
        with the repository: float32 everywhere, since they are small).
    revision : commit, tag or branch of a hub id; refused for anything else.
    device_map : accelerate's placement of a large model, such as ``"auto"``.
    attn_implementation : ``"sdpa"``, ``"eager"`` or ``"flash_attention_2"``.

    Raises
    ------
    ValueError : unknown name, or options that do not go together.
    FileNotFoundError : a folder, its config or a weight shard is missing.
    OSError : a weight shard is corrupt.

    Examples
    --------
    >>> model, processor, _ = load("shape:llava-1.5-7b", device="meta", dtype="bfloat16")
    >>> sum(p.numel() for p in model.parameters()) // 10**6
    7063
    """
    if device is not None and device_map is not None:
        raise ValueError(f"give device={device!r} or device_map={device_map!r}, not both")
    if device is None and device_map is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(dtype, name, device)
    if name.startswith("shape:"):
        if device_map is not None:
            raise ValueError("device_map does not apply to a random-weight shape: give device=")
        processor = load_processor(name, revision=revision)
        return Loaded(build_shape(name, device, dtype, attn_implementation), processor, name)
    source, extra = _source(name, revision)
    processor = load_processor(name, revision=revision, checked=True)
    model = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, device_map=device_map, attn_implementation=attn_implementation, **extra
    )
    if device is not None:
        model = model.to(device)
    return Loaded(model.eval(), processor, name)


def load_processor(
    name: str = "embedded", *, revision: str | None = None, checked: bool = False
) -> LlavaProcessor:
    """The processor of what `load` would load; settings that it lacks come from the model's config.

    checked: the model's folder was looked at already. Raises as `load` does.
    """
    if name.startswith("shape:"):
        _source(name, revision)  # refuses an unknown one
        return shape_processor(name)
    source, extra = _source(name, revision, checked=checked)
    config = AutoConfig.from_pretrained(source, **extra)
    kind = stills(config) or AutoProcessor
    try:
        processor = kind.from_pretrained(source, backend="pil", **extra)
    except (OSError, ValueError, ImportError) as error:
        raise type(error)(f"no processor could be loaded for {source!r}: {error}") from error
    complete(processor, config)
    return processor


def read_config(name: str = "embedded", *, revision: str | None = None) -> LlavaConfig:
    """The configuration of what `load` would load, without its weights; raises as `load` does.

    >>> read_config("shape:llava-1.5-7b").text_config.num_hidden_layers
    32
    """
    source, extra = _source(name, revision, checked=True)
    if name.startswith("shape:"):
        return shape_config(name, embedded_tokenizer())
    return AutoConfig.from_pretrained(source, **extra)


def _source(
    name: str, revision: str | None, *, checked: bool = False
) -> tuple[str, dict[str, str | None]]:
    """Where the files of a model are, and which revision of them; a folder is checked once."""
    check_name(name)
    if is_hub_name(name):
        return name, {"revision": revision}
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} needs a hub id such as "
            f"'llava-hf/llava-1.5-7b-hf', got name={name!r}"
        )
    folder = shipped_folder(name) or Path(name)
    if not checked and not name.startswith("shape:"):
        check_folder(folder)
    return str(folder), {}


def _dtype(dtype: torch.dtype | str | None, name: str, device: Any) -> torch.dtype:
    """The precision asked for, or the one that suits the model and the device."""
    if dtype is None:
        on_cpu = device is not None and torch.device(device).type == "cpu"
        return torch.float32 if on_cpu or ships(name) else torch.bfloat16
    if isinstance(dtype, str):
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {dtype!r}: use 'float32', 'bfloat16' or 'float16'")
        dtype = getattr(torch, dtype)
    return dtype
