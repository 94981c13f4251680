"""RandomPrune: the lower bound every score must beat, at the same budget."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from .engine.graphs import graphs
from .engine.images import ImageTokens
from .engine.pruner import VisualPruner

#: numbers of a batch that is hashed by replaying a graph: it would hold those of a larger one
_REPLAYED = 1 << 20


@dataclass(eq=False, kw_only=True)
class RandomPrune(VisualPruner, name="random"):
    """Keeps `budget(N)` visual tokens drawn uniformly without replacement (paper, section 4.1.3).

    The draw depends on `seed` and on the image alone, not on the batch it stands in or on the
    order of the images: the same image keeps the same tokens. The image is identified by
    `image_keys` if the caller sets them, else by its pixels.
    """

    seed: int = 0

    scorer = ("select", "hash_pixels")

    def attach(self, model: nn.Module) -> None:
        watch_pixels(self)

    def hash_pixels(self, pixels: Tensor) -> Tensor:
        """`content_key`, under a name that cost measurements find."""
        return content_key(pixels)

    def select(self, images: ImageTokens) -> Tensor:
        return random_mask(self, images, self.seed)


def watch_pixels(pruner: VisualPruner) -> None:
    """Hash what enters the vision tower, unless the caller names the images."""
    hash_pixels = getattr(pruner, "hash_pixels", content_key)

    def remember(module: nn.Module, args: tuple, kwargs: dict) -> None:
        record = pruner._current.record
        if record is not None and pruner.image_keys is None:
            pixels = args[0] if args else kwargs.get("pixel_values", kwargs.get("hidden_states"))
            record.pixels = hash_pixels(pixels.detach())

    pruner.hook(pruner.family.tower, remember, before=True)


def random_mask(pruner: VisualPruner, images: ImageTokens, seed: int) -> Tensor:
    """A uniform draw of `budget(N)` tokens for each image, bool `(n, N)`."""
    keys, tokens = _keys(pruner, images, images.columns.device), images.tokens
    options = {"seed": seed, "tokens": tokens, "k": pruner.budget(tokens)}
    return graphs(("random", *options.values()), functools.partial(_drawn, **options), [keys])


def _drawn(tensors: list[Tensor], *, seed: int, tokens: int, k: int) -> Tensor:
    """`k` of the `tokens` of each image with one of the keys `(n,)`, bool `(n, tokens)`."""
    (keys,) = tensors
    scores = _numbers(keys, seed, torch.arange(tokens, device=keys.device))
    top = scores.topk(k, dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top, True)


def draws(pruner: VisualPruner, images: ImageTokens, seed: int, place: Tensor) -> Tensor:
    """One random int64 a token, `(n, P)`, from the image and the tokens' `place` `(P,)`, `(n, P)`.

    Needs `watch_pixels`.
    """
    return _numbers(_keys(pruner, images, place.device), seed, place)


def _numbers(keys: Tensor, seed: int, place: Tensor) -> Tensor:
    return mix(mix(keys + seed)[:, None] + place)


def _keys(pruner: VisualPruner, images: ImageTokens, device: torch.device) -> Tensor:
    """One key a part with a budget, `(n,)`."""
    keys = pruner.image_keys
    if keys is None:
        keys = _keys_of_images(pruner, images)
    return _of_parts(images, keys.to(device))


def _of_parts(images: ImageTokens, keys: Tensor) -> Tensor:
    """One key a part with a budget; keys of whole prompts go to the tiles or frames of each."""
    pass_ = images.prefill
    if len(keys) in (pass_.images, pass_.encoded_images):
        return images.of_vision(keys)
    copies = pass_.images // max(pass_.encoded_images, 1)  # for beams
    if len(keys) * copies != pass_.batch:
        return images.of_vision(keys)  # says what is wrong
    rows = [pass_.row_of[ordinal] for ordinal in images.ordinals]
    first = [0, *accumulate(pass_.images_per_row)]
    within = torch.tensor([o - first[row] for o, row in zip(images.ordinals, rows)])
    own, within = keys[torch.tensor(rows) // copies], within.to(keys.device)
    return torch.where(within == 0, own, mix(own) + within)  # the only part has the prompt's key


def _keys_of_images(pruner: VisualPruner, images: ImageTokens) -> Tensor:
    """One key an encoded image, from the hashes of the rows (tiles, patches) it consists of."""
    record = images.vision
    rows = pruner.family.rows_of_images(record)
    if rows is None:
        return record.pixels
    parts = record.pixels.split(rows)
    place = [torch.arange(len(part), device=part.device) for part in parts]
    return torch.stack([(mix(at) * part).sum() for at, part in zip(place, parts)])


def content_key(tensor: Tensor) -> Tensor:
    """One int64 hash of the bits of each row of `(n, ...)`: `(n,)`, without leaving the device.

    >>> a = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
    >>> key = content_key(a)
    >>> bool(key[0] == key[2]), bool(key[0] == key[1])
    (True, False)
    """
    if tensor.is_cuda and tensor.numel() <= _REPLAYED:
        return graphs("content", _content_key, [tensor])
    return _content_key([tensor])


def _content_key(tensors: list[Tensor]) -> Tensor:
    (tensor,) = tensors
    flat = tensor.flatten(1).contiguous()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    # on a CPU they are worked out once; a graph of a GPU may outlive what is remembered
    plain = type(tensor) is Tensor and tensor.device.type == "cpu"
    multipliers = _remembered if plain else _multipliers
    return mix((multipliers(flat.shape[1], flat.device) * flat.view(bits).long()).sum(1))


def _multipliers(count: int, device: torch.device) -> Tensor:
    """One random int64 a place, `(count,)`."""
    return mix(torch.arange(count, device=device))


_remembered = functools.lru_cache(maxsize=4)(_multipliers)


def mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64 (wrapping) values: a counter-based random generator."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
