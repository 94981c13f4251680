"""One method on its way through the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import RecordFolder
from .record import Batch, Record


@dataclass
class Task:
    """A method and what it has recorded; in memory only when it has no folder."""

    slug: str
    pruner: Any
    store: RecordFolder | None
    memory: dict[int, Record] = field(default_factory=dict)

    @property
    def done(self) -> Mapping[int, Record]:
        """The records there are, by image id."""
        return self.memory if self.store is None else self.store.done

    def missing(self, batch: Batch) -> set[int]:
        """The ids of the images without a record."""
        return {int(example.image_id) for example in batch} - self.done.keys()

    def append(self, records: Iterable[Record]) -> None:
        """Add records of a batch."""
        if self.store is None:
            self.memory.update((record["image_id"], record) for record in records)
        else:
            self.store.append(list(records))

    def finish(self, order: Sequence[int]) -> list[Record]:
        """The records in this order of ids, merged if every process has done its share."""
        if self.store is None:
            return [self.memory[i] for i in order if i in self.memory]
        return self.store.finish(order)
