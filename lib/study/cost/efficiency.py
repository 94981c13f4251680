"""What pruning saves: floating-point operations, latency and memory, the scorer's price included.

Analytic counts follow the three formulas in use (FastV's, SparseVLM's, and the full count with a
multiply-add as two operations); `counted_flops` asks PyTorch's own counter. Times are medians over
repeats after a warm-up, taken with device events on a GPU. Nothing here imports a model: models
and pruners come in as arguments.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...selection import proportions

FORMULAS = ("fastv", "sparsevlm", "exact")


@dataclass(frozen=True)
class Shape:
    """The sizes that determine the cost of a LLaVA, read from its configuration.

    >>> Shape(4096, 11008, 32, 32, 32, 32064, 1024, 4096, 23, 14, 336).visual_tokens
    576
    """

    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    vision_width: int
    vision_mlp: int
    vision_layers: int  # blocks that run: the last one runs too, although its output is not read
    patch: int
    image: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a `LlavaConfig`."""
        text, vision = config.text_config, config.vision_config
        return cls(
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.vocab_size,
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_hidden_layers,
            vision.patch_size,
            vision.image_size,
        )

    @property
    def visual_tokens(self) -> int:
        return (self.image // self.patch) ** 2


def layer_flops(shape: Shape, tokens: int, formula: str = "exact") -> float:
    """Operations of one language layer on a sequence of `tokens`.

    "fastv": 4nd^2 + 2n^2d + 2ndm (arXiv 2403.06764, section 4.1; multiply-adds, MLP of two
    matrices). "sparsevlm": 4nd^2 + 2n^2d + 3ndm (arXiv 2410.04417; LLaMA's MLP has three). "exact":
    twice SparseVLM's, a multiply-add being two operations, with grouped keys and values.

    Raises `ValueError` for another formula.
    """
    n, d, m = tokens, shape.width, shape.mlp
    if formula == "fastv":
        return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m
    if formula == "sparsevlm":
        return 4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m
    if formula == "exact":
        projections = 2 * d**2 * (1 + shape.kv_heads / shape.heads)
        return 2 * (n * projections + 2 * n**2 * d + 3 * n * d * m)
    raise ValueError(f"formula must be one of {FORMULAS}, got {formula!r}")


def prefill_flops(
    shape: Shape, *, text: int, kept: float, layer: int = 0, formula: str = "exact"
) -> float:
    """Operations of the language model's prefill, its head (one position) included in "exact".

    text: positions that are not visual; kept: visual tokens left from language layer `layer` on.
    """
    full, pruned = shape.visual_tokens + text, kept + text
    total = layer * layer_flops(shape, full, formula)
    total += (shape.layers - layer) * layer_flops(shape, pruned, formula)
    return total + (2 * shape.width * shape.vocabulary if formula == "exact" else 0)


def vision_flops(shape: Shape, *, merged: list[int] | None = None) -> float:
    """Operations of the CLIP tower and the projector for one image, multiply-adds as two.

    merged: tokens that ToMe merges in each block (between its attention and its MLP).
    """
    d, m, n = shape.vision_width, shape.vision_mlp, shape.visual_tokens + 1
    total = 2.0 * shape.visual_tokens * 3 * shape.patch**2 * d  # patch embedding
    for block in range(shape.vision_layers):
        total += 2 * (4 * n * d**2 + 2 * n**2 * d)
        r = merged[block] if merged is not None and block < len(merged) else 0
        total += 2 * (n // 2 + n % 2) * (n // 2) * (d // 16) if r else 0  # similarities
        n -= r
        total += 2 * 2 * n * d * m
    return total + 2 * (n - 1) * (d * shape.width + shape.width**2)  # two-layer projector


def scorer_flops(shape: Shape, options: Mapping[str, Any], *, nodes: int = 24) -> float:
    """Operations a method spends on choosing, for one image; `options` are `pruner.options()`.

    Gram matrices of the layers it looks at, k-means in Gram space, and the eigen-decomposition of
    each Gram (9n^3, the usual count) or the quadrature of exact leave-one-out. FastV: one row of
    attention. ToMe's similarities are part of `vision_flops`.
    """
    n, method = shape.visual_tokens, options["method"]
    if method == "fastv":
        return 2.0 * n * shape.width if options["layer"] else 0.0
    if method not in ("entropy", "selection"):
        return 0.0
    language = options["source"] == "language"
    width = shape.width if language else shape.vision_width
    default = 4 if method == "entropy" else 1
    first, last = options["layers"] or (-default, -1)
    layers = last - first + 1 if first < 0 or last >= 0 else default
    gram = 2.0 * n**2 * width * layers
    if method == "selection":
        k = max(1, round(options["keep"] * n))
        return gram + 2.0 * n * k**2  # incremental Cholesky of a greedy rule, one node
    if options["level"] == "token":
        return gram + layers * (9.0 * n**3 + (2.0 * n**2 * nodes if layers == 1 else 2.0 * n**2))
    named = ("n_clusters", "core_clusters", "tokens_per_cluster")
    budget = max(1, round(options["keep"] * n))
    clusters, *_ = proportions(n, budget, **{name: options[name] for name in named})
    lloyd = 20 * 2.0 * n**2 * clusters
    centroids = layers * 2.0 * (n**2 * clusters + n * clusters**2)
    return gram + lloyd + centroids + layers * (9.0 * clusters**3 + 2.0 * clusters**2 * nodes)


def counted_flops(function: Callable[[], Any]) -> float:
    """Operations of matrix products and attention in one call, by PyTorch's counter.

    Element-wise work, eigen-decompositions and Cholesky factors are not counted by it.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


# ---- time and memory ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds: the median of `repeats` runs, with the quartiles around it."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        ordered = sorted(seconds)

        def quantile(q: float) -> float:
            place = q * (len(ordered) - 1)
            below = math.floor(place)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (place - below) * (ordered[above] - ordered[below])

        return cls(quantile(0.5), quantile(0.25), quantile(0.75), len(ordered))


class Stopwatch:
    """Seconds of device work between marks: events on a GPU, the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.spans: list[tuple[Any, Any]] = []

    def __enter__(self) -> Stopwatch:
        self._start = self._mark()
        return self

    def __exit__(self, *exception: object) -> None:
        self.spans.append((self._start, self._mark()))

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> list[float]:
        """One number per span; waits for the device."""
        if not self.cuda:
            return [end - start for start, end in self.spans]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in self.spans]


def measure(
    function: Callable[[], Any], *, device: torch.device | str, warmup: int = 2, repeats: int = 5
) -> Timing:
    """Median time of a call after `warmup` calls; on a GPU the device is drained in between."""
    for _ in range(warmup):
        function()
    watch = Stopwatch(torch.device(device))
    for _ in range(repeats):
        if watch.cuda:
            torch.cuda.synchronize()
        with watch:
            function()
            if watch.cuda:  # launches of a slow host count as well: the user waits for them
                torch.cuda.synchronize()
    return Timing.of(watch.seconds())


def latency(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    pruner: Any | None,
    *,
    decoder: Any | None = None,
    new_tokens: int = 64,
    warmup: int = 2,
    repeats: int = 5,
    generate_repeats: int | None = None,
) -> dict[str, Any]:
    """Where the time of a caption goes, for one batch of prompts.

    Returns `vision`, `prefill` (to the first token, the vision tower and the scorer included),
    `scorer`, `decode` (per token behind the first, if there is one) and `end_to_end` (`new_tokens`
    greedy tokens through `generate`) as `Timing` dictionaries, with `kept` (share of visual tokens,
    measured), `cache_bytes`, `peak_bytes` (GPU only, over an end-to-end call) and `flops_counted`
    of the prefill. Every method runs with the attention implementation the model has. With a
    `lib.decoding.StaticDecoder` also the same of the fast path, `static_prefill`, `static_decode`
    and `static_end_to_end`, and `static_agreement`, the share of its tokens that equal those of
    `generate` (below 1 in half precision where two logits nearly tie). generate_repeats: repeats of
    `generate` if other than `repeats`; 0 leaves it out.
    """
    device = inputs["input_ids"].device
    batch = inputs["input_ids"].shape[0]
    options = {"do_sample": False, "max_new_tokens": new_tokens}
    often = {"device": device, "warmup": warmup, "repeats": repeats}
    generate_repeats = repeats if generate_repeats is None else generate_repeats
    result: dict[str, Any] = {"batch": batch, "new_tokens": new_tokens}
    with torch.inference_mode(), ExitStack() as stack:
        # every run yields all the tokens, whatever they are
        config = model.generation_config
        stack.callback(setattr, config, "eos_token_id", config.eos_token_id)
        config.eos_token_id = None
        if pruner is not None:
            stack.enter_context(pruner(model))

        def prefill() -> Any:
            return model(**inputs, use_cache=True, logits_to_keep=1)

        def vision() -> Any:
            return model.model.get_image_features(inputs["pixel_values"])

        def generate() -> torch.Tensor:
            return model.generate(**inputs, **options)[:, -new_tokens:]

        def static() -> torch.Tensor:
            return decoder.generate(**inputs, max_new_tokens=new_tokens)[:, -new_tokens:]

        def timed(name: str, function: Callable[[], Any], **other: Any) -> None:
            result[name] = asdict(measure(function, **(often | other)))

        def per_token(whole: str, first: str) -> dict[str, Any]:
            seconds = result[whole]["median"] - result[first]["median"]
            return {"median": seconds / (new_tokens - 1), "per": "token", "repeats": repeats}

        timed("vision", vision)
        timed("prefill", prefill)
        result["scorer"] = asdict(_scorer_time(pruner, prefill, device, repeats))
        cache = prefill().past_key_values
        result["cache_bytes"] = sum(
            t.numel() * t.element_size()
            for layer in cache.layers
            for t in (layer.keys, layer.values)
        )
        shares = [] if pruner is None else [m.float().mean().item() for m in pruner.kept_masks]
        result["kept"] = sum(shares) / len(shares) if shares else 1.0
        result["flops_counted"] = counted_flops(prefill) / batch
        del cache
        if decoder is not None:
            decoder.clear()  # what another method captured is not this one's memory
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if generate_repeats:
            timed("end_to_end", generate, repeats=generate_repeats, warmup=min(warmup, 1))
            if new_tokens > 1:
                result["decode"] = per_token("end_to_end", "prefill")
        if decoder is not None:
            timed("static_prefill", lambda: decoder.prefill(**inputs))
            timed("static_end_to_end", static)
            if new_tokens > 1:
                result["static_decode"] = per_token("static_end_to_end", "static_prefill")
        result["peak_bytes"] = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        if decoder is not None and generate_repeats:
            result["static_agreement"] = (static() == generate()).float().mean().item()
    return result


def _scorer_time(
    pruner: Any | None, prefill: Callable[[], Any], device: torch.device, repeats: int
) -> Timing:
    """Time inside the methods named by `pruner.scorer`, summed over one prefill."""
    if pruner is None:
        return Timing(0.0, 0.0, 0.0, repeats)
    totals = []
    for _ in range(repeats):
        watch = Stopwatch(device)
        with ExitStack() as stack:
            for name in pruner.scorer:
                original = getattr(pruner, name)

                def timed(*args: Any, _original: Callable = original, **kwargs: Any) -> Any:
                    with watch:  # noqa: B023 - one stopwatch for each repeat
                        return _original(*args, **kwargs)

                setattr(pruner, name, timed)
                stack.callback(delattr, pruner, name)
            prefill()
        totals.append(sum(watch.seconds()))
    return Timing.of(totals)


def machine() -> dict[str, Any]:
    """The hardware and versions that a time belongs to."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
        "threads": None if gpu else torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }
