"""Where the time of a caption goes, one method after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .parts import Parts
from .probe import Probe
from .timing import Timing, free_peak, measure, peak_bytes


def latency(
    probe: Probe, *, warmup: int = 2, repeats: int = 5, generate_repeats: int | None = None
) -> dict[str, Any]:
    """Where the time of a caption goes, for one method and batch of prompts.

    Returns what `Probe.counts` does, and as `Timing` dictionaries `vision`, `prefill` (to the first
    token, the vision tower and the scorer included), `scorer`, `decode` (per token behind the
    first, if there is one) and `end_to_end` (`new_tokens` greedy tokens through `generate`), with
    `peak_bytes` (GPU only, over an end-to-end call). Every method runs with the attention
    implementation the model has. With a decoder also the same of the fast path: `static_prefill`,
    `static_decode` and `static_end_to_end`, and `static_agreement`, the share of its tokens that
    equal those of `generate` (below 1 in half precision where two logits nearly tie).
    generate_repeats: repeats of `generate` if other than `repeats`; 0 leaves it out.
    """
    generate_repeats = repeats if generate_repeats is None else generate_repeats
    device, result = probe.device, {}
    often = {"device": device, "warmup": warmup, "repeats": repeats}

    def timed(name: str, function: Callable[[], Any], **other: Any) -> None:
        result[name] = asdict(measure(function, **(often | other)))

    with probe.active():
        timed("vision", probe.vision)
        timed("prefill", probe.prefill)
        result["scorer"] = asdict(_scorer_time(probe, repeats))
        result |= probe.counts()
        _forget(probe)
        if generate_repeats:
            timed("end_to_end", probe.generate, repeats=generate_repeats, warmup=min(warmup, 2))
            if probe.new_tokens > 1:
                result["decode"] = _per_token(result, "", probe.new_tokens, repeats)
    peak = peak_bytes(device)
    if probe.decoder is not None:
        fast = fast_path(probe, warmup=warmup, repeats=repeats, compared=bool(generate_repeats))
        peak = None if peak is None else max(peak, fast["peak_bytes"])
        result |= fast
    return result | {"peak_bytes": peak}


def fast_path(
    probe: Probe, *, warmup: int = 2, repeats: int = 5, compared: bool = True
) -> dict[str, Any]:
    """The times of `probe.decoder`, and the memory at its peak.

    Two calls warm up at least: the second one captures. compared: `static_agreement`, too.
    """
    often = {"device": probe.device, "warmup": max(2, warmup), "repeats": repeats}
    result: dict[str, Any] = {}
    with probe.active():
        _forget(probe)
        result["static_prefill"] = asdict(measure(probe.static_prefill, **often))
        result["static_end_to_end"] = asdict(measure(probe.static, **often))
        if probe.new_tokens > 1:
            result["static_decode"] = _per_token(result, "static_", probe.new_tokens, repeats)
        result["peak_bytes"] = peak_bytes(probe.device)
        if compared:
            same = probe.static() == probe.generate()
            result["static_agreement"] = same.float().mean().item()
    return result


def _per_token(result: dict[str, Any], prefix: str, tokens: int, repeats: int) -> dict[str, Any]:
    seconds = result[f"{prefix}end_to_end"]["median"] - result[f"{prefix}prefill"]["median"]
    return {"median": seconds / (tokens - 1), "per": "token", "repeats": repeats}


def _forget(probe: Probe) -> None:
    """What another method captured, or its memory at the peak, is not this one's."""
    if probe.decoder is not None:
        probe.decoder.clear()
    free_peak(probe.device)


def _scorer_time(probe: Probe, repeats: int) -> Timing:
    """Time of choosing within one prefill; nothing without a method."""
    seconds = [0.0] * repeats
    for index in range(repeats if probe.pruner is not None else 0):
        parts = Parts(probe.device)
        with parts.watching(probe.model, probe.pruner):
            probe.prefill()
        seconds[index] = parts.seconds()["scorer"]
    return Timing.of(seconds)
