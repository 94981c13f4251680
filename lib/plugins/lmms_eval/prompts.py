"""Questions to a model's inputs, through its processor and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature

from .requests import Question


def prepare(processor: Any) -> None:
    """Make a processor fit for batches: padding on the left, and something to pad with.

    Raises `ValueError` if it has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            f"this {type(processor).__name__} has no chat template; name a file that holds one: "
            "chat_template=PATH"
        )
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token


def text(processor: Any, question: Question) -> str:
    """The prompt, an image placeholder of the model for each image."""
    return processor.apply_chat_template(
        question.messages, add_generation_prompt=True, tokenize=False
    )


def inputs(processor: Any, questions: Sequence[Question]) -> BatchFeature:
    """What the model takes: left-padded ids, and pixels if there are images.

    The questions have images all or none.
    """
    texts = [text(processor, question) for question in questions]
    pictures = [question.images for question in questions]
    given = {"images": pictures} if any(pictures) else {}
    return processor(
        text=texts, **given, padding=True, return_tensors="pt", **_special(processor, texts)
    )


def _special(processor: Any, texts: Sequence[str]) -> dict[str, bool]:
    """Templates that write the first token themselves want no second one."""
    first = processor.tokenizer.bos_token
    return {"add_special_tokens": False} if first and texts[0].startswith(first) else {}


def continuations(processor: Any, questions: Sequence[Question]) -> list[list[int]]:
    """The ids of each question's continuation, as they stand behind the prompt.

    A space in front of it is dropped where the prompt ends in white space.

    Raises `ValueError` for a continuation without tokens, or with one that ends an answer.
    """
    end = processor.tokenizer.eos_token_id
    found = []
    for question in questions:
        ids = _behind(processor, text(processor, question), question.continuation or "")
        if not ids or end in ids:
            what = "no token" if not ids else f"the end token {processor.tokenizer.eos_token!r}"
            raise ValueError(
                f"the continuation {question.continuation!r} has {what}: it has no likelihood"
            )
        found.append(ids)
    return found


def _behind(processor: Any, prompt: str, continuation: str) -> list[int]:
    if prompt[-1:].isspace():
        continuation = continuation.lstrip()
    tokenizer = processor.tokenizer
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    whole = tokenizer(prompt + continuation, add_special_tokens=False).input_ids
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return tokenizer(continuation, add_special_tokens=False).input_ids
