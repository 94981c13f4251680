"""The model benchmark: what each method costs and saves, in one run on one machine.

    python -m lib.study.cost.benchmark --model shape:llava-1.5-7b --profile shape --batches 1 8 32
    --compiled

Every method, and the unpruned model, over the same prompts in the same process: vision tower,
scorer, prefill, decoding, end to end through `generate` and through the static decoder, cache and
peak memory, FLOPs. `--growth` measures other numbers of visual tokens, `--agreement` compares the
static decoder's tokens with those of `generate` in float32, `--leave-one-out` times the scores
against their definition. All of it lands in data/results/<profile>/benchmark.json as it is
measured; a part measured again replaces what was there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...decoding import StaticDecoder
from ...entropy import leave_one_out
from ...pruning import create
from ...pruning.engine.graphs import graphs
from .. import paths
from ..models import load
from ..records import write_atomically
from .efficiency import Shape, latency, machine, measure, prefill_flops, scorer_flops, vision_flops

#: the methods of Table 1, and variants of the study's own
METHODS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "unpruned": None,
    "random": ("random", {}),
    "tome": ("tome", {}),
    "fastv": ("fastv", {}),
    "entropy": ("entropy", {}),
    "entropy-layer2": ("entropy", {"layer": 2}),
    "entropy-token": ("entropy", {"level": "token", "layers": (-2, -2)}),
    "adaptive": ("selection", {}),
}
#: the methods whose cost against the number of tokens is measured
GROWING = ("unpruned", "fastv", "entropy")


def prompts(model: Any, batch: int, *, text: int = 60, seed: int = 0) -> dict[str, torch.Tensor]:
    """`batch` prompts of one smooth random image and `text` random words each, on the device."""
    config = model.config
    shape = Shape.of(config)
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 80, (batch, text), generator=generator)
    words[words == config.image_token_id] = 3
    image = torch.full((batch, shape.visual_tokens), config.image_token_id)
    before = text // 2
    ids = torch.cat([words[:, :before], image, words[:, before:]], 1)
    coarse = torch.randn(batch, 3, 12, 12, generator=generator)
    pixels = torch.nn.functional.interpolate(
        coarse, size=(shape.image, shape.image), mode="bilinear"
    )
    pixels += 0.1 * torch.randn(pixels.shape, generator=generator)
    weight = model.get_input_embeddings().weight
    return {
        "input_ids": ids.to(weight.device),
        "attention_mask": torch.ones_like(ids).to(weight.device),
        "pixel_values": pixels.to(weight.device, weight.dtype),
    }


def analytic(shape: Shape, options: Mapping[str, Any] | None, kept: float, text: int) -> dict:
    """Prefill, vision and scorer FLOPs of a method for one image, by each formula."""
    layer = options["layer"] if options else 0
    tokens = kept * shape.visual_tokens
    counts = {
        formula: prefill_flops(shape, text=text, kept=tokens, layer=layer, formula=formula)
        for formula in ("fastv", "sparsevlm", "exact")
    }
    counts["vision"] = vision_flops(shape)
    counts["scorer"] = scorer_flops(shape, options) if options else 0.0
    return counts


def pruner_of(method: str, keep: float) -> Any:
    """The pruner of a row of `METHODS`, None for the unpruned model."""
    spec = METHODS[method]
    return create(spec[0], keep=keep, **spec[1]) if spec else None


class Record:
    """benchmark.json of a profile: kept from an earlier run if it is of this model and machine."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.document = path, dict(about)
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if all(before.get(name) == value for name, value in about.items()):
                self.document = before

    def put(self, part: str, row: Mapping[str, Any], *keys: str) -> None:
        """Add a row to a part; one that agrees with it in `keys` goes."""
        rows = self.document.setdefault(part, [])
        rows[:] = [old for old in rows if any(old.get(k) != row.get(k) for k in keys)]
        rows.append(dict(row))
        write_atomically(self.path, json.dumps(self.document, indent=1) + "\n")


def benchmark(model: Any, record: Record, options: argparse.Namespace) -> None:
    """Every method at every batch size and keep rate."""
    decoder = StaticDecoder(model, compiled=options.compiled)
    shape = Shape.of(model.config)
    work = [(b, k, m) for b in options.batches for k in options.keep for m in options.methods]
    for batch, keep, name in tqdm(work, desc="benchmark", disable=None):
        if name == "unpruned" and keep != options.keep[0]:
            continue
        pruner, inputs = pruner_of(name, keep), prompts(model, batch)
        row = {"method": name, "keep": keep if pruner else 1.0, "compiled": options.compiled}
        row |= latency(
            model,
            inputs,
            pruner,
            decoder=decoder,
            new_tokens=options.new_tokens,
            warmup=2,
            repeats=options.repeats,
            generate_repeats=min(3, options.repeats) if name in options.generate else 0,
        )
        chosen = pruner.options() if pruner else None
        text = inputs["input_ids"].shape[1] - shape.visual_tokens
        row |= {"options": chosen, "flops": analytic(shape, chosen, row["kept"], text)}
        record.put("rows", row, "method", "keep", "batch")
        print(line(row), flush=True)


@contextmanager
def resized(model: Any, tokens: int) -> Iterator[None]:
    """The model for images of another size: its vision tower with new position embeddings.

    Raises `ValueError` if `tokens` is not a square.
    """
    vision = model.config.vision_config
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"the number of visual tokens must be a square, got {tokens}")
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    size, embeddings = vision.image_size, tower.embeddings
    weight = embeddings.patch_embedding.weight
    try:
        vision.image_size = side * vision.patch_size
        with torch.device(weight.device):
            tower.embeddings = type(embeddings)(vision).to(weight.dtype)
        yield
    finally:
        vision.image_size, tower.embeddings = size, embeddings


def growth(model: Any, record: Record, options: argparse.Namespace) -> None:
    """Scorer and time to the first token against the number of visual tokens."""
    decoder = StaticDecoder(model)
    work = [(n, b, m) for n in options.growth for b in options.batches[:2] for m in GROWING]
    for tokens, batch, name in tqdm(work, desc="growth", disable=None):
        with resized(model, tokens):
            row = {"method": name, "tokens": tokens}
            row |= latency(
                model,
                prompts(model, batch),
                pruner_of(name, options.keep[0]),
                decoder=decoder,
                new_tokens=1,
                repeats=options.repeats,
                generate_repeats=0,
            )
        row["scorer_share"] = row["scorer"]["median"] / row["static_prefill"]["median"]
        record.put("growth", row, "method", "tokens", "batch")
        print(
            f"{name:<14} {tokens:>5} tokens, batch {batch:>2}: scorer "
            f"{1e3 * row['scorer']['median']:.2f} ms of {1e3 * row['static_prefill']['median']:.2f}"
            f" ms to the first token ({row['scorer_share']:.1%})",
            flush=True,
        )


@torch.inference_mode()
def agreement(model: Any, record: Record, options: argparse.Namespace) -> None:
    """The share of the static decoder's tokens that `generate` yields, a method at a time."""
    decoder = StaticDecoder(model)
    eos, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
    inputs, new = prompts(model, 2), options.new_tokens
    for name in options.methods:
        pruner = pruner_of(name, options.keep[0])
        with pruner(model) if pruner else nullcontext():
            expected = model.generate(**inputs, do_sample=False, max_new_tokens=new)[:, -new:]
            decoder.generate(**inputs, max_new_tokens=2)  # the second call is the captured one
            found = decoder.generate(**inputs, max_new_tokens=new)[:, -new:]
        row = {
            "method": name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "batch": 2,
            "tokens": new,
            "same": (found == expected).float().mean().item(),
        }
        record.put("agreement", row, "method", "dtype")
        print(f"{name:<14} {row['dtype']}: {row['same']:.4f} of {2 * new} tokens", flush=True)
    model.generation_config.eos_token_id = eos


@torch.inference_mode()
def definition(record: Record, device: torch.device, *, tokens: int = 576, width: int = 1024):
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `python -m lib.study.cost.benchmark --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.study.cost.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--profile", default="embedded", help="whose results folder to write to")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--keep", nargs="+", type=float, default=[0.5])
    parser.add_argument("--generate", nargs="*", default=list(METHODS), choices=list(METHODS),
                        help="methods timed through generate, too")  # fmt: skip
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="fuse the static decoding step")
    parser.add_argument("--growth", nargs="+", type=int, metavar="TOKENS", default=[])
    parser.add_argument("--agreement", action="store_true", help="and nothing else, in float32")
    parser.add_argument("--leave-one-out", action="store_true")
    options = parser.parse_args(argv)
    dtype = torch.float32 if options.agreement else None
    model = load(options.model, **({"dtype": dtype} if dtype else {})).model
    about = {"model": options.model, "machine": machine()}
    record = Record(paths.results_dir(options.profile) / "benchmark.json", about)
    if options.agreement:
        agreement(model, record, options)
        return 0
    record.document["dtype"] = str(model.dtype).removeprefix("torch.")
    record.document["attention"] = model.config._attn_implementation
    try:
        if options.leave_one_out:
            definition(record, model.device)
        if options.growth:
            growth(model, record, options)
        benchmark(model, record, options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def line(row: Mapping[str, Any]) -> str:
    """One row as text, in milliseconds."""
    parts = [f"{row['method']:<14} keep {row['keep']:.3f} batch {row['batch']:>2}"]
    parts += [
        f"{label} {1e3 * row[name]['median']:.2f}"
        for name, label in (
            ("vision", "vision"),
            ("scorer", "scorer"),
            ("prefill", "prefill"),
            ("static_prefill", "captured"),
            ("decode", "decode"),
            ("static_decode", "static"),
            ("end_to_end", "whole"),
            ("static_end_to_end", "static"),
        )
        if name in row
    ]
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
