"""One method on one batch of prompts: what is timed, each a call, and what is counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...pruning.engine.release import cache_of
from ...pruning.families import resolve
from .analytic import Visual
from .flops import counted_flops


@dataclass(frozen=True)
class Probe:
    """A model under a pruner (None: unpruned), with inputs on its device.

    new_tokens: length of a caption; every run yields that many, whatever they are. decoder: a
    `lib.decoding.StaticDecoder` for the fast path.
    """

    model: Any
    inputs: Mapping[str, torch.Tensor]
    pruner: Any | None
    new_tokens: int
    decoder: Any | None = None

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return self.inputs["input_ids"].device

    @property
    def batch(self) -> int:
        """Prompts at once."""
        return self.inputs["input_ids"].shape[0]

    @contextmanager
    def active(self) -> Iterator[Probe]:
        """The method on the model inside the block."""
        with torch.inference_mode(), ExitStack() as stack:
            config = self.model.generation_config
            stack.callback(setattr, config, "eos_token_id", config.eos_token_id)
            config.eos_token_id = None
            if self.pruner is not None:
                stack.enter_context(self.pruner(self.model))
            yield self

    def prefill(self) -> Any:
        """One pass over the prompt, up to the first token."""
        return self.model(**self.inputs, use_cache=True, logits_to_keep=1)

    def following(self) -> Callable[[], Any]:
        """A step of decoding behind the prompt, which is read first, prepared by `generate`'s own
        means."""
        read = self.prefill()
        ids = torch.cat([self.inputs["input_ids"], read.logits[:, -1:].argmax(-1)], 1)
        given = {"attention_mask": self.inputs["attention_mask"], "use_cache": True}
        given = self.model._update_model_kwargs_for_generation(read, given)
        step = self.model.prepare_inputs_for_generation(ids, next_sequence_length=1, **given)
        return lambda: self.model(**step)

    def vision(self) -> Any:
        """The vision tower and the projector."""
        encode = resolve(self.model).inner.get_image_features
        known = inspect.signature(encode).parameters  # grids and the like go with the pixels
        return encode(**{name: value for name, value in self.inputs.items() if name in known})

    def generate(self) -> torch.Tensor:
        """The new tokens of `generate` (batch, new_tokens)."""
        options = {"do_sample": False, "max_new_tokens": self.new_tokens}
        return self.model.generate(**self.inputs, **options)[:, -self.new_tokens :]

    def static_prefill(self) -> Any:
        """The prompt on the fast path."""
        return self.decoder.prefill(**self.inputs)

    def static(self) -> torch.Tensor:
        """The new tokens of the fast path (batch, new_tokens)."""
        made = self.decoder.generate(**self.inputs, max_new_tokens=self.new_tokens)
        return made[:, -self.new_tokens :]

    def counts(self) -> dict[str, Any]:
        """`batch`, `new_tokens`, `kept` (share of visual tokens, measured), `cache_bytes` of the
        prompt, and `flops_counted` of an image's prefill."""
        cache = cache_of(self.prefill())
        held = sum(
            t.numel() * t.element_size()
            for layer in cache.layers
            for t in (layer.keys, layer.values)
        )
        masks = [] if self.pruner is None else self.pruner.kept_masks
        shares = [mask.float().mean().item() for mask in masks]
        return {
            "batch": self.batch,
            "new_tokens": self.new_tokens,
            "kept": sum(shares) / len(shares) if shares else 1.0,
            "cache_bytes": held,
            "flops_counted": counted_flops(self.prefill, device=self.device) / self.batch,
        }


def visual_of(model: Any, probes: Mapping[str, Probe]) -> Visual | None:
    """What an image is on average of the probes' prompts; None for LLaVA, where its size says it.

    The probes have run already.
    """
    if model.config.model_type == "llava":
        return None
    probe = next(iter(probes.values()))
    visual = int((probe.inputs["input_ids"] == model.config.image_token_id).sum())
    pruners = [one.pruner for one in probes.values() if one.pruner is not None]
    parts = len(pruners[0].kept_masks) if pruners else probe.batch
    with torch.inference_mode():
        vision = counted_flops(probe.vision, device=probe.device)
    return Visual(visual // probe.batch, max(1, parts // probe.batch), vision / probe.batch)
