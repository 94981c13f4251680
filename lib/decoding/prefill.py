"""A whole prefill, vision tower to first token, captured in one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..pruning.engine.beside import spare
from ..pruning.engine.graphs import recording
from ..pruning.engine.hooks import Hooks, replaced_here
from ..pruning.engine.release import CACHE_NAMES, causal_without_mask
from ..pruning.families import Family


@dataclass
class CapturedPrefill:
    """The graph, what it reads and what it leaves behind."""

    graph: Any
    inputs: dict[str, Tensor]
    output: tuple[Tensor, Any, Tensor]  # first token, cache, its position
    kept: Any  # what the pruner says of the pass

    def replay(self, given: dict[str, Tensor], pruner: Any) -> tuple[Tensor, Any, Tensor]:
        """Run the graph on new inputs of the same shapes."""
        if pruner is not None and pruner.image_keys is not None:
            given = given | {"image_keys": pruner.image_keys}
        for name, tensor in self.inputs.items():
            tensor.copy_(given[name])
        self.graph.replay()
        if pruner is not None:
            pruner._current.kept = self.kept
        return self.output


def prefill_key(family: Family, pruner: Any, given: dict[str, Any]) -> tuple | None:
    """What a captured prefill depends on besides values; None if it cannot be captured.

    The first entry is the number of images in every row.
    """
    tokens = family.tokens_each()
    if tokens is None or refusal(family, pruner) is not None:
        return None
    if not all(isinstance(value, Tensor) for value in given.values()):
        return None
    if "pixel_values" not in given or any(name in given for name in CACHE_NAMES):
        return None
    counts = family.placeholders("image", given["input_ids"], None).sum(1).tolist()
    each, rest = divmod(counts[0], tokens)
    if rest or not each or any(count != counts[0] for count in counts):
        return None
    options = None
    if pruner is not None:
        options = (type(pruner), repr(pruner.options()), pruner.image_keys is not None)
    shapes = tuple((name, t.shape, t.dtype) for name, t in sorted(given.items()))
    return each, options, shapes


def refusal(family: Family, pruner: Any) -> str | None:
    """Why no prefill under a pruner (None: unpruned) can be captured; None if one can."""
    if family.tokens_each() is None:
        return f"images of {type(family.model).__name__} differ in length"
    if pruner is not None and not (pruner.keeps_all or _known(pruner)):
        return f"{type(pruner).__name__} has the host look at what it chose"
    return None


def _known(pruner: Any) -> bool:
    """True if nothing of the pruner's choice has to be read back from the device."""
    return pruner.captures and (pruner.exact or pruner.bounded)


def _keeping_first(update: Callable) -> Callable:
    """`DynamicLayer.update` without a copy of a prompt's first keys and values onto none."""

    def updating(
        layer: DynamicLayer, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if layer.get_seq_length():
            return update(layer, keys, values, *args, **kwargs)
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return keys, values

    return updating


def capture(
    first: Callable[..., tuple[Tensor, Any, Tensor]],
    family: Family,
    pruner: Any,
    given: dict[str, Tensor],
    images_each: int,
) -> CapturedPrefill:
    """Capture `first` for inputs of these shapes."""

    def placeholders(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        """transformers reads the number of image tokens back to compare it; the key has done so."""
        return family.placeholders("image", input_ids, None).unsqueeze(-1)

    inputs = {name: tensor.clone() for name, tensor in given.items()}
    keys = None if pruner is None else pruner.image_keys
    device = given["input_ids"].device
    graph, hooks = torch.cuda.CUDAGraph(), Hooks()
    try:
        hooks.replace(family.inner, "get_placeholder_mask", placeholders)
        if pruner is not None:
            pruner._current.images_each = images_each
            if keys is not None:
                inputs["image_keys"] = pruner.image_keys = keys.to(device, copy=True)
        # the model goes before what a pruner does beside it on streams of its own
        stream = torch.cuda.Stream(priority=-1)
        stream.wait_stream(torch.cuda.current_stream())
        names = [name for name in inputs if name != "image_keys"]
        with replaced_here([(DynamicLayer, "update", _keeping_first(DynamicLayer.update))]):
            with torch.cuda.stream(stream):  # warm-up: library handles, not to be captured
                first(**{name: inputs[name] for name in names})
            torch.cuda.current_stream().wait_stream(stream)
            with causal_without_mask(), recording(graph, stream):
                output = first(**{name: inputs[name] for name in names})
        kept = None if pruner is None else pruner._current.kept
        return CapturedPrefill(graph, inputs, output, kept)
    finally:
        hooks.close()
        if pruner is not None:
            pruner._current.images_each, pruner.image_keys = None, keys
            spare(0)  # also where a capture is given up
