"""Where the time of a decoding step goes: its kernels, and the least that its bytes take."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ...decoding import StaticDecoder
from .plan import Measurements, Plan
from .probe import Probe
from .prompts import random_prompts
from .timing import measure

#: kernels that are named; the others are added up
NAMED = 12


@torch.inference_mode()
def steps(model: Any, record: Measurements, plan: Plan) -> None:
    """A step of the static decoder, unpruned, at each batch size of the plan.

    `seconds` a step by the clock, `busy` the sum of its kernels, `kernels` the longest of them with
    `count` and `seconds` a step, `floor` what reading the language model's weights and the cache
    once takes at the bandwidth that the same device reads a large tensor with.
    """
    for batch in plan.batches:
        decoder = StaticDecoder(model, compiled=plan.compiled)
        probe = Probe(model, random_prompts(model, batch), None, plan.new_tokens, decoder)
        device = probe.device
        for _ in range(3):  # compiles, captures, replays
            probe.static()
        often = {"device": device, "repeats": plan.repeats}
        whole, first = (measure(call, **often) for call in (probe.static, probe.static_prefill))
        each = 1 / (plan.new_tokens - 1)
        counts, spent = Counter(), Counter()
        for sign, call in ((1, probe.static), (-1, probe.static_prefill)):
            for name, count, seconds in _kernels(call, device):
                counts[name] += sign * count * each
                spent[name] += sign * seconds * each
        longest = spent.most_common(NAMED)
        bandwidth = _bandwidth(device)
        held = _weights(model) + probe.counts()["cache_bytes"]
        row = {
            "batch": batch,
            "compiled": plan.compiled,
            "seconds": (whole.median - first.median) * each,
            "prefill": asdict(first),
            "busy": sum(spent.values()),
            "kernels": [{"name": n, "count": counts[n], "seconds": s} for n, s in longest],
            "bytes": held,
            "bytes_per_second": bandwidth,
            "floor": held / bandwidth,
        }
        record.put("step", row, "batch", "compiled")
        print(
            f"a step at batch {batch}: {1e3 * row['seconds']:.2f} ms, kernels "
            f"{1e3 * row['busy']:.2f} ms; reading {held / 1e9:.1f} GB once takes "
            f"{1e3 * row['floor']:.2f} ms",
            flush=True,
        )


def _kernels(call: Callable[[], Any], device: torch.device) -> list[tuple[str, int, float]]:
    """Name, count and seconds of every kernel (of every operation on a CPU) of a call."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return [(_short(e.key), e.count, getattr(e, own) / 1e6) for e in found.key_averages()]


def _short(name: str) -> str:
    """A kernel's name without what templates fill in.

    >>> _short("void at::native::copy<float, 4>(int, float*)")
    'at::native::copy'
    """
    return re.split(r"[<(]", name.removeprefix("void "))[0].strip()[:80] or name[:80]


def _weights(model: Any) -> int:
    """Bytes of the layers, the last norm and the head, which a step reads once."""
    language = model.model.language_model
    modules = (language.layers, language.norm, model.lm_head)
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads a large tensor with."""
    size = 2**30 if device.type == "cuda" else 2**24
    large = torch.ones(size, dtype=torch.float32, device=device)
    return size * 4 / measure(large.sum, device=device, warmup=2, repeats=9).median
