"""What stays the same while a study runs, the model among it, loaded when first asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import captioning, models, paths
from ..profiles import Profile

__all__ = ["Study", "threads"]


@dataclass
class Study:
    """A profile on its way through the stages.

    device: where the model goes; the GPU if there is one, by default. progress: show progress bars.
    workers: processes that share the images; they change no result.
    """

    profile: Profile
    device: str | None = None
    progress: bool = True
    workers: int = 1

    @property
    def folder(self) -> Path:
        """Where the results go: what is committed stays as it is."""
        return paths.run(self.profile.profile).results

    @functools.cached_property
    def loaded(self) -> models.Loaded:
        """The model and its processor: a finished study needs none."""
        profile = self.profile
        return models.load(
            profile.model,
            device=self.device,
            dtype=profile.dtype,
            revision=profile.revision,
            device_map=profile.device_map,
        )

    @property
    def source(self) -> dict[str, Any]:
        """Where model and images come from, as manifests hold it."""
        profile, name = self.profile, self.loaded.name
        return {
            "model": Path(name).name if Path(name).is_dir() else name,
            "revision": profile.revision,
            "split": profile.split,
            "random_state": profile.random_state,
        }

    def caption(
        self, images: Sequence[Any], pruners: Mapping[str, Any], folder: Path | None, **options: Any
    ) -> dict[str, list[captioning.Record]]:
        """Caption images with several methods as the profile says: `captioning.caption_methods`."""
        profile, (model, processor, _) = self.profile, self.loaded
        how = {
            "prompt": profile.prompt,
            "batch_size": profile.batch_size,
            "max_new_tokens": profile.max_new_tokens,
            "progress": self.progress,
        }
        return captioning.caption_methods(
            model, processor, images, pruners, folder, **how | options
        )

    @property
    def device_name(self) -> str | None:
        """Where the model is: "cpu" or the GPU's name; None as long as nobody asked for it."""
        if "loaded" not in self.__dict__:
            return None
        kind = self.loaded.model.device.type
        return torch.cuda.get_device_name() if kind == "cuda" else kind


@contextmanager
def threads(device: torch.device, count: int) -> Iterator[None]:
    """So many threads inside the block for work on a CPU."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
