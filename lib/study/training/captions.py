"""Human captions as the language model's tokens, and a model's tokens as captions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast


def tidy(caption: str) -> str:
    """A caption as a sentence: no space in front of punctuation, a capital, a full stop.

    >>> tidy("a dog 's ball , red .")
    "A dog's ball, red."
    """
    text = re.sub(r"\s+", " ", caption).strip()
    text = re.sub(r" ([.,;:!?])", r"\1", text)
    text = text.replace(" 's", "'s").replace(" n't", "n't").replace('" ', '"')
    text = text.rstrip(" .!;,") + "."
    return text[:1].upper() + text[1:]


def encode(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[Sequence[str]], *, longest: int
) -> list[list[list[int]]]:
    """Token ids of each caption of each image, the end included; cut at `longest`."""
    flat = [tidy(text) for each in captions for text in each]
    ids = iter(tokenizer(flat, add_special_tokens=False).input_ids)
    end = [tokenizer.eos_token_id]
    return [[(next(ids) + end)[:longest] for _ in each] for each in captions]


def decode(tokenizer: PreTrainedTokenizerFast, said: torch.Tensor) -> list[str]:
    """(B, T) token ids to text, up to the end token."""
    return [
        text.strip() for text in tokenizer.batch_decode(said.tolist(), skip_special_tokens=True)
    ]
