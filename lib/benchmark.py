"""The model benchmark: what each method costs and saves, in one run on one machine.

    python -m lib.benchmark --model shape:llava-1.5-7b --profile shape --batches 1 8 32

Every method, and the unpruned model, over the same prompts in the same process: vision tower,
scorer, prefill, decoding, end to end through `generate` and through the static decoder, cache and
peak memory, FLOPs. Rows are appended to data/results/<profile>/benchmark.json as they are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from lib import paths
from lib.decoding import StaticDecoder
from lib.efficiency import Shape, latency, machine, prefill_flops, scorer_flops, vision_flops
from lib.models import load
from lib.pruning import create
from lib.results import write_atomically

#: the methods of Table 1, and the study's own
METHODS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "unpruned": None,
    "random": ("random", {}),
    "tome": ("tome", {}),
    "fastv": ("fastv", {}),
    "entropy": ("entropy", {}),
    "entropy-token": ("entropy", {"level": "token", "layers": (-2, -2)}),
    "entropy-32": ("entropy", {"n_clusters": 32, "core_clusters": 16, "layers": (-2, -2)}),
    "adaptive": ("selection", {}),
}


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `python -m lib.benchmark --help`."""
    parser = argparse.ArgumentParser(prog="python -m lib.benchmark", description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--keep", nargs="+", type=float, default=[0.5])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--compiled", action="store_true", help="fuse the static decoding step")
    options = parser.parse_args(argv)
    loaded = load(options.model)
    decoder = StaticDecoder(loaded.model, compiled=options.compiled)
    shape = Shape.of(loaded.model.config)
    path = paths.results_dir(options.profile) / "benchmark.json"
    rows: list[dict[str, Any]] = []
    work = [(b, k, m) for b in options.batches for k in options.keep for m in options.methods]
    for batch, keep, name in tqdm(work, desc="benchmark"):
        if name == "unpruned" and keep != options.keep[0]:
            continue
        spec = METHODS[name]
        pruner = create(spec[0], keep=keep, **spec[1]) if spec else None
        inputs = prompts(loaded.model, batch)
        row = {"method": name, "keep": keep if spec else 1.0}
        row |= latency(
            loaded.model,
            inputs,
            pruner,
            decoder=decoder,
            new_tokens=options.new_tokens,
            warmup=3,
            repeats=options.repeats,
        )
        chosen = pruner.options() if pruner else None
        text = inputs["input_ids"].shape[1] - shape.visual_tokens
        row |= {"options": chosen, "flops": analytic(shape, chosen, row["kept"], text)}
        rows.append(row)
        document = {
            "model": options.model,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "attention": loaded.model.config._attn_implementation,
            "compiled_decoder": options.compiled,
            "machine": machine(),
            "rows": rows,
        }
        write_atomically(path, json.dumps(document, indent=1) + "\n")
        print(line(row), flush=True)
    return 0


def line(row: Mapping[str, Any]) -> str:
    """One row as text, in milliseconds."""
    parts = [f"{row['method']:<14} keep {row['keep']:.2f} batch {row['batch']:>2}"]
    for name in ("vision", "scorer", "prefill", "decode", "end_to_end"):
        parts.append(f"{name} {row[name]['median'] * 1e3:8.2f}")
    parts.append(f"static {row['static_end_to_end']['median'] * 1e3:8.1f}")
    parts.append(f"{row['static_decode']['median'] * 1e3:6.2f}/token")
    parts.append(f"same {row['static_agreement']:.3f}")
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
