"""TopV: importance of a token as mass it sends in an optimal transport (arXiv 2503.18278)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .engine.choice import best
from .engine.images import ImageTokens
from .engine.places import coordinates
from .engine.pruner import VisualPruner


@dataclass(eq=False, kw_only=True)
class TopV(VisualPruner, name="topv"):
    """Transports the visual tokens that enter a layer onto those it makes, at an entropic cost.

    Source: the paper's abstract and figures (no code was released), constants of a third-party
    re-implementation, none verified. Sources are the visual tokens entering layer K-1, targets the
    same tokens behind its second norm ("post-norm") or leaving it ("output"). The cost of a pair is
    feature·‖s - t‖² + spatial·(1 - exp(-Δ² / 2σ²)) + central·(distance of s from the centre), each
    part scaled to 0..1 over the image, Δ in units of the token grid. Sinkhorn's algorithm with
    uniform margins and a few iterations; importance is what a source sends. Of the tokens below the
    budget every `recover`-th, in raster order, is taken back, instead of as many at its end (at
    most half of the budget); 0 takes none. Raster order, original positions.

    A trap: Sinkhorn's last step must be that of the columns. After a step of the rows every source
    sends the same, and nothing is ranked; as the iterations converge this happens in any case, so
    the ranking lives from stopping early.
    """

    layer: int = 3
    target: Literal["post-norm", "output"] = "post-norm"
    feature: float = 1.0
    spatial: float = 1.0
    central: float = 0.01
    sigma: float = 10.0
    epsilon: float = 0.1
    iterations: int = 3
    recover: int = 4

    first_layer = 1
    scorer = ("score", "select")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of(target=("post-norm", "output"))
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        for name in ("sigma", "epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.recover < 0 or self.recover == 1:
            raise ValueError(f"recover must be 0 or at least 2, got {self.recover}")

    def attach(self, model: nn.Module) -> None:
        layer = self.family.layers[self.layer - 1]
        self.hook(layer, self._keep("source", lambda given, output: given), before=False)
        if self.target == "post-norm":
            norm = layer.post_attention_layernorm
            self.hook(norm, self._keep("target", lambda given, output: output), before=False)

    def _keep(self, name: str, which: Callable[[Tensor, Any], Tensor]) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            pass_ = self._current.pass_
            if pass_ is not None and pass_.groups:
                given = args[0] if args else kwargs["hidden_states"]
                pass_.extra[name] = which(given, output)

        return hook

    def score(self, images: ImageTokens) -> Tensor:
        """What each token sends, float32 `(n, N)`; they sum to one."""
        extra = images.prefill.extra
        source = images.take(extra["source"]).float()
        target = images.hidden if self.target == "output" else images.take(extra["target"])
        where = coordinates(images, self.family).to(source.device)
        cost = self.cost(source, target.float().to(source.device), where)
        return sent(cost, epsilon=self.epsilon, iterations=self.iterations)

    def cost(self, source: Tensor, target: Tensor, where: Tensor) -> Tensor:
        """Cost `(n, N, N)` of sources `(n, N, D)`, targets alike, at places `(n, N, 2)`."""
        feature = torch.cdist(source, target).square()
        apart = torch.cdist(where, where, compute_mode="donot_use_mm_for_euclid_dist").square()
        spatial = 1 - (-apart / (2 * self.sigma**2)).exp()
        middle = (where.amax(1, keepdim=True) + where.amin(1, keepdim=True)) / 2
        central = (where - middle).norm(dim=-1, keepdim=True)
        return (
            self.feature * _scaled(feature)
            + self.spatial * _scaled(spatial)
            + self.central * _scaled(central)
        )

    def select(self, images: ImageTokens) -> Tensor:
        scores, count = self.score(images), self.budget(images.tokens)
        if not self.recover:
            return best(scores, count)
        return recovered(scores, count, self.recover)


def _scaled(part: Tensor) -> Tensor:
    """Each image's values on 0..1; all zero where they are equal."""
    flat = part.flatten(1)
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    return (part - low) / (high - low).clamp_min(1e-12)


def sent(cost: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Row sums `(n, N)` of the plan of entropic transport `(n, N, M)` with uniform margins.

    Ends on the step of the columns, whose margin holds exactly then; in logarithms, so that a small
    epsilon does not underflow.

    >>> cost = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    >>> print([f"{v:.2f}" for v in sent(cost, epsilon=0.5, iterations=1)[0].tolist()])
    ['0.42', '0.58']
    """
    kernel = -cost / epsilon
    rows = torch.full_like(kernel[:, :, 0], kernel.shape[1]).log().neg()
    columns = torch.full_like(kernel[:, 0], kernel.shape[2]).log().neg()
    left, right = torch.zeros_like(rows), torch.zeros_like(columns)
    for _ in range(iterations):
        left = rows - (kernel + right[:, None]).logsumexp(2)
        right = columns - (kernel + left[:, :, None]).logsumexp(1)
    return (left + (kernel + right[:, None]).logsumexp(2)).exp()


def recovered(scores: Tensor, count: int, every: int) -> Tensor:
    """The best of `scores` `(n, N)` and every so-manieth of the others in raster order, `count`.

    >>> recovered(torch.tensor([[5.0, 4.0, 1.0, 1.0, 1.0, 1.0]]), 3, 4)[0].nonzero().T.tolist()
    [[0, 1, 2]]
    """
    size = scores.shape[1]
    taken = min((size - count) // (every - 1), count // 2)
    mask = best(scores, count - taken)
    if not taken:
        return mask
    step = (size - count + taken) // taken
    place = (~mask).long().cumsum(1) - 1  # among those left out
    back = ~mask & (place % step == 0) & (place // step < taken)
    return mask | back
