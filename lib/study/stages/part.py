"""A set of images measured under many methods, with one record an image that holds all of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..captioning import ranks
from ..captioning.loop import cut
from ..files import entry
from ..methods import Method
from ..records import MANIFEST, RecordFolder, environment, read_records
from .study import Study

__all__ = ["Part"]


@dataclass(frozen=True)
class Part:
    """Methods on one set of images; parameters: of the manifest. What is measured: a subclass."""

    folder: Path
    images: Sequence[Any]
    table: Mapping[str, Method]
    parameters: Mapping[str, Any]

    def measured(
        self, study: Study, batches: Sequence[Sequence[Any]], pruners: Mapping[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """The records of a batch after the other, one an image."""
        raise NotImplementedError

    @property
    def missing(self) -> int:
        """Images without a record, times methods."""
        done = read_records(self.folder) if any(self.folder.glob("records*")) else []
        return (len(self.images) - len(done)) * len(self.table)

    def run(self, study: Study, *, rank: int = 0, world_size: int = 1) -> None:
        """Measure what is missing, or this rank's share of it."""
        batches = cut(self.images, study.profile.batch_size)
        with self.store(study, rank=rank, world_size=world_size) as store:
            pending = [b for b in batches if any(int(e.image_id) not in store.done for e in b)]
            if mine := ranks.share(pending, batches, rank, world_size):
                pruners = {slug: method.create() for slug, method in self.table.items()}
                for records in self.measured(study, mine, pruners):
                    store.append(records)
            store.finish([int(image.image_id) for image in self.images])

    def store(self, study: Study, *, rank: int, world_size: int) -> RecordFolder:
        """Where this rank's records go."""
        device = study.loaded.model.device
        about = environment(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            batch_size=study.profile.batch_size,
            processes=world_size,
        )
        place = {"rank": rank, "world_size": world_size}
        return RecordFolder(self.folder, self.parameters, run=about, **place)

    def drop_stale(self) -> None:
        """Delete the records of other settings, weights, methods or code."""
        stored = self.folder / MANIFEST
        if not stored.is_file():
            return
        found = entry(stored, "parameters")
        wanted = json.loads(json.dumps(self.parameters, default=str))
        # the order of the methods is that of the numbers in a record
        if found != wanted or list(found["methods"]) != list(wanted["methods"]):
            tqdm.write(f"{self.folder}: made with other settings or code, computed again")
            shutil.rmtree(self.folder)
