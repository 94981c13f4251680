"""What the figures show of one image, as numbers of every image: the population behind them.

Each function takes a `Reading` and returns named values, numbers or lists of numbers by layer. They
are what the notebooks compute of their one image, by the same functions of the library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ...clustering.kmeans import means_of_rows
from ...entropy import entropy_operator, gram
from ...rollout import attention_rollout, rolled_importance
from ...selection import hierarchical, random
from .attention import PARTS, parts
from .measures import diversity, rank_agreement, spearman
from .reading import Reading
from .states import unit_gram

__all__ = ["Numbers", "attention", "choice", "criteria", "inversions", "rollouts", "stages"]

#: copies of one layer that a faithful rollout would rank as the layer itself
COPIES = 32
#: the language layer whose attention FastV ranks by when it prunes before layer 2
FASTV = 1


class Numbers(NamedTuple):
    """Algorithm 1's numbers; the paper's, cut to the tokens there are."""

    clusters: int = 32
    cores: int = 16
    each: int = 2

    @classmethod
    def for_tokens(cls, tokens: int) -> Numbers:
        """The paper's numbers, or fewer clusters where there are fewer than 64 tokens.

        >>> Numbers.for_tokens(256), Numbers.for_tokens(16)
        (Numbers(clusters=32, cores=16, each=2), Numbers(clusters=8, cores=4, each=2))
        """
        clusters = min(32, tokens // 2)
        return cls(clusters, max(1, clusters // 2), 2)


def attention(reading: Reading) -> dict[str, Any]:
    """Where the answer looks, by language layer (Figure 1), and whether there is a sink.

    A ratio is what an image token gets over what a token before the image gets.
    """
    size = reading.rows.shape[-1]
    part = torch.nn.functional.one_hot(parts(size, reading.spots, reading.length), len(PARTS))
    counts = part.sum(0).clamp_min(1)
    mean = reading.rows.double().mean(1)  # (L, S)
    shares = mean @ part.double()
    image, system = PARTS.index("image"), PARTS.index("system")
    per_token = shares / counts
    later = per_token[2:].mean(0)
    visual = mean[:, reading.spots]
    most = visual.sort(1).values[:, -max(1, visual.shape[1] // 10) :]
    norms = reading.language[:, : reading.length].norm(dim=-1)
    return {
        "image share": shares[:, image].tolist(),
        "system share": shares[:, system].tolist(),
        "first token's share": mean[:, 0].tolist(),
        "image share of the last prompt token":
            reading.rows[:, 0].double()[:, reading.spots].sum(1).tolist(),
        "image / system": (per_token[:, image] / per_token[:, system]).tolist(),
        "image / system, layer 2 on": float(later[image] / later[system]),
        "share of the most attended tenth": float(most.sum() / visual.sum()),
        "first token's norm over the median": (norms[:, 0] / norms.median(1).values).tolist(),
    }  # fmt: skip


def criteria(reading: Reading, scores: Tensor, objects: np.ndarray | None) -> dict[str, float]:
    """How well two criteria find the patches of drawn objects (area under the ROC curve).

    scores: (N,), exact leave-one-out among all tokens, entropy's criterion; FastV's is the last
    prompt token's attention in layer 1. objects: bool (N,), None where nobody knows.
    """
    if objects is None or objects.all() or not objects.any() or len(reading.rows) <= FASTV:
        return {}
    looked = reading.rows[FASTV, 0][reading.spots]
    return {
        "objects found by attention": float(roc_auc_score(objects, looked)),
        "objects found by entropy": float(roc_auc_score(objects, scores)),
    }


def choice(
    reading: Reading, scores: Tensor, grid: Sequence[int], numbers: Numbers, *,
    random_state: int = 0,
) -> tuple[dict[str, float], Tensor]:  # fmt: skip
    """Clusters, their scores and what Algorithm 1 keeps (Figures 2, 4 and 5); and the labels (N,).

    scores: (N,), exact leave-one-out among all tokens.
    Redundancy, effective rank and coverage are those of `diversity`; "random" is as many tokens
    drawn at random.
    """
    tokens = reading.vision[-1]
    chosen = hierarchical(tokens, *numbers, random_state=random_state)
    labels, core = chosen.labels, chosen.core
    counts = labels.bincount(minlength=numbers.clusters)
    cells, shares = labels.reshape(tuple(grid)), counts / len(tokens)
    means = torch.zeros(numbers.clusters, tokens.shape[1]).index_add_(0, labels, tokens)
    means = means / counts.clamp_min(1)[:, None]
    inside = (tokens - means[labels]).square().sum()
    kept = chosen.mask
    drawn = random(tokens, int(kept.sum()), random_state=random_state)
    every = torch.ones(len(tokens), dtype=torch.bool)
    sets = {"all": every, "kept": kept, "random": drawn}
    found = {name: diversity(tokens, mask) for name, mask in sets.items()}
    cosines = gram(tokens[kept])
    pairs = cosines[~torch.eye(len(cosines), dtype=torch.bool)].abs()
    of_clusters = chosen.cluster_scores[counts > 0]
    return {
        "clusters of one token": int((counts == 1).sum()),
        "largest cluster": int(counts.max()),
        "neighbours in one cluster": float((cells[:, 1:] == cells[:, :-1]).float().mean()),
        "any two in one cluster": float(shares.square().sum()),
        "spread within clusters": float(inside / (tokens - tokens.mean(0)).square().sum()),
        "kept clusters of one token": int((counts[core] == 1).sum()),
        "negative scores of centroids": float((of_clusters < 0).float().mean()),
        "negative scores of tokens": float((scores < 0).float().mean()),
        "kept tokens": int(kept.sum()),
        "kept cosines above .5": float((pairs > 0.5).float().mean()) if len(pairs) else 0.0,
        **{
            f"{measure}, {name}": values[measure]
            for name, values in found.items()
            for measure in ("redundancy", "effective rank", "coverage")
        },
    }, labels


def rollouts(reading: Reading, scores: Tensor, merged: Sequence[int]) -> dict[str, float]:
    """Rank correlations of token scores: rollout of entropy, of attention, and what they merge.

    scores: (N,), exact leave-one-out among all tokens. merged: the vision layers that Entropy-Prune
    merges. Rollout of attention is the class token's row (the mean row without one) over all blocks
    up to the projector's layer.
    """
    layers = gram(reading.vision[list(merged)])
    product = attention_rollout(reading.tower)
    skipped = product.shape[-1] - reading.vision.shape[1]
    row = product[0] if skipped else product.mean(0)
    last = reading.tower[-1]
    last = last[0] if skipped else last.mean(0)
    found = {
        "entropy rollout": rolled_importance(entropy_operator(layers, gram=True)),
        "leave-one-out": scores,
        "attention rollout": row[skipped:],
        "attention of the last block": last[skipped:],
    }
    if len(reading.rows) > FASTV:
        found["FastV's attention"] = reading.rows[FASTV, 0][reading.spots]
    names = list(found)
    return {
        f"{a} ~ {b}": float(spearman(found[a], found[b]))
        for place, a in enumerate(names)
        for b in names[place + 1 :]
    }


def stages(reading: Reading, labels: Tensor, clusters: int) -> Tensor:
    """Gram matrices (S, M, M) of one clustering's unit centroids, vision layers, then language."""
    language = reading.language[:, reading.spots]
    means = [
        means_of_rows(states.double(), labels.expand(states.shape[:2]), clusters)
        for states in (reading.vision, language)
    ]
    return unit_gram(torch.cat(means)).float()


def inversions(grams: Tensor, last: int, merged: int) -> Mapping[str, Any]:
    """Rank agreement of rollouts with the layers' scores (Figure 3), of `grams` (S, n, M, M).

    last: the stage that the projector reads. merged: the layers up to it that Entropy-Prune merges.
    Values are lists over the n images; curves are (n, depth).
    """
    every = rank_agreement(grams)
    copies = rank_agreement(grams[last : last + 1].expand(COPIES, *grams.shape[1:]))
    here = rank_agreement(grams[last + 1 - merged : last + 1])
    found: dict[str, Any] = {}
    for variant in ("scaled", "literal"):
        found |= {
            f"merged layers, {variant}": here[variant][-1].tolist(),
            f"all layers, {variant}": every[variant][-1].tolist(),
            f"curve over all layers, {variant}": every[variant].T.tolist(),
            f"curve over copies, {variant}": copies[variant].T.tolist(),
            f"layers until inverted, {variant}": _first_below(every[variant]),
            f"copies until inverted, {variant}": _first_below(copies[variant]),
        }
    return found


def _first_below(curve: Tensor) -> list[float]:
    """For curves (depth, n): the first depth, from 1, with a negative value; NaN without one."""
    below = curve < 0
    first = below.int().argmax(0) + 1
    return torch.where(below.any(0), first.double(), torch.nan).tolist()
