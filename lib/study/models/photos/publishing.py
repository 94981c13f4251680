"""Write this project's own weights the way `assembled` reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from . import weights

SUMS = "SHA256SUMS"


def publish(
    folder: Path,
    tower: Mapping[str, torch.Tensor],
    checkpoints: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    vision: Mapping[str, int],
    rank: int,
    alpha: int,
) -> None:
    """Write a tower, the adapters and projector of each checkpoint, and their checksums.

    Parameters
    ----------
    tower : its state; the last layer and what follows it are left out, since nothing reads them.
    checkpoints : `Trainables.state_dict()` of each, by name.
    vision : sizes of the tower's configuration.
    rank, alpha : of the adapters.
    """
    last = f"encoder.layers.{vision['num_hidden_layers'] - 1}."
    used = {n: w for n, w in tower.items() if not n.startswith((last, "post_layernorm"))}
    weights.write(folder / "tower.safetensors", used, **vision)
    for name, state in checkpoints.items():
        weights.write(folder / f"{name}.safetensors", state, rank=rank, alpha=alpha)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.glob("*.safetensors"))
    ]
    (folder / SUMS).write_text("".join(lines))
