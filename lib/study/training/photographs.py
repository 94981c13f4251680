"""Photographs on the training device, and how they are varied there.

All photographs lie on the device as bytes (6,000 of 224 px take 0.9 GB), so a step reads no file.
A crop, a flip and the resizing are one bilinear look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F


def read_squares(paths: Sequence[Path], side: int, *, workers: int | None = None) -> torch.Tensor:
    """Photographs squashed to squares, (N, side, side, 3) uint8, read by several processes."""
    with ProcessPoolExecutor(workers) as pool:
        squares = pool.map(partial(_read, side=side), paths, chunksize=32)
        return torch.from_numpy(np.stack(list(squares)))


def _read(path: Path, side: int) -> np.ndarray:
    with Image.open(path) as photograph:
        square = photograph.convert("RGB")
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square)


@dataclass(frozen=True)
class Augmentation:
    """How a photograph is varied.

    area : smallest share of the picture that a crop keeps, in (0, 1]; 1 for no crop.
    ratio : a crop's sides differ by a factor of at most this.
    flip : how often left and right change places.
    jitter : brightness, contrast and saturation vary by a factor within 1 ± this.
    mix : how often pictures are blended or pasted into one another (a third of it: pasted).
    """

    area: float = 0.25
    ratio: float = 4 / 3
    flip: float = 0.5
    jitter: float = 0.4
    mix: float = 0.7


PLAIN = Augmentation(area=1.0, ratio=1.0, flip=0.0, jitter=0.0, mix=0.0)
MILD = Augmentation(area=0.6, flip=0.5, jitter=0.2, mix=0.0)


class PhotoPool:
    """Groups of photographs and how large a part of a batch each gives.

    Parameters
    ----------
    groups : (N, side, side, 3) uint8 tensors, sides may differ between groups.
    shares : parts of a batch, one a group, summing to 1. A group may be empty at first and filled
        later with `extend`; its part goes to the first group until then.
    """

    def __init__(self, groups: Sequence[torch.Tensor], shares: Sequence[float]) -> None:
        if len(groups) != len(shares) or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"{len(groups)} groups need as many shares that sum to 1: {shares}")
        self.groups, self.shares = list(groups), tuple(shares)

    def extend(self, group: int, photographs: torch.Tensor) -> None:
        """Add photographs to a group."""
        there = self.groups[group]
        self.groups[group] = photographs if not len(there) else torch.cat([there, photographs])

    def draw(
        self, size: int, side: int, augmentation: Augmentation, generator: torch.Generator
    ) -> torch.Tensor:
        """A batch of varied squares, (size, 3, side, side) in [0, 1]."""
        counts = [int(size * s) if len(g) else 0 for g, s in zip(self.groups, self.shares)]
        counts[0] += size - sum(counts)
        parts = []
        for photographs, count in zip(self.groups, counts):
            if count:
                device = photographs.device
                index = torch.randint(
                    len(photographs), (count,), generator=generator, device=device
                )
                parts.append(crop(photographs[index], side, augmentation, generator))
        return mix(jitter(torch.cat(parts), augmentation, generator), augmentation, generator)


def crop(
    photographs: torch.Tensor, side: int, augmentation: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Random crops, flipped or not, resized: (B, H, W, 3) uint8 to (B, 3, side, side) in [0, 1]."""
    pixels = photographs.permute(0, 3, 1, 2).float().div_(255)
    if augmentation.area == 1 and not augmentation.flip:
        if pixels.shape[-1] == side:
            return pixels
        return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    noise = torch.rand((5, len(pixels)), generator=generator, device=pixels.device)
    area = augmentation.area + (1 - augmentation.area) * noise[0]
    ratio = augmentation.ratio ** (noise[1] - 0.5)
    width, height = (area.sqrt() * ratio).clamp(max=1), (area.sqrt() / ratio).clamp(max=1)
    theta = pixels.new_zeros((len(pixels), 2, 3))
    theta[:, 0, 0] = torch.where(noise[2] < augmentation.flip, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * (2 * noise[3] - 1)
    theta[:, 1, 2] = (1 - height) * (2 * noise[4] - 1)
    grid = F.affine_grid(theta, [len(pixels), 3, side, side], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def jitter(
    images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Vary brightness, contrast and saturation of each image."""
    if not augmentation.jitter:
        return images
    size = (3, len(images), 1, 1, 1)
    noise = torch.rand(size, generator=generator, device=images.device)
    bright, contrast, saturation = 1 + augmentation.jitter * (2 * noise - 1)
    weights = images.new_tensor((0.299, 0.587, 0.114))[:, None, None]
    images = images * bright
    grey = (images * weights).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    images = grey + (images - grey) * saturation
    return (mean + (images - mean) * contrast).clamp(0, 1)


def mix(
    images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """Blend each image with the next one, or paste a rectangle of that one, or leave it.

    What is blended differs from image to image; the teacher sees the same mixtures.
    """
    if not augmentation.mix:
        return images
    size, side = len(images), images.shape[-1]
    noise = torch.rand((4, size, 1, 1, 1), generator=generator, device=images.device)
    other, share = images.roll(1, 0), noise[1]
    place = (torch.arange(side, device=images.device) + 0.5) / side
    length = share.sqrt()
    left, top = noise[2] * (1 - length), noise[3] * (1 - length)
    inside = ((place >= left) & (place < left + length)) & (
        (place[:, None] >= top) & (place[:, None] < top + length)
    )
    pasted = torch.where(inside, other, images)
    blended = images.lerp(other, share)
    kind = noise[0]
    images = torch.where(kind < augmentation.mix, blended, images)
    return torch.where(kind < augmentation.mix / 3, pasted, images)
