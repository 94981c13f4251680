"""One split of a data set, captioned with one method or several: what `lib caption` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ... import pruning
from .. import models
from ..data import coco, scenes
from . import ranks
from .loader import Loader
from .loop import UNPRUNED, Settings, caption_methods, cut

__all__ = ["Split", "caption_split"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """What to caption, with what, and where the records go.

    data: JSON in Karpathy's layout; by default the generated scenes. limit, random_state: a seeded
    subset. device: by default a GPU of this process's own, if there is one. settings: how, beside
    what follows from the rest. decoder: makes what decodes instead of `generate`, of the model.
    """

    results: Path
    model: str = "embedded"
    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    data: Path | None = None
    image_root: Path | None = None
    split: str = "test"
    limit: int | None = None
    random_state: int = 0
    methods: Sequence[str] = (UNPRUNED,)
    keep: float = 0.5
    settings: Settings = field(default_factory=Settings)
    decoder: Callable[[Any], Any] | None = None

    def pruners(self) -> dict[str, Any]:
        """`{slug: pruner}`; raises `ValueError` for an unknown method or keep rate."""
        return {
            name if name == UNPRUNED else f"{name}-{self.keep:g}": None
            if name == UNPRUNED
            else pruning.create(name, keep=self.keep)
            for name in self.methods
        }

    def source(self, listing: Path, name: str) -> dict[str, Any]:
        """Where model and images are from, for the manifests."""
        return {
            "model": Path(name).name if Path(name).is_dir() else name,
            "revision": self.revision,
            "data": listing.name,
            "split": self.split,
            "limit": self.limit,
            "random_state": self.random_state,
        }


def caption_split(split: Split) -> list[str]:
    """Caption a split, sharing it with the processes launched beside this one.

    The first batches are prepared while the model loads. Returns lines for people, on rank 0.
    """
    settings, pruners, (rank, world_size) = split.settings, split.pruners(), ranks.place()
    device = split.device or ranks.own_gpu() or "cpu"
    with ranks.process_group(world_size):
        listing = split.data or _drawn_scenes(split, rank, world_size)
        examples = coco.read_karpathy(
            listing,
            split.split,
            image_root=split.image_root,
            limit=split.limit,
            random_state=split.random_state,
            check_files=False,
        )
        processor = models.load_processor(split.model, revision=split.revision)
        prompt = models.full_prompt(processor, settings.prompt)
        fill = settings.batch_size if split.decoder else 0
        with Loader(processor, prompt, torch.device(device), fill=fill) as loader:
            loader.start(cut(examples, settings.batch_size)[rank::world_size])
            loaded = models.load(
                split.model, device=device, dtype=split.dtype, revision=split.revision
            )
            begin = time.monotonic()
            whole = replace(
                settings,
                loader=loader,
                decoder=split.decoder and split.decoder(loaded.model),
                parameters={"source": split.source(listing, loaded.name)},
            )
            model, processor = loaded.model, loaded.processor
            results = caption_methods(
                model, processor, examples, pruners, split.results, **vars(whole)
            )
    if rank:
        return []
    return [*_summary(results, len(examples)), f"{time.monotonic() - begin:.1f} s"]


def _summary(results: dict[str, list[Any]], images: int) -> list[str]:
    lines = []
    for slug, records in results.items():
        visual = sum(r["visual_tokens"] for r in records)
        kept = f"{sum(r['kept'] for r in records) / visual:.1%}" if visual else "no"
        lines.append(f"{slug}: {len(records)} of {images} images, {kept} tokens kept")
    return lines


def _drawn_scenes(split: Split, rank: int, world_size: int) -> Path:
    """Draw the generated scenes once, on rank 0, and let the others wait."""
    path = None
    if rank == 0:
        path = scenes.ensure_scenes(split.split, progress=split.settings.progress)
    if world_size > 1:
        ranks.wait_for_all()
    return path or scenes.ensure_scenes(split.split, progress=False)
