"""How this project's own weights are stored: a byte a weight, a float16 scale a row.

What that costs is measured, not assumed: see the model card and its test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

SCALE = ".scale"


def quantise(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices to int8 with a scale for each row (the first axis), anything else to float16.

    A row's largest entry becomes 127, so no entry is off by more than its row's largest / 254.

    >>> stored = quantise({"w": torch.tensor([[1.0, -2.0]])})
    >>> stored["w"].tolist(), round(float(stored["w.scale"]), 5)
    ([[64, -127]], 0.01575)
    """
    stored = {}
    for name, weight in state.items():
        weight = weight.detach().float()
        if weight.ndim < 2:
            stored[name] = weight.half()
            continue
        rows = weight.flatten(1)
        scale = (rows.abs().amax(1) / 127).half()
        unit = scale.float().clamp(min=torch.finfo(torch.float16).tiny)[:, None]
        whole = (rows / unit).round().clamp(-127, 127).to(torch.int8)
        stored[name], stored[name + SCALE] = whole.view_as(weight).contiguous(), scale
    return stored


def restore(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The float32 weights of what `quantise` stored."""
    state = {}
    for name, weight in stored.items():
        if name.endswith(SCALE):
            continue
        weight = weight.float()
        if name + SCALE in stored:
            scale = stored[name + SCALE].float()
            weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        state[name] = weight
    return state


def write(path: Path, state: Mapping[str, torch.Tensor], **facts: int | float) -> None:
    """Quantise and write a safetensors file; the facts (rank, say) go into its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(quantise(state), path, metadata={key: str(value) for key, value in facts.items()})


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Float32 weights and the facts of a file that `write` wrote."""
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = {key: float(value) for key, value in (file.metadata() or {}).items()}
    return restore(stored), facts
