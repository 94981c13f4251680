"""M and k_c of Algorithm 1 for each image: the paper's outlook, on the photograph model.

Clusters and their scores depend on the vision tower alone, so all choices of tokens are made
first (`chosen`) and then measured as kept sets. Every pair (M, k_c) is measured on every image;
what a rule that follows the image would give is looked up afterwards in what was measured:

- M: the measured size nearest to c times the effective rank exp(S) of the image's tokens
  (`nearest`), or one of two by whether S is above the median (`lib.study.trials.two_levels`);
- k_c: the fewest clusters that hold a share of all scores (`fewest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..entropy import matrix_entropy
from ..geometry import feature_layer
from ..pruning import EntropyPrune
from ..pruning.engine.images import ImageTokens
from ..pruning.engine.pruner import VisualPruner
from ..selection import hierarchical
from .captioning.loader import Loader
from .divergence import divergence
from .methods import FASTV_LAYER
from .models import full_prompt

__all__ = ["CLUSTERS", "cores", "fewest", "measure_clusters", "nearest", "pairs", "share_for"]

#: M that are measured with k_c = M / 2, the paper's proportion
CLUSTERS = (8, 16, 24, 32, 48, 64, 96, 128)
#: M of the paper, and of this study at 256 tokens: measured with other k_c, too
VARIED = (32, 64)
SHARES = (1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)


def cores(n_clusters: int, count: int) -> list[int]:
    """The k_c that are measured for M, ascending; more core clusters than tokens are as many.

    >>> cores(32, 128), cores(32, 16), cores(8, 128)
    ([8, 12, 16, 20, 24], [8, 12, 16], [4])
    """
    shares = SHARES if n_clusters in VARIED else (1 / 2,)
    return sorted({min(count, round(share * n_clusters)) for share in shares})


def pairs(count: int) -> list[tuple[int, int]]:
    """All `(M, k_c)` measured where `count` tokens are kept."""
    return [(m, k) for m in CLUSTERS for k in cores(m, count)]


def nearest(rank: np.ndarray, factor: float, sizes: Sequence[int] = CLUSTERS) -> np.ndarray:
    """The index (n,) of the size nearest to factor times `rank` (n,), by their ratio.

    >>> nearest(np.array([2.0, 5.0, 60.0]), 4.0, (8, 16, 32)).tolist()
    [0, 1, 2]
    """
    wanted = np.log(factor * np.asarray(rank, dtype=float))
    return np.abs(wanted[:, None] - np.log(sizes)).argmin(1)


def fewest(held: np.ndarray, share: float) -> np.ndarray:
    """The index (n,) of the first level that holds `share` of the scores, else of the last.

    held: (n, levels), the share of all scores that the best clusters hold, ascending.

    >>> fewest(np.array([[0.3, 0.6], [0.5, 0.7], [0.1, 0.2]]), 0.5).tolist()
    [1, 0, 1]
    """
    reached = np.asarray(held) >= share
    return np.where(reached.any(1), reached.argmax(1), reached.shape[1] - 1)


def share_for(held: np.ndarray, levels: Sequence[int], mean: float) -> float:
    """The share with which `fewest` gives these images `mean` core clusters, as near as can be.

    >>> share_for(np.array([[0.3, 0.6], [0.5, 0.7]]), (8, 16), 12.0)
    0.5
    """
    candidates = np.unique(held)
    sizes = np.asarray(levels, dtype=float)
    gaps = [abs(sizes[fewest(held, share)].mean() - mean) for share in candidates]
    return float(candidates[int(np.argmin(gaps))])


class Chosen(NamedTuple):
    """What Algorithm 1 makes of n images under every pair of numbers.

    entropy: (n,) of the tokens, in nats. held: `{M: (n, levels)}`, the share of all scores in the
    best k_c clusters, for `cores` without a bound. masks: `{"M-k_c-count": (n, N)}`.
    """

    entropy: Tensor
    held: dict[int, Tensor]
    masks: dict[str, Tensor]


@torch.inference_mode()
def chosen(layers: list[Tensor], counts: Sequence[int]) -> Chosen:
    """The choices at these counts of kept tokens, of all images at once: each takes little.

    layers: the tower's last layers up to the one the projector reads, shallow first: (n, N, D).
    """
    size, masks = layers[-1].shape[-2], {}
    for count in counts:
        for m, k in pairs(count):
            pruner = EntropyPrune(keep=count / size, n_clusters=m, core_clusters=k)
            masks[f"{m}-{k}-{count}"] = pruner.rank(layers)
    held = {m: _held(layers, m) for m in VARIED}
    return Chosen(matrix_entropy(layers[-1].double()), held, masks)


def _held(layers: list[Tensor], n_clusters: int) -> Tensor:
    """The share (images, levels) of all scores that the best clusters hold."""
    scores = hierarchical(layers[-1], n_clusters, 1, 1, layers=layers).cluster_scores
    best = scores.clamp_min(0).sort(descending=True).values.cumsum(-1)  # -inf: an empty cluster
    levels = torch.tensor(cores(n_clusters, n_clusters), device=best.device)
    return best[:, levels - 1] / best[:, -1:]


@dataclass(eq=False, kw_only=True)
class _Given(VisualPruner):
    """Keeps the tokens that were chosen before: of image `place[id]`, that row of `masks`."""

    masks: Tensor = field(repr=False)
    place: dict[int, int] = field(repr=False)

    def select(self, images: ImageTokens) -> Tensor:
        ids = self.image_keys.tolist()
        rows = [self.place[ids[ordinal]] for ordinal in images.ordinals]
        return self.masks[rows].to(images.columns.device)


def measure_clusters(
    model: Any,
    processor: Any,
    images: Sequence[Any],
    counts: Sequence[int],
    *,
    prompt: str,
    references: int = 2,
    batch_size: int = 50,
) -> dict[str, Any]:
    """Divergences of every pair at these counts before FastV's layer, and what rules go by.

    Returns
    -------
    `{"image_ids", "entropy", "held": {M: one list an image}, "kl": {"M-k_c-count": one an image}}`,
    numbers of three digits, entropies of six.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    made = chosen(_layers(model, processor, batches, prompt), counts)
    ids = [int(image.image_id) for image in images]
    place = {key: row for row, key in enumerate(ids)}
    pruners = {
        slug: _Given(
            keep=_count(slug) / masks.shape[1], layer=FASTV_LAYER, masks=masks, place=place
        )
        for slug, masks in made.masks.items()
    }
    rows = divergence(
        model, processor, images, pruners, prompt=prompt, references=references,
        batch_size=batch_size,
    )  # fmt: skip
    return {
        "image_ids": ids,
        "entropy": _rounded(made.entropy.tolist(), 6),
        "held": {str(m): [_rounded(row) for row in x.tolist()] for m, x in made.held.items()},
        "kl": {slug: _rounded([row["kl"] for row in each]) for slug, each in rows.items()},
    }


@torch.inference_mode()
def _layers(
    model: Any, processor: Any, batches: Sequence[Sequence[Any]], prompt: str
) -> list[Tensor]:
    """What Entropy-Prune looks at by default, of all images: see `chosen`."""
    last, found = feature_layer(model.config), []
    wanted = range(max(0, last - EntropyPrune.depth + 1), last + 1)
    with Loader(processor, full_prompt(processor, prompt), model.device) as loader:
        for _, inputs in loader(batches):
            pixels = inputs["pixel_values"].to(model.device, model.dtype)
            hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            found.append([hidden[layer][:, 1:] for layer in wanted])
    return [torch.cat(parts) for parts in zip(*found)]


def _count(slug: str) -> int:
    return int(slug.rsplit("-", 1)[1])


def _rounded(values: Sequence[float], digits: int = 3) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
