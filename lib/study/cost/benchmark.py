"""The model benchmark: what each method costs and saves, in one run on one machine.

    python -m lib benchmark --model shape:llava-1.5-7b --profile shape --batches 1,8,32 --compiled

Every method, and the unpruned model, over the same prompts in the same process: vision tower,
scorer, prefill, decoding, end to end through `generate` and through the static decoder, cache and
peak memory, FLOPs. `--growth` measures other numbers of visual tokens, `--agreement` compares the
static decoder's tokens with those of `generate` in float32, `--leave-one-out` times the scores
against their definition, `--step` says where a decoding step's time goes, `--layers` and
`--catalogue` time first tokens in turn. All of it lands in benchmark.json of the profile's run as
it is measured; a part measured again replaces what was there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...decoding import StaticDecoder
from ...entropy import leave_one_out
from ...geometry import patches
from ...pruning.engine.graphs import graphs
from ..models import load
from .analytic import analytic
from .growth import growth
from .latency import latency
from .plan import METHODS, Measurements, Plan, pruner_of
from .probe import Probe, visual_of
from .prompts import random_prompts
from .step import steps
from .timing import machine, measure
from .turns import first_tokens

__all__ = ["METHODS", "Plan", "run"]


def run(plan: Plan, path: Path, earlier: Path | None = None) -> None:
    """Measure what the plan asks for, into `path`; what stands in `earlier` is kept with it.

    Rows are printed as they are measured.
    """
    dtype = torch.float32 if plan.agreement else None
    model = load(plan.model, dtype=dtype).model
    record = Measurements(path, {"model": plan.model, "machine": machine()}, earlier)
    if plan.agreement:
        agreement(model, record, plan)
        return
    record.document["dtype"] = str(model.dtype).removeprefix("torch.")
    record.document["attention"] = model.config._attn_implementation
    if plan.definition:
        definition(record, model.device)
    if plan.step:
        steps(model, record, plan)
    if plan.growth:
        growth(model, record, plan)
    if plan.layers or plan.catalogue:
        first_tokens(model, record, plan)
    benchmark(model, record, plan)


def benchmark(model: Any, record: Measurements, plan: Plan) -> None:
    """Every method at every batch size and keep rate."""
    decoder = StaticDecoder(model, compiled=plan.compiled)
    work = [(b, k, m) for b in plan.batches for k in plan.keep for m in plan.methods]
    for batch, keep, name in tqdm(work, desc="benchmark", disable=None):
        if name == "unpruned" and keep != plan.keep[0]:
            continue
        pruner, inputs = pruner_of(name, keep), random_prompts(model, batch)
        row = {"method": name, "keep": keep if pruner else 1.0, "compiled": plan.compiled}
        row |= latency(
            Probe(model, inputs, pruner, plan.new_tokens, decoder),
            warmup=2,
            repeats=plan.repeats,
            generate_repeats=min(3, plan.repeats) if name in plan.generate else 0,
        )
        chosen = pruner.options() if pruner else None
        visual = visual_of(model, {name: Probe(model, inputs, pruner, plan.new_tokens)})
        tokens = patches(model.config) if visual is None else visual.tokens
        text = inputs["input_ids"].shape[1] - tokens
        row |= {
            "options": chosen,
            "flops": analytic(model.config, chosen, row["kept"], text, visual),
        }
        record.put("rows", row, "method", "keep", "batch")
        print(line(row), flush=True)


@torch.inference_mode()
def agreement(model: Any, record: Measurements, plan: Plan) -> None:
    """The share of the static decoder's tokens that `generate` yields, a method at a time."""
    decoder = StaticDecoder(model, compiled=plan.compiled)
    inputs, new = random_prompts(model, 2), plan.new_tokens
    for name in plan.methods:
        probe = Probe(model, inputs, pruner_of(name, plan.keep[0]), new, decoder)
        with probe.active():
            expected = probe.generate()
            decoder.generate(**inputs, max_new_tokens=2)  # the second call is the captured one
            found = probe.static()
        row = {
            "method": name,
            "compiled": plan.compiled,
            "dtype": str(model.dtype).removeprefix("torch."),
            "batch": 2,
            "tokens": new,
            "same": (found == expected).float().mean().item(),
        }
        record.put("agreement", row, "method", "dtype", "compiled")
        print(f"{name:<14} {row['dtype']}: {row['same']:.4f} of {2 * new} tokens", flush=True)


@torch.inference_mode()
def definition(
    record: Measurements, device: torch.device, *, tokens: int = 576, width: int = 1024
) -> None:
    """Exact leave-one-out entropy against one eigen-decomposition a token, in the same run."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, width, generator=generator).to(device)
    if device.type == "cuda":
        states = states.bfloat16()

    def exact() -> torch.Tensor:
        return graphs("definition", lambda x: leave_one_out(x[0], check=False), [states])

    fast = measure(exact, device=device, warmup=3, repeats=21)
    slow = measure(
        lambda: leave_one_out(states, "naive", check=False), device=device, warmup=0, repeats=1
    )
    naive = leave_one_out(states.double(), "naive", check=False)
    error = ((exact().double() - naive).abs().max() / naive.std()).item()
    row = {
        "tokens": tokens,
        "exact": asdict(fast),
        "naive": asdict(slow),
        "ratio": slow.median / fast.median,
        "largest_error_over_spread": error,
    }
    record.put("leave_one_out", row, "tokens")
    print(
        f"leave-one-out of {tokens} tokens: {1e3 * fast.median:.3f} ms, {row['ratio']:.0f} times "
        f"faster than its definition; largest error {error:.1e} of the scores' spread",
        flush=True,
    )


def line(row: Mapping[str, Any]) -> str:
    """One row as text, in milliseconds."""
    parts = [f"{row['method']:<14} keep {row['keep']:.3f} batch {row['batch']:>2}"]
    labels = {
        "vision": "vision",
        "scorer": "scorer",
        "prefill": "prefill",
        "static_prefill": "captured",
        "decode": "decode",
        "static_decode": "static",
        "end_to_end": "whole",
        "static_end_to_end": "static",
    }
    parts += [f"{labels[k]} {1e3 * row[k]['median']:.2f}" for k in labels if k in row]
    return "  ".join(parts)
