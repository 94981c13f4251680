"""A task's generation arguments, put in terms of `generate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

#: lmms-eval's own models stop here where a task names no number
MAX_NEW_TOKENS = 1024
#: what the framework puts in where a task names no end; it would cut answers of two paragraphs
FRAMEWORK_STOP = "\n\n"
_SAMPLING = ("temperature", "top_p", "top_k")
_KNOWN = frozenset(vars(GenerationConfig()))


@dataclass(frozen=True)
class Decoding:
    """How to decode: arguments of `generate`, texts that end an answer, and what was not known."""

    arguments: dict[str, Any]
    stops: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def beams(self) -> int:
        return self.arguments.get("num_beams") or 1

    def cut(self, text: str) -> str:
        """The text before the first of the stops."""
        for stop in self.stops:
            text = text.split(stop, 1)[0]
        return text


def decoding(given: Mapping[str, Any]) -> Decoding:
    """What a task's `generation_kwargs` ask for.

    Greedy unless the temperature is above 0 or `do_sample` is true. `max_gen_toks` is the name that
    tasks for language models give `max_new_tokens`.

    >>> decoding({"temperature": 0, "max_new_tokens": 16, "until": ["\\n\\n"]}).arguments
    {'max_new_tokens': 16, 'temperature': None, 'do_sample': False, 'top_p': None, 'top_k': None}
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    until = wanted.pop("until", ())
    stops = [until] if isinstance(until, str) else list(until)
    length = wanted.pop("max_gen_toks", MAX_NEW_TOKENS)
    arguments = {"max_new_tokens": length} | {n: v for n, v in wanted.items() if n in _KNOWN}
    warm = arguments.get("temperature", 1 if arguments.get("do_sample") else 0) > 0
    arguments["do_sample"] = warm
    if not warm:
        arguments |= dict.fromkeys(_SAMPLING)
    return Decoding(arguments, _ends(stops), tuple(n for n in wanted if n not in _KNOWN))


def _ends(stops: Iterable[str]) -> tuple[str, ...]:
    return tuple(stop for stop in stops if stop and stop != FRAMEWORK_STOP)
