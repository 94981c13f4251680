"""What may decode captions instead of `generate`: `lib.decoding.StaticDecoder`, handed in.

Handed in and not imported, so that the captions of a study, all made through `generate`, do not
depend on its code (`lib.study.dependencies`).
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Decoder(Protocol):
    """Greedy decoding of a batch of prompts, as `lib.decoding.StaticDecoder` does it."""

    def generate(self, **inputs: Any) -> Tensor:
        """Prompt and new tokens."""
        ...

    def options(self) -> dict[str, Any]:
        """What decides how the tokens round."""
        ...

    def refusal(self, pruner: Any = None) -> str | None:
        """Why prefills under a pruner are not captured; None if they are."""
        ...

    def clear(self) -> None:
        """Give captured memory back."""
        ...


def check_repeatable(decoder: Decoder) -> None:
    """Raises `ValueError` if the first prompts of a shape would round unlike those after them."""
    if decoder.options()["capture_prefill"] is True:
        raise ValueError(
            "a decoder with capture_prefill=True captures the second batch of a shape, so the "
            "first one's captions round otherwise: pass capture_prefill='at once' (or False)"
        )
