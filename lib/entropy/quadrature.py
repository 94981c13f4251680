"""The integrals over resolvents (K + t I)⁻¹ that give every leave-one-out score from one matrix.

With c_i = K_ii, P_ij = U_ij² (c_i - λ_j)² and r_i(t) = Σ_j P_ij / (λ_j + t) / (c_i + t) >= 0,

    (K log K)_ii   = c_i log c_i + ∫₀^∞ r_i t / (c_i + t) dt
    F - F without i = c_i log c_i + ∫₀^∞ log(1 + r_i) dt

The second line is log det(principal submatrix) = log det + log(resolvent's diagonal), integrated
against x log x. Written with P nothing cancels, so log1p keeps all digits. In s = log t both
integrands are analytic in a strip of half-width π: the trapezoid rule errs by exp(-2π² / step).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .decorators import constants

SOLVERS = ("auto", "eigh", "cholesky")


@constants
def quadrature(
    nodes: int, size: int, working: torch.dtype, device: torch.device, reach: float = 8.5
) -> tuple[Tensor, Tensor]:
    """Nodes t_q and weights w_q, for a Gram matrix scaled to trace `size`; each of shape (nodes,).

    Both tails are summed in closed form from the two outermost nodes: below, f = a + b log t (a
    token with a share in the null space has a logarithm); above, f = a/t² + b/t³.

    >>> t, w = quadrature(24, 4, torch.float64, torch.device("cpu"))
    >>> print(f"{(w / (1 + t).square()).sum():.4f}")  # ∫₀^∞ (1 + t)⁻² dt
    1.0000
    """
    # In float32 a Cholesky factor needs t well above the rounding of the pivots.
    low = -18.0 if working == torch.float64 else math.log(16 * 1.2e-7 * math.sqrt(size))
    high = reach + math.log(size)
    step = (high - low) / (nodes - 1)
    s = torch.linspace(low, high, nodes, dtype=torch.float64)
    factor = torch.ones_like(s)  # ∫ f dt = step · Σ factor · f(t) · t
    r = math.exp(-step)
    factor[0] += r / (1 - r) + r / (1 - r) ** 2
    factor[1] -= r * r / (1 - r) ** 2
    factor[-1] += (r / (1 - r) - r**3 / (1 - r * r)) / (1 - r)
    factor[-2] += -(r**3) / (1 - r) ** 2 + r**4 / (1 - r * r) / (1 - r)
    t = s.exp()
    return t.to(device, working), (step * factor * t).to(device, working)


def kernel_quadrature(
    nodes: int | None, matrix: Tensor, default: int = 18, reach: float = 6.5
) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the kernels: by default 18, which err by about 1e-5 / N in S.

    >>> [len(part) for part in kernel_quadrature(None, torch.eye(16))]
    [18, 18]
    """
    size, dtype, device = matrix.shape[-1], matrix.dtype, matrix.device
    return quadrature(nodes or default, size, dtype, device, 8.5 if nodes else reach)


@constants
def fitted(size: int, working: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """14 nodes t and weights c for the operator: Σ c / (λ + t) ≈ (λ log λ - λ + 1) / (λ - 1)².

    The integral over the resolvent is linear in it, so the weights may be fitted to the function
    instead of following a rule: the least-squares error is below 1e-5 (1 + λ log λ) on 0 <= λ <= N,
    with fewer nodes than the trapezoid rule takes.

    >>> t, c = fitted(64, torch.float64, torch.device("cpu"))
    >>> print(f"{(c / (3 + t)).sum() * 4:.4f}")  # 3 log 3 - 3 + 1
    1.2958
    """
    t = torch.linspace(-9.0, math.log(size) + 2, 14, dtype=torch.float64).exp()
    x = torch.linspace(math.log(1e-7), math.log(size), 1501, dtype=torch.float64).exp()
    value = torch.where((x - 1).abs() < 1e-4, (x - 1).square() / 2, x * x.log() - x + 1)
    near = (1 + x * x.log().abs()).rsqrt()
    columns = (x - 1).square().unsqueeze(-1) / (x.unsqueeze(-1) + t)
    fit = torch.linalg.lstsq(columns * near.unsqueeze(-1), (value * near).unsqueeze(-1))
    return t.to(device, working), fit.solution.squeeze(-1).to(device, working)


def node_count(nodes: int | None, working: torch.dtype) -> int:
    """How many nodes to integrate with: those asked for, or enough for the type.

    Raises:
        ValueError: outside 4..1024.

    >>> node_count(None, torch.float64), node_count(None, torch.float32)
    (40, 24)
    """
    if nodes is None:  # float32 covers a shorter range and rounds at 1e-6 anyway
        return 40 if working == torch.float64 else 24
    if not 4 <= nodes <= 1024:
        raise ValueError(f"nodes must be between 4 and 1024, got {nodes}")
    return nodes


def solver_for(solver: str, device: torch.device) -> str:
    """ "eigh" or "cholesky"; "auto" is the faster one on the device.

    Raises:
        ValueError: unknown solver.

    >>> solver_for("auto", torch.device("cpu"))
    'eigh'
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}")
    if solver == "auto":
        # On a GPU batched eigh runs one matrix after another, and waits; Cholesky does not.
        return "eigh" if device.type == "cpu" else "cholesky"
    return solver


def blocks(matrix: Tensor, nodes: int, reference: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For chunks of nodes: t, w and Y = L⁻¹ (diag(reference) - K), K + t I = L Lᵀ; (..., q, N, N).

    The squared column norms of Y are Σ_j P_ij / (λ_j + t). Chunks bound the memory to about
    512 MiB per buffer.

    >>> [y.shape for _, _, y in blocks(torch.eye(3), 8, torch.ones(3))]
    [torch.Size([8, 3, 3])]
    """
    size = matrix.shape[-1]
    t, w = quadrature(nodes, size, matrix.dtype, matrix.device)
    chunk = max(1, min(nodes, 2**27 // matrix.numel()))
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    right = (torch.diag_embed(reference) - matrix).unsqueeze(-3)
    for start in range(0, nodes, chunk):
        part = t[start : start + chunk]
        shifted = matrix.unsqueeze(-3) + part[:, None, None] * identity
        # check_errors would wait for the device; t is large enough that no pivot can vanish.
        factor = torch.linalg.cholesky_ex(shifted, check_errors=False).L
        solved = torch.linalg.solve_triangular(factor, right.expand_as(shifted), upper=False)
        yield part, w[start : start + chunk], solved
