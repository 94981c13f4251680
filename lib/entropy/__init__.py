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
thing; `use_kernels(False)` keeps to plain PyTorch.

Validation reads the data, which makes a GPU wait. `check=False` skips it; the Cholesky routes then
never synchronise with the host and can be captured in a CUDA graph (after one warm-up call).
"""

from ..kernels import use_kernels
from .decorators import constants, full_precision
from .dependence import dime, joint_entropy, mutual_information
from .entropy import effective_rank, matrix_entropy
from .gram import gram, unit_tokens
from .leave_one_out import METHODS, leave_one_out
from .operator import entropy_operator
from .quadrature import SOLVERS

__all__ = [
    "METHODS",
    "SOLVERS",
    "constants",
    "dime",
    "effective_rank",
    "entropy_operator",
    "full_precision",
    "gram",
    "joint_entropy",
    "leave_one_out",
    "matrix_entropy",
    "mutual_information",
    "unit_tokens",
    "use_kernels",
]
