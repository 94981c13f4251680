"""What lmms-eval is handed back: responses with counts, computed as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from lmms_eval.api.instance import GenerationResult, TokenCounts

from .running import Answer, Measured, Score


class Responses(Sequence):
    """Responses in the order of the requests, batch by batch, none before it is looked at.

    lmms-eval puts each response into its cache before it looks at the next, so that what is lost
    when a run is killed is one batch, not everything.
    """

    def __init__(self, count: int, batches: Iterable[Sequence[GenerationResult]]) -> None:
        self._count = count
        self._known: list[GenerationResult] = []
        self._rest: Iterator[GenerationResult] = chain.from_iterable(batches)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        places = range(self._count)[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        while len(self._known) <= places:
            self._known.append(next(self._rest))
        return self._known[places]


@dataclass
class PruningCounts(TokenCounts):
    """Token counts that lmms-eval logs with a sample, and what pruning did.

    visual_tokens, kept_tokens: of the prompt's images, before and after; first_token_seconds: of
    the batch, from the call of `generate` with the vision tower's work.
    """

    visual_tokens: int | None = None
    kept_tokens: int | None = None
    first_token_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        names = ("visual_tokens", "kept_tokens", "first_token_seconds")
        own = {name: getattr(self, name) for name in names}
        return super().to_dict() | {n: v for n, v in own.items() if v is not None}


class Likelihood(NamedTuple):
    """The pair that tasks unpack: a loss, and whether greedy decoding gives the continuation.

    lmms-eval's tasks choose the smallest loss, and its models return one: the mean negative
    log-likelihood of the continuation's tokens.
    """

    loss: float
    greedy: bool

    def strip(self) -> str:
        """Nothing: lmms-eval 0.7.3 caches no response that strips to nothing.

        It would read a cached pair back as text, which no task can unpack.
        """
        return ""


def response(result: Answer | Score) -> GenerationResult:
    """An answer or a score as lmms-eval takes it.

    A likelihood is wrapped, too: lmms-eval 0.7.3 turns a bare pair into text.
    """
    value = result.text if isinstance(result, Answer) else Likelihood(result.loss, result.greedy)
    return GenerationResult(text=value, token_counts=_counts(result.measured))


def _counts(measured: Measured) -> PruningCounts:
    return PruningCounts(
        input_tokens=measured.prompt,
        output_tokens=measured.generated,
        visual_tokens=measured.visual,
        kept_tokens=measured.kept,
        first_token_seconds=round(measured.first_token, 6),
    )
