"""PPT: prune tokens of images that stand out, pool those of images that do not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..merging import Merged, merge, schedule
from ..selection import top_k
from .in_tower import InTower
from .tower_rule import by_attention


@dataclass(eq=False, kw_only=True)
class PPT(InTower, name="ppt"):
    """In a few blocks of the CLIP tower, between attention and MLP: prune or merge, by image.

    arXiv 2310.01812; xjwu1024/PPT @706bcdd. A patch's score is the attention that the class token
    pays it, summed over heads, times the length of its value, divided by the sum over patches.
    Where scores spread widely (their variance, with all scores adding up to one) the r lowest are
    deleted, else r pairs are merged by ToMe's matching of mean keys. The class token stays; sizes
    weight means and are added to the logits of attention from then on.

    threshold: of n²σ², the squared coefficient of variation, below which tokens are merged. The
        published 7e-5 is of σ² at DeiT's n = 196, 2.69 of n²σ², which does not depend on how many
        patches there are: at CLIP's 576 the published number itself would merge almost always.
        In later blocks it differs from the published one, whose n falls while the number stays.
    blocks: where; None: after the quarters of the tower, as published (3, 6 and 9 of 12), or at as
        many even places as the budget needs, since no block can merge more than half.

    r follows from `keep`, evenly over the blocks, so the count is exact. PPT is published for
    image classifiers; this is its form inside CLIP. Both branches are computed for every image, and
    survivors keep raster order (the code's are sorted by score), which attention does not see.
    """

    threshold: float = 7e-5 * 196**2
    blocks: tuple[int, ...] | None = None

    reads = "qkv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold}")
        if self.blocks is not None:
            self.blocks = tuple(self.blocks)  # JSON has lists

    def reductions(self, tokens: int, depth: int, used: int) -> list[int]:
        keep = self.budget(tokens)
        places = self.blocks if self.blocks is not None else _places(tokens, keep, depth, used)
        if not all(0 <= place < used for place in places):
            raise ValueError(
                f"blocks must be among the {used} that the projector's features come from, got "
                f"{places}"
            )
        plan = dict(zip(sorted(places), schedule(tokens, keep, len(places))))
        return [plan.get(block, 0) for block in range(used)]

    def reduce(self, hidden: Tensor, state: Merged, made: dict[str, Tensor], r: int) -> Merged:
        if r == 0:
            return Merged(hidden, *state[1:])
        scores = self.scores(made, state.sizes)
        metric = made["k"].unflatten(-1, (self.heads, -1)).mean(2)
        pooled = merge(hidden, metric, state.sizes, state.positions, r)
        pruned = deleted(hidden, scores, state, r)
        alike = spread(scores) < self.threshold  # (n,)
        return Merged(
            *(torch.where(alike.view(-1, *[1] * (a.ndim - 1)), a, b)
              for a, b in zip(pooled, pruned))
        )  # fmt: skip

    def scores(self, made: dict[str, Tensor], sizes: Tensor) -> Tensor:
        """The patches' scores, float32 `(n, T - 1)` that add up to one."""
        query, keys = (made[n].unflatten(-1, (self.heads, -1)).transpose(1, 2) for n in "qk")
        logits = (query[:, :, :1] @ keys.mT).float() * query.shape[-1] ** -0.5
        weights = (logits + sizes.log()[:, None, None]).softmax(-1).sum(1)[:, 0]
        found = (weights * made["v"].float().norm(dim=-1))[:, 1:]
        return found / found.sum(1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)


def spread(scores: Tensor) -> Tensor:
    """n²σ² of scores `(..., n)` that add up to one.

    >>> spread(torch.tensor([0.0, 0.5, 0.0, 0.5])).item()  # 16 / 12
    1.3333333730697632
    """
    return scores.var(-1) * scores.shape[-1] ** 2


def deleted(hidden: Tensor, scores: Tensor, state: Merged, r: int) -> Merged:
    """The state without the r patches of the lowest scores `(n, T - 1)`."""
    stay = top_k(by_attention(scores), scores.shape[1] - r, check=False) + 1
    stay = torch.cat([torch.zeros_like(stay[:, :1]), stay], 1)
    tokens = hidden.gather(1, stay[..., None].expand(-1, -1, hidden.shape[-1]))
    return Merged(tokens, state.sizes.gather(1, stay), state.positions.gather(1, stay))


def _places(tokens: int, keep: int, depth: int, used: int) -> tuple[int, ...]:
    """Three even places among the blocks, or as many as it takes to halve `tokens` to `keep`."""
    count, left = 0, tokens
    while left > keep and count < used:
        left, count = left - left // 2, count + 1
    count = max(count, min(3, used))
    places = [block * depth // (count + 1) for block in range(1, count + 1)]
    if len(set(places)) < count or places[-1] >= used:
        places = [block * used // count for block in range(count)]
    return tuple(places)
