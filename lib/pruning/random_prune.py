"""RandomPrune: the lower bound every score must beat, at the same budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .base import ImageTokens, VisualPruner


@dataclass(eq=False, kw_only=True)
class RandomPrune(VisualPruner, name="random"):
    """Keeps `budget(N)` visual tokens drawn uniformly without replacement (paper, section 4.1.3).

    The draw depends on `seed` and on the image alone, not on the batch it stands in or on the
    order of the images: the same image keeps the same tokens. The image is identified by
    `image_keys` if the caller sets them, else by its pixels.
    """

    seed: int = 0

    def attach(self, model: PreTrainedModel) -> None:
        attach_pixel_keys(self, model)

    def select(self, images: ImageTokens) -> Tensor:
        return random_mask(self, images, self.seed)


def attach_pixel_keys(pruner: VisualPruner, model: PreTrainedModel) -> None:
    """Hash the pixels of each image as they enter the vision tower."""
    pruner._pixel_keys = None

    def remember(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        pixels = args[0] if args else kwargs["pixel_values"]
        pruner._pixel_keys = content_key(pixels.detach())

    pruner.hook(model.model.vision_tower, remember, before=True)


def random_mask(pruner: VisualPruner, images: ImageTokens, seed: int) -> Tensor:
    """A uniform draw of `budget(N)` tokens for each image, bool `(n, N)`."""
    if pruner.image_keys is not None:
        keys = images.of_vision(pruner.image_keys.to(images.columns.device))
    elif pruner._pixel_keys is not None and images.prefill.groups == [images]:
        keys = images.of_vision(pruner._pixel_keys)
    else:  # tiles of LLaVA-NeXT or precomputed features: the hidden states identify the image
        keys = content_key(images.hidden)
    scores = mix(mix(keys + seed)[:, None] + torch.arange(images.tokens, device=keys.device))
    top = scores.topk(pruner.budget(images.tokens), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top, True)


def content_key(tensor: Tensor) -> Tensor:
    """One int64 hash of the bits of each row of `(n, ...)`: `(n,)`, without leaving the device.

    >>> a = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    >>> key = content_key(a)
    >>> bool(key[0] == key[2]), bool(key[0] == key[1])
    (True, False)
    """
    flat = tensor.flatten(1).contiguous()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    place = torch.arange(flat.shape[1], device=flat.device)
    return mix((mix(place) * flat.view(bits).long()).sum(1))


def mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64 (wrapping) values: a counter-based random generator."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
