"""What `generate(do_sample=False)` would do with the options it is given.

`StaticDecoder` is a second implementation of greedy search. Every option of `generate` and of the
model's `generation_config.json` is either honoured or refused by name, none is ignored.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from ..pruning.engine.release import CACHE_NAMES

#: options that cannot change what greedy search finds
_WITHOUT_EFFECT = {
    # of sampling, which is off
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    # of beams and assistants, which are refused
    "early_stopping", "length_penalty", "diversity_penalty", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "max_matching_ngram_size",
    "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "is_assistant",
    "speculation_type",
    # of how it is computed or who made the file
    "compile_config", "disable_compile", "continuous_batching_config", "low_memory", "use_cache",
    "transformers_version", "_from_model_config", "cache_config", "max_cache_len",
    # of encoder-decoder models
    "decoder_start_token_id", "bos_token_id",
}  # fmt: skip
#: options that `StaticDecoder` honours
_HONOURED = {"max_new_tokens", "max_length", "eos_token_id", "pad_token_id"}
#: arguments of `generate` itself, besides the configuration's
_ARGUMENTS = (
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model",
    "streamer", "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate",
    "synced_gpus", "inputs", "inputs_embeds", "tokenizer", "assistant_tokenizer",
    "trust_remote_code", *CACHE_NAMES,
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How long to decode, what ends a row, and what goes to the model."""

    new_tokens: int
    stops: tuple[int, ...]
    pad: int | None
    inputs: dict[str, Any]


def plan(model: PreTrainedModel, prompt_length: int, options: dict[str, Any]) -> Plan:
    """Read the options as `generate` would.

    options: everything passed to `generate` but the prompt and its mask.

    Raises `ValueError` naming an option that greedy decoding with static caches does not have, one
    that neither `generate` nor the model knows, or a length that leaves nothing to decode.
    """
    given = dict(options)
    for name in _ARGUMENTS:
        if given.pop(name, None) is not None:
            raise ValueError(_refusal(name))
    own = given.pop("generation_config", None)
    if getattr(own, "do_sample", None) is None:  # what a checkpoint's file prefers does not count
        given = {"do_sample": False} | given
    config, inputs = model._prepare_generation_config(own, **given)
    named = any(
        length is not None
        for length in (
            given.get("max_length"),
            getattr(own, "max_length", None),
            model.generation_config.max_length,
        )
    )
    neutral = model.generation_config._get_default_generation_params()
    for name, value in config.to_dict().items():
        if name in _WITHOUT_EFFECT or name in _HONOURED:
            continue
        if value is not None and value is not False and value != neutral.get(name):
            raise ValueError(_refusal(f"{name}={value!r}"))
    _refuse_unknown(model, inputs)
    pad = config.pad_token_id
    stops = () if config.eos_token_id is None else config.eos_token_id
    stops = (stops,) if isinstance(stops, int) else tuple(stops)
    return Plan(_new_tokens(config, prompt_length, named), stops, pad, inputs)


def _refusal(option: str) -> str:
    return (
        f"StaticDecoder decodes greedily, one sequence a prompt; {option} is not supported: use "
        "model.generate for it"
    )


def _new_tokens(config: GenerationConfig, prompt_length: int, named: bool) -> int:
    """As `generate` reads the lengths: new tokens first, then the whole length if anybody named it,
    else the default counts new tokens."""
    if config.max_new_tokens is not None:
        new, said = config.max_new_tokens, f"max_new_tokens={config.max_new_tokens}"
    elif named:
        new = config.max_length - prompt_length
        said = f"max_length={config.max_length} for a prompt of {prompt_length} tokens"
    else:
        new, said = config.max_length, f"the default max_length={config.max_length}"
    if new < 1:
        raise ValueError(f"{said} leaves nothing to decode: at least 1 new token is needed")
    return new


def _refuse_unknown(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
    known = set(inspect.signature(model.forward).parameters)
    known |= set(inspect.signature(model.prepare_inputs_for_generation).parameters)
    if unknown := sorted(set(inputs) - known):
        raise ValueError(
            f"neither generate nor {type(model).__name__} has {', '.join(map(repr, unknown))}"
        )
