"""Matrix entropy of token sets, and the exact leave-one-out score of every token at once.

Notation, as in the paper (section 3): unit tokens t_1 … t_N, their Gram matrix K = T Tᵀ (eq. 1),
eigenvalues λ of K, F = Σ λ log λ, and the matrix (von Neumann) entropy H = -Σ p log p with
p = λ / Σλ (eq. 2), in nats. The score of token i is S_i = H(T) - H(T without t_i) (eq. 3), the
smaller Gram normalised again to trace one. About half of all scores are negative: removing a
redundant token raises the entropy. They are never clamped.

Precision. Inputs may have any floating type and any leading batch dimensions. Results are float32,
or float64 for float64 input; half-precision tokens are upcast and normalised again. Everything
that needs eigenvalues runs in float64 inside. The Cholesky route, the default for CUDA tensors,
stays in the type of the result: its float32 scores are good to about 1e-5 / N. On CUDA keep
`torch.set_float32_matmul_precision("highest")`, PyTorch's default: TF32 Grams are not positive
semi-definite. Autocast is switched off inside.

On CUDA with Triton, float32 results come from the kernels of `lib.kernels`, which compute the same
thing; `fast` decides, and `use_kernels(False)` keeps to plain PyTorch.

Validation reads the data, which makes a GPU wait. `check=False` skips it; the Cholesky routes then
never synchronise with the host and can be captured in a CUDA graph (after one warm-up call).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

METHODS = ("exact", "naive", "first-order", "renyi2")
SOLVERS = ("auto", "eigh", "cholesky")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def full_precision(function: _Function) -> _Function:
    """Run `function` with autocast off: Gram matrices in half precision lose the entropy."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


# --- kernels --------------------------------------------------------------------------------------

_kernel_devices = ("cuda",)  # the tests add "cpu" under Triton's interpreter
_kernels_wanted = True


@contextlib.contextmanager
def use_kernels(wanted: bool) -> Iterator[None]:
    """Within the block, take the Triton kernels where they apply, or never (`wanted=False`)."""
    global _kernels_wanted
    before, _kernels_wanted = _kernels_wanted, wanted
    try:
        yield
    finally:
        _kernels_wanted = before


@functools.cache
def _kernels() -> ModuleType | None:
    try:
        from . import kernels
    except ImportError:  # Triton is not there
        return None
    return kernels


@functools.cache
def _capable(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def fast(tensor: Tensor) -> Any:
    """The module `lib.kernels` if it serves `tensor` (..., N, any), else None.

    It needs CUDA of compute capability 8.0 or more, Triton, at most float32, 16 <= N <= 4096 and no
    gradient.
    """
    if not _kernels_wanted or tensor.device.type not in _kernel_devices:
        return None
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    if not 16 <= tensor.shape[-2] <= 4096 or not tensor.numel():
        return None
    if torch.is_grad_enabled() and tensor.requires_grad:
        return None
    return _kernels() if _capable(tensor.device) else None


# --- input ----------------------------------------------------------------------------------------


def unit_tokens(tokens: Tensor, *, check: bool = True) -> Tensor:
    """Tokens (..., N, D) of any floating type as unit rows, float32 (float64 for float64).

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: fewer than two dimensions, N = 0, D = 0; with `check`, NaN, infinite or zero
            tokens.
    """
    if not isinstance(tokens, Tensor) or not tokens.is_floating_point():
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens must be a floating-point tensor, got {kind}")
    if tokens.ndim < 2 or 0 in tokens.shape[-2:]:
        raise ValueError(
            f"tokens must have shape (..., N, D) with N, D >= 1, got {tuple(tokens.shape)}"
        )
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    if tokens.device.type != "cpu":  # looking at the norms would make the device wait
        return _careful_unit(tokens, check)
    norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    reach = 1e12 if tokens.dtype == torch.float32 else 1e140
    safe = (norm > 1 / reach) & (norm < reach)
    if bool(safe.all()):
        return tokens / norm
    return torch.where(safe, tokens / torch.where(safe, norm, 1), _careful_unit(tokens, check))


def _careful_unit(tokens: Tensor, check: bool) -> Tensor:
    """Unit rows of tokens of any size, with no look at the data but for the checks."""
    # Dividing by the largest entry first keeps the squares from over- or underflowing.
    largest = tokens.abs().amax(-1, keepdim=True)
    if check:
        _require(torch.isfinite(largest), "tokens must be finite, got", tokens, largest)
        _require(largest > 0, "tokens must not be zero: a zero token has no direction; got", tokens)
    tiny = torch.finfo(tokens.dtype).tiny
    tokens = tokens / largest.clamp_min(tiny)
    return tokens / torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).clamp_min(tiny)


def _require(good: Tensor, message: str, source: Tensor, values: Tensor | None = None) -> None:
    """Raise a ValueError that names the first offending row unless all of `good` is true."""
    if not bool(good.all()):
        where = (~good).nonzero()[0].tolist()[: source.ndim - 1]
        value = "" if values is None else f"{values[tuple(where)].flatten()[0].item()} "
        raise ValueError(f"{message} {value}at index {where} of shape {tuple(source.shape)}")


def _as_gram(matrix: Tensor, *, gram_given: bool, check: bool) -> Tensor:
    """The Gram matrix of tokens, or the given Gram matrix after validation."""
    if not gram_given:
        return gram(matrix, check=check)
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        kind = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(f"a Gram matrix must be a floating-point tensor, got {kind}")
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] == 0:
        raise ValueError(
            f"a Gram matrix must have shape (..., N, N) with N >= 1, got {tuple(matrix.shape)}"
        )
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    if check:
        largest = matrix.abs().amax(-1)
        _require(torch.isfinite(largest), "a Gram matrix must be finite, got", matrix, largest)
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        _require(diagonal >= 0, "a Gram diagonal must not be negative, got", matrix, diagonal)
        trace = diagonal.sum(-1, keepdim=True)
        _require(trace > 0, "a Gram matrix needs a positive trace, got", matrix, trace)
        skew = (matrix - matrix.mT).abs().amax(-1)
        message = "a Gram matrix must be symmetric, got an asymmetry of"
        _require(skew <= 1e-4 * trace, message, matrix, skew)
    return matrix


@full_precision
def gram(tokens: Tensor, *, check: bool = True) -> Tensor:
    """Gram matrix K_ij = t_i · t_j / |t_i||t_j| of tokens (..., N, D), shape (..., N, N) (eq. 1).

    Exactly symmetric, with a diagonal of exactly one. Raises what `unit_tokens` raises.

    >>> gram(torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    if isinstance(tokens, Tensor) and tokens.ndim >= 2 and (kernels := fast(tokens)) is not None:
        if check:
            unit_tokens(tokens)
        return kernels.gram(tokens)
    tokens = unit_tokens(tokens, check=check)
    product = tokens @ tokens.mT
    product = (product + product.mT).div_(2)
    product.diagonal(dim1=-2, dim2=-1).fill_(1)
    return product


# --- entropy --------------------------------------------------------------------------------------


def _xlogx(x: Tensor) -> Tensor:
    """x log x with 0 log 0 = 0; rounding below zero counts as zero."""
    x = x.clamp_min(0)
    return torch.special.xlogy(x, x)


@full_precision
def matrix_entropy(
    tokens: Tensor, alpha: float = 1.0, *, eps: float = 0.0, gram: bool = False, check: bool = True
) -> Tensor:
    """Matrix entropy of tokens (..., N, D) in nats, shape (...): von Neumann, or Rényi of order α.

    α = 1 is eq. 2, -Σ p log(p + ε); other orders are log(Σ p^α) / (1 - α) (arXiv 1211.2459), up to
    α = inf, -log max p. It lies between 0 (all tokens parallel) and log N (all orthogonal). `eps`
    is the paper's ε, off by default because x log x needs none. With `gram` the first argument is
    a Gram matrix (..., N, N), any diagonal.

    Raises:
        ValueError: α not positive, ε negative or used with α ≠ 1, bad tokens.

    >>> print(f"{matrix_entropy(torch.eye(4)):.4f}")  # log 4
    1.3863
    >>> print(f"{matrix_entropy(torch.ones(4, 2)).abs():.4f}")
    0.0000
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if not eps >= 0 or (eps > 0 and alpha != 1):
        raise ValueError(f"eps must be >= 0, and 0 unless alpha is 1; got eps={eps}, alpha={alpha}")
    matrix = _as_gram(tokens, gram_given=gram, check=check)
    if alpha == 2:  # the sum of the squared eigenvalues is the Frobenius norm
        trace = matrix.diagonal(dim1=-2, dim2=-1).double().sum(-1)
        return (2 * trace.log() - matrix.double().square().sum((-2, -1)).log()).to(matrix.dtype)
    p = torch.linalg.eigvalsh(matrix.double()).clamp_min(0)
    p = p / p.sum(-1, keepdim=True)
    if alpha == 1:
        entropy = -torch.special.xlogy(p, p + eps).sum(-1)
    elif math.isinf(alpha):
        entropy = -p.amax(-1).log()
    else:  # log(Σ p^α) through expm1 and log1p, exact as α approaches 1
        log_p = torch.where(p > 0, p, 1).log()
        excess = torch.expm1((alpha - 1) * log_p)
        entropy = torch.log1p((p * excess).sum(-1)) / (1 - alpha)
    return entropy.to(matrix.dtype)


def effective_rank(tokens: Tensor, *, gram: bool = False, check: bool = True) -> Tensor:
    """exp H, the effective number of independent tokens (Roy & Vetterli 2007), shape (...).

    >>> print(f"{effective_rank(torch.eye(3).repeat(2, 1)):.3f}")
    3.000
    """
    return matrix_entropy(tokens, gram=gram, check=check).exp()


_held: dict[int, Any] = {}


def constants(function: _Function) -> _Function:
    """Cache the tensors that `function` makes of hashable arguments, and keep them on their device.

    A copy from the host could not be captured in a CUDA graph, and a graph reads its constants at
    every replay: what was used in a capture is never dropped.
    """
    # Made outside inference mode, so that the cached tensors serve autograd too.
    cached = functools.lru_cache(maxsize=64)(torch.inference_mode(False)(function))

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        result = cached(*args)
        first = result[0] if isinstance(result, tuple) else result
        if first.is_cuda and torch.cuda.is_current_stream_capturing():
            _held[id(first)] = result
        return result

    return wrapped  # type: ignore[return-value]


# --- quadrature -----------------------------------------------------------------------------------
#
# With c_i = K_ii, P_ij = U_ij² (c_i - λ_j)² and r_i(t) = Σ_j P_ij / (λ_j + t) / (c_i + t) >= 0,
#
#     (K log K)_ii   = c_i log c_i + ∫₀^∞ r_i t / (c_i + t) dt
#     F - F without i = c_i log c_i + ∫₀^∞ log(1 + r_i) dt
#
# The second line is log det(principal submatrix) = log det + log(resolvent's diagonal), integrated
# against x log x. Written with P nothing cancels, so log1p keeps all digits. In s = log t both
# integrands are analytic in a strip of half-width π: the trapezoid rule errs by exp(-2π² / step).


@constants
def _quadrature(
    nodes: int, size: int, working: torch.dtype, device: torch.device, reach: float = 8.5
) -> tuple[Tensor, Tensor]:
    """Nodes t_q and weights w_q, for a Gram matrix scaled to trace `size`; each of shape (nodes,).

    Both tails are summed in closed form from the two outermost nodes: below, f = a + b log t (a
    token with a share in the null space has a logarithm); above, f = a/t² + b/t³.
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


def _kernel_quadrature(nodes: int | None, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the kernels: by default 18, which err by about 1e-5 / N in S."""
    size, dtype, device = matrix.shape[-1], matrix.dtype, matrix.device
    return _quadrature(nodes or 18, size, dtype, device, 8.5 if nodes else 6.5)


@constants
def _fitted(size: int, working: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """14 nodes t and weights c for the operator: Σ c / (λ + t) ≈ (λ log λ - λ + 1) / (λ - 1)².

    The integral over the resolvent is linear in it, so the weights may be fitted to the function
    instead of following a rule: the least-squares error is below 1e-5 (1 + λ log λ) on 0 <= λ <= N,
    with fewer nodes than the trapezoid rule takes.
    """
    t = torch.linspace(-9.0, math.log(size) + 2, 14, dtype=torch.float64).exp()
    x = torch.linspace(math.log(1e-7), math.log(size), 1501, dtype=torch.float64).exp()
    value = torch.where((x - 1).abs() < 1e-4, (x - 1).square() / 2, x * x.log() - x + 1)
    near = (1 + x * x.log().abs()).rsqrt()
    columns = (x - 1).square().unsqueeze(-1) / (x.unsqueeze(-1) + t)
    fit = torch.linalg.lstsq(columns * near.unsqueeze(-1), (value * near).unsqueeze(-1))
    return t.to(device, working), fit.solution.squeeze(-1).to(device, working)


def _nodes(nodes: int | None, working: torch.dtype) -> int:
    if nodes is None:  # float32 covers a shorter range and rounds at 1e-6 anyway
        return 40 if working == torch.float64 else 24
    if not 4 <= nodes <= 1024:
        raise ValueError(f"nodes must be between 4 and 1024, got {nodes}")
    return nodes


def _solver(solver: str, device: torch.device) -> str:
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}")
    if solver == "auto":
        # On a GPU batched eigh runs one matrix after another, and waits; Cholesky does not.
        return "eigh" if device.type == "cpu" else "cholesky"
    return solver


def _blocks(matrix: Tensor, nodes: int, reference: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For chunks of nodes: t, w and Y = L⁻¹ (diag(reference) - K), K + t I = L Lᵀ; (..., q, N, N).

    The squared column norms of Y are Σ_j P_ij / (λ_j + t). Chunks bound the memory to about
    512 MiB per buffer.
    """
    size = matrix.shape[-1]
    t, w = _quadrature(nodes, size, matrix.dtype, matrix.device)
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


def _losses(matrix: Tensor, nodes: int | None, solver: str) -> tuple[Tensor, Tensor]:
    """d_i = F - F without i and (K log K)_ii, each (..., N), of a Gram matrix of trace N."""
    c = matrix.diagonal(dim1=-2, dim2=-1)
    if solver == "cholesky" and (kernels := fast(matrix)) is not None:
        t, w = _kernel_quadrature(nodes, matrix)
        r = kernels.resolvent_diagonal(matrix, t)
        losses = _xlogx(c) + (torch.log1p(r) * w.unsqueeze(-1)).sum(-2)
        shares = r / (c.unsqueeze(-2) + t.unsqueeze(-1))
        return losses, _xlogx(c) + (shares * (t * w).unsqueeze(-1)).sum(-2)
    nodes = _nodes(nodes, matrix.dtype)
    if solver == "eigh":
        values, vectors = torch.linalg.eigh(matrix)
        values = values.clamp_min(0)
        t, w = _quadrature(nodes, matrix.shape[-1], matrix.dtype, matrix.device)
        shares = vectors.square()
        weighted = shares * (c.unsqueeze(-1) - values.unsqueeze(-2)).square()
        r = weighted @ (1 / (values.unsqueeze(-1) + t)) / (c.unsqueeze(-1) + t)
        losses = _xlogx(c) + torch.log1p(r) @ w
        diagonal = (shares @ _xlogx(values).unsqueeze(-1)).squeeze(-1)
        return losses, diagonal
    losses = _xlogx(c)
    diagonal = losses
    for t, w, solved in _blocks(matrix, nodes, c):
        shifted = c.unsqueeze(-2) + t.unsqueeze(-1)  # (..., q, N)
        r = solved.square().sum(-2) / shifted
        losses = losses + (torch.log1p(r) * w.unsqueeze(-1)).sum(-2)
        diagonal = diagonal + (r / shifted * (t * w).unsqueeze(-1)).sum(-2)
    return losses, diagonal


# --- leave one out --------------------------------------------------------------------------------


@full_precision
def leave_one_out(
    tokens: Tensor,
    method: str = "exact",
    *,
    nodes: int | None = None,
    solver: str = "auto",
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """Leave-one-out scores S_i = H(T) - H(T without t_i) of tokens (..., N, D), shape (..., N).

    Args:
        tokens: tokens, or with `gram` a Gram matrix (..., N, N). Its diagonal is free: a row and
            column of zeros scores zero and changes no other score.
        method: "exact", all N scores from one factorisation and an integral over `nodes` points,
            O(N³ + N² nodes); "naive", one eigen-decomposition per token, O(N⁴), the oracle;
            "first-order", the derivative, equal to diag(H) - ρ_ii H with H the entropy operator;
            "renyi2", the exact scores of the order-2 entropy, O(N²).
        nodes: quadrature points of "exact" (and "first-order" by Cholesky), 40 by default and 24 in
            float32 Cholesky (18 in the kernels). In float64 32 points err by less than 1e-9 in S,
            40 by about 1e-12.
        solver: "eigh" (float64 inside), "cholesky" (in the type of the result; batches on CUDA
            without host synchronisation), or "auto": eigh on a CPU, cholesky elsewhere.
        check: validate the data, which synchronises a GPU.

    A single token scores 0, since H = 0 with it and without. Scores may be negative.

    Raises:
        ValueError: unknown method or solver, `nodes` outside 4..1024, bad tokens.

    >>> scores = leave_one_out(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> [round(score, 4) for score in scores.tolist()]
    [-0.0566, -0.0566, 0.6365]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    matrix = _as_gram(tokens, gram_given=gram, check=check)
    solver = _solver(solver, matrix.device)
    size, dtype = matrix.shape[-1], matrix.dtype
    if nodes is not None:
        _nodes(nodes, dtype)
    if size == 1:
        return matrix.new_zeros(matrix.shape[:-1])
    if method == "naive":
        return _naive(matrix.double()).to(dtype)
    working = matrix if solver == "cholesky" and method != "renyi2" else matrix.double()
    # S does not depend on the scale of K: a mean diagonal of one suits the quadrature's range.
    c = working.diagonal(dim1=-2, dim2=-1)
    scale = c.mean(-1, keepdim=True)
    if gram:
        working = working / scale.unsqueeze(-1)
        c = c / scale
    rest = size - c  # the trace without token i
    empty = rest <= size * 1e-6  # nothing but token i: the entropy left is 0
    rest = torch.where(empty, 1, rest)
    if method == "renyi2":
        rows = working.square().sum(-1)
        total = rows.sum(-1, keepdim=True)
        left = torch.where(empty, 1, total - 2 * rows + c.square())
        # 2 log(N / rest) - log(total / left), both near zero for large N
        scores = torch.log1p((left - total) / total) - 2 * torch.log1p(-c / size)
        alone = 2 * math.log(size) - total.log()
        return torch.where(empty, alone.expand_as(scores), scores).to(dtype)
    losses, diagonal = _losses(working, nodes, solver)
    total = diagonal.sum(-1, keepdim=True)  # F
    if method == "first-order":
        return ((c * total / size - diagonal) / size).to(dtype)
    scores = c * total / (size * rest) - losses / rest - torch.log1p(-c / size)
    alone = math.log(size) - total / size
    return torch.where(empty, alone.expand_as(scores), scores).to(dtype)


def _naive(matrix: Tensor) -> Tensor:
    """The definition: one eigen-decomposition per token, in the type of `matrix`."""

    def entropy(k: Tensor) -> Tensor:
        p = torch.linalg.eigvalsh(k).clamp_min(0)
        total = p.sum(-1, keepdim=True)
        return -_xlogx(p / torch.where(total > 0, total, 1)).sum(-1)

    size = matrix.shape[-1]
    index = torch.arange(size, device=matrix.device)
    full = entropy(matrix)
    scores = []
    for i in range(size):
        keep = index[index != i]
        scores.append(full - entropy(matrix[..., keep, :][..., keep]))
    return torch.stack(scores, -1)


@full_precision
def entropy_operator(
    tokens: Tensor,
    *,
    gram: bool = False,
    nodes: int | None = None,
    solver: str = "auto",
    check: bool = True,
) -> Tensor:
    """The entropy operator H = -ρ log ρ, ρ = K / tr K, shape (..., N, N).

    It is what the rollout of eq. 6 merges: symmetric, positive semi-definite, with trace equal to
    the matrix entropy. diag(H) - ρ_ii tr H is the first-order leave-one-out score. "cholesky"
    integrates the resolvent instead of diagonalising; `solver`, `nodes` and `check` are those of
    `leave_one_out`.

    >>> operator = entropy_operator(torch.eye(4))
    >>> print(f"{operator.trace():.4f}", operator.shape)  # log 4
    1.3863 torch.Size([4, 4])
    """
    matrix = _as_gram(tokens, gram_given=gram, check=check)
    solver = _solver(solver, matrix.device)
    size, dtype = matrix.shape[-1], matrix.dtype
    chosen = _nodes(nodes, dtype)
    if solver == "eigh":
        values, vectors = torch.linalg.eigh(matrix.double())
        trace = matrix.diagonal(dim1=-2, dim2=-1).double().sum(-1, keepdim=True)
        scaled = vectors * -_xlogx(values / trace).unsqueeze(-2)
        operator = scaled.to(dtype) @ vectors.mT.to(dtype)
        return (operator + operator.mT).div_(2)
    working = matrix
    trace = working.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    # K log K = (K - I) + ∫ t / (1 + t)² (K - I)² (K + t)⁻¹ dt at trace N; then back to trace 1.
    scaled = working * (size / trace)
    k_log_k = scaled.clone()
    k_log_k.diagonal(dim1=-2, dim2=-1).sub_(1)
    if (kernels := fast(scaled)) is not None:
        if nodes is None:
            t, weights = _fitted(size, scaled.dtype, scaled.device)
        else:
            t, w = _kernel_quadrature(nodes, scaled)
            weights = t * w / (1 + t).square()
        between = kernels.resolvent_sum(scaled, t, weights)
        operator = (scaled * math.log(size) - k_log_k - k_log_k @ between @ k_log_k) / size
        return (operator + operator.mT) / 2
    for t, w, solved in _blocks(scaled, chosen, torch.ones_like(scaled[..., 0])):
        root = (t * w).sqrt() / (1 + t)
        tall = (solved * root[:, None, None]).flatten(-3, -2)  # (..., q · N, N)
        k_log_k = k_log_k + tall.mT @ tall
    operator = (scaled * math.log(size) - k_log_k) / size
    return (operator + operator.mT) / 2


# --- dependence between two views of the same items -----------------------------------------------


def _pair(x: Tensor, y: Tensor, gram_given: bool, check: bool) -> tuple[Tensor, Tensor]:
    kx = _as_gram(x, gram_given=gram_given, check=check)
    ky = _as_gram(y, gram_given=gram_given, check=check)
    if kx.shape[-1] != ky.shape[-1]:
        raise ValueError(
            "x and y must describe the same N items, got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    return kx, ky


@full_precision
def joint_entropy(
    x: Tensor, y: Tensor, *, alpha: float = 1.0, gram: bool = False, check: bool = True
) -> Tensor:
    """Joint matrix entropy of x (..., N, D) and y (..., N, E), paired by row, shape (...).

    The entropy of the Hadamard product of the two Gram matrices (arXiv 1211.2459).

    >>> x = torch.eye(4)
    >>> print(f"{joint_entropy(x, torch.ones(4, 1)):.4f}")  # a constant adds nothing
    1.3863
    """
    kx, ky = _pair(x, y, gram, check)
    return matrix_entropy(kx * ky, alpha, gram=True, check=check)


@full_precision
def mutual_information(
    x: Tensor, y: Tensor, *, alpha: float = 1.0, gram: bool = False, check: bool = True
) -> Tensor:
    """Matrix mutual information H(x) + H(y) - H(x, y), shape (...) (arXiv 1211.2459).

    >>> print(f"{mutual_information(torch.eye(4), torch.eye(4)):.4f}")
    1.3863
    """
    kx, ky = _pair(x, y, gram, check)
    options: dict[str, Any] = {"gram": True, "check": False}
    joint = joint_entropy(kx, ky, alpha=alpha, gram=True, check=check)
    return matrix_entropy(kx, alpha, **options) + matrix_entropy(ky, alpha, **options) - joint


@full_precision
def dime(
    x: Tensor,
    y: Tensor,
    permutations: int = 16,
    random_state: int = 0,
    *,
    alpha: float = 1.0,
    gram: bool = False,
    check: bool = True,
) -> Tensor:
    """Difference of matrix-based entropies, shape (...): how much the pairing of x and y matters.

    The joint entropy under random pairing, averaged over `permutations` of y, minus the joint
    entropy under the true pairing (arXiv 2301.08164). It grows with the dependence between x
    (..., N, D) and y (..., N, E) and is zero in expectation without any. The marginal entropies
    cancel, so unlike `mutual_information` it does not grow with an ever narrower kernel.

    Raises:
        ValueError: permutations < 1, different N, bad tokens.

    >>> print(f"{dime(torch.eye(4), torch.ones(4, 1)).abs():.4f}")  # a constant: no dependence
    0.0000
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    kx, ky = _pair(x, y, gram, check)
    generator = torch.Generator().manual_seed(random_state)
    size = kx.shape[-1]
    random = torch.zeros((), dtype=kx.dtype, device=kx.device)
    for _ in range(permutations):
        order = torch.randperm(size, generator=generator).to(kx.device)
        random = random + joint_entropy(
            kx, ky[..., order, :][..., order], alpha=alpha, gram=True, check=check
        )
    return random / permutations - joint_entropy(kx, ky, alpha=alpha, gram=True, check=check)
