"""What serving many images a day would cost, computed from rows of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.shapes import SHAPES


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is assumed.

    images: a day, one a request. peak: the busiest hour over the mean. used: share of the time that
    a GPU works then. memory: bytes of the card, as its data sheet has them. new_tokens: of a greedy
    caption.
    """

    images: int = 1_000_000
    peak: float = 3.0
    used: float = 0.7
    memory: float = 141e9
    new_tokens: int = 64


def seconds_an_image(row: Mapping[str, Any], load: Load) -> tuple[float, float]:
    """Seconds of the prompt and of the tokens behind its first, of a benchmark row, an image.

    >>> row = {"batch": 2, "static_prefill": {"median": 1.0}, "static_decode": {"median": 0.1}}
    >>> seconds_an_image(row, Load(new_tokens=11))
    (0.5, 0.5)
    """
    steps = (load.new_tokens - 1) * row["static_decode"]["median"]
    return row["static_prefill"]["median"] / row["batch"], steps / row["batch"]


def gpus(seconds: float, load: Load) -> float:
    """GPUs that keep up at the peak.

    >>> gpus(0.0864, Load(images=1_000_000, peak=2.0, used=0.5))
    4.0
    """
    return load.images * seconds * load.peak / load.used / 86_400


def position_bytes(model: str = "llava-1.5-7b", width: int = 2) -> int:
    """Bytes of the cache that one position takes: keys and values of all layers.

    width: bytes of a number, two in bfloat16.

    >>> position_bytes()
    524288
    """
    text = SHAPES[model]["text"]
    head = text["hidden_size"] // text["num_attention_heads"]
    return 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * head * width


def requests(row: Mapping[str, Any], unpruned: Mapping[str, Any], load: Load) -> float:
    """Requests whose caches fit beside what one prompt alone takes at its peak."""
    own = row["cache_bytes"] / row["batch"] + load.new_tokens * position_bytes()
    return (load.memory - unpruned["peak_bytes"]) / own


def cached_share(row: Mapping[str, Any], unpruned: Mapping[str, Any], load: Load) -> float:
    """The share of unpruned prompts that has to come from a cache for pruning to save nothing.

    Their own prefill is spared then, while every pruned prompt is computed.
    """
    whole, own = sum(seconds_an_image(unpruned, load)), sum(seconds_an_image(row, load))
    return (whole - own) / seconds_an_image(unpruned, load)[0]
