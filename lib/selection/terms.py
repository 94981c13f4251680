"""The terms of a weighted choice: what each token would add to them, pick by pick.

B items of N tokens each. `gains` (B, N) says what every token adds to those picked, `add` picks one
of each item, `losses` (B, N) what all tokens together lose with each.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..entropy.leave_one_out import losses_of
from ..entropy.quadrature import node_count, quadrature, solver_for
from ..kernels import backend_for

_RIDGE = 1e-3  # as `lib.selection.dpp`


def weigh(matrix: Tensor, weight: Tensor) -> Tensor:
    """W^½ K W^½ of Gram matrices (..., N, N) and weights (..., N).

    >>> weigh(torch.ones(2, 2), torch.tensor([4.0, 1.0])).tolist()
    [[4.0, 2.0], [2.0, 1.0]]
    """
    root = weight.sqrt()
    return matrix * root.unsqueeze(-1) * root.unsqueeze(-2)


class Part(Protocol):
    """One term: what each token (B, N) would add now, or take away from all tokens."""

    def gains(self) -> Tensor: ...

    def add(self, pick: Tensor) -> None: ...

    def losses(self) -> Tensor: ...


class Modular:
    def __init__(self, values: Tensor) -> None:
        self.values = values

    def gains(self) -> Tensor:
        return self.values

    def add(self, pick: Tensor) -> None:
        pass

    losses = gains


class Coverage:
    """Σ_j w_j max K_js, in units of the spread 1 - Σ w_i w_j K_ij / N² of the tokens."""

    def __init__(self, matrix: Tensor, weight: Tensor, factor: float) -> None:
        size = matrix.shape[-1]
        mean = (weight.unsqueeze(-2) @ matrix @ weight.unsqueeze(-1)).squeeze(-1) / size**2
        self.matrix = matrix
        self.weight = weight * factor / (1 - mean).clamp_min(1e-6)
        self.covered = torch.zeros_like(matrix[:, :1])
        self.missing = torch.empty_like(matrix)
        self.items = torch.arange(len(matrix), device=matrix.device) * size

    def gains(self) -> Tensor:
        missing = torch.sub(self.matrix, self.covered, out=self.missing).clamp_min_(0)
        return (missing @ self.weight.unsqueeze(-1)).squeeze(-1)

    def add(self, pick: Tensor) -> None:
        rows = self.matrix.reshape(-1, self.matrix.shape[-1])
        row = rows.index_select(0, pick + self.items).unsqueeze(1)
        torch.maximum(self.covered, row, out=self.covered)

    def losses(self) -> Tensor:
        """Every token covers itself best, so only it is covered less without it."""
        own = torch.eye(self.matrix.shape[-1], dtype=torch.bool, device=self.matrix.device)
        other = self.matrix.masked_fill(own, -torch.inf).amax(-1).clamp(0, 1)
        return self.weight * (1 - other)


class Spectral:
    """Σ_q w_q log u_i(t_q), u_i the share of token i that the kept ones do not explain at t_q.

    u_i = (c_i + t - k_iS (K_S + t)⁻¹ k_Si) / (c_i + t), by an incremental Cholesky factor a node.
    """

    def __init__(self, matrix: Tensor, t: Tensor, w: Tensor, k: int) -> None:
        self.matrix, self.t, self.w, self.k = matrix, t, w, k
        self.picked = 0
        self.diagonal = matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(1) + t.unsqueeze(-1)
        self.pivots = self.diagonal  # (B, Q, N)
        self.items = torch.arange(len(matrix), device=matrix.device) * matrix.shape[-1]

    def gains(self) -> Tensor:
        return (self.pivots / self.diagonal).log_().mul_(self.w.unsqueeze(-1)).sum(-2)

    def add(self, pick: Tensor) -> None:
        batch, size = self.matrix.shape[:2]
        if not self.picked:
            self.factor = self.matrix.new_zeros(batch, len(self.t), self.k, size)
        row = self.matrix.reshape(-1, size).index_select(0, pick + self.items).unsqueeze(1)
        at = pick[:, None, None]
        done = self.factor[:, :, : self.picked]
        own = done.gather(-1, at.unsqueeze(-1).expand(-1, *done.shape[1:3], 1))
        new = row - (own.mT @ done).squeeze(-2)
        new = new * self.pivots.gather(-1, at.expand(-1, len(self.t), 1)).rsqrt()
        self.factor[:, :, self.picked] = new
        self.picked += 1
        # No eigenvalue of K_S + t is below t, so no pivot is.
        self.pivots = torch.maximum(self.pivots - new.square(), self.t.unsqueeze(-1))


class Entropy(Spectral):
    """-N tr(ρ_S log ρ_S) of a Gram matrix of trace N: Σ c_i log N - F, F = Σ λ log λ of its part.

    Adding token i raises F by c_i log c_i - ∫ log u_i(t) dt.
    """

    def __init__(self, matrix: Tensor, share: float, nodes: int, k: int) -> None:
        size = matrix.shape[-1]
        t, w = quadrature(node_count(nodes, matrix.dtype), size, matrix.dtype, matrix.device)
        super().__init__(matrix, t, w, k)
        self.share = share
        c = matrix.diagonal(dim1=-2, dim2=-1)
        self.own = c * math.log(size) - torch.special.xlogy(c, c)

    def gains(self) -> Tensor:
        return self.share * (self.own + super().gains())

    def losses(self) -> Tensor:
        backend = backend_for(self.matrix)
        solver = solver_for("auto", self.matrix.device)
        working = self.matrix if solver == "cholesky" else self.matrix.double()
        losses, _ = losses_of(working, None, solver, backend)
        c = self.matrix.diagonal(dim1=-2, dim2=-1)
        return self.share * (c * math.log(c.shape[-1]) - losses.to(c.dtype))


class Volume(Spectral):
    """log det(W_S (K_S + ridge I)): gains log w_i + log of what is left of token i."""

    def __init__(self, matrix: Tensor, weight: Tensor, share: float, k: int) -> None:
        # float32 rounds at the size of the ridge's pivots once many tokens are picked
        matrix = matrix.double()
        super().__init__(matrix, matrix.new_full((1,), _RIDGE), matrix.new_ones(1), k)
        self.share = share
        tiny = torch.finfo(torch.float32).tiny
        self.own = (weight.double().clamp_min(tiny) * self.diagonal[:, 0]).log()

    def gains(self) -> Tensor:
        return self.share * (self.own + super().gains())

    def losses(self) -> Tensor:
        """log of the ratio of two determinants is that of the inverse's diagonal."""
        shifted = self.matrix + self.t * torch.eye(self.matrix.shape[-1], device=self.t.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(shifted, check_errors=False).L)
        left = inverse.diagonal(dim1=-2, dim2=-1).log()
        return self.share * (self.own - self.diagonal[:, 0].log() - left)
