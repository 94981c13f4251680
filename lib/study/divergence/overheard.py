"""Methods are measured while they caption, with the prefill they have done anyway."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..captioning.listening import Prefill
from ..captioning.record import Batch
from ..models import PROMPT, full_prompt
from .reader import Reader
from .record import DivergenceRecord, records_of
from .text import Text


class _Heard(NamedTuple):
    """The unpruned model's pass over a batch."""

    ids: list[int]
    text: Text
    unpruned: Tensor
    visual: list[int]


class Overheard:
    """A `Listener` that measures methods while they caption: the prompts' passes are theirs.

    The unpruned model has to come first under its slug, None among the pruners; a batch of which
    not every method is heard is dropped. `store` gets each whole batch's `{slug: records}`, which
    are those of `divergences` up to rounding.

    Parameters
    ----------
    model, processor, prompt, references : see `divergence`.
    slugs : the methods, the unpruned model's first.
    wanted : whether a batch is to be measured.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        slugs: Sequence[str],
        store: Callable[[dict[str, list[DivergenceRecord]]], None],
        *,
        prompt: str = PROMPT,
        references: int = 2,
        wanted: Callable[[Batch], bool] = bool,
    ) -> None:
        self._text = functools.partial(
            Text.read, model, processor, full_prompt(processor, prompt), references=references
        )
        self._slugs, self._store, self._wanted = list(slugs), store, wanted
        self._reader = Reader(model, None)
        self._of: _Heard | None = None
        self._found: dict[str, list[DivergenceRecord]] = {}

    def __call__(self, slug: str, batch: Batch, prefill: Prefill) -> None:
        """See `lib.study.captioning.listening.Listener`."""
        ids = [int(example.image_id) for example in batch]
        if slug == self._slugs[0]:
            self._of, self._found = None, {}
            if self._wanted(batch):
                text = self._text(batch)
                image = self._reader.model.config.image_token_id
                visual = (prefill.inputs["input_ids"] == image).sum(1).tolist()
                self._of = _Heard(ids, text, self._read(prefill, text), visual)
        if self._of is None or self._of.ids != ids:
            return
        _, text, unpruned, visual = self._of
        said = unpruned if prefill.kept is None else self._read(prefill, text)
        kept = visual if prefill.kept is None else prefill.kept
        self._found[slug] = records_of(ids, text, unpruned, said, (kept, visual))
        if list(self._found) == self._slugs:
            self._store(self._found)

    def _read(self, prefill: Prefill, text: Text) -> Tensor:
        return self._reader.read(
            prefill.logits, prefill.cache, prefill.inputs["attention_mask"], text
        )
