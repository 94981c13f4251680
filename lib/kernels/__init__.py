"""Triton kernels for the scorers on a CUDA device, and who takes them.

Nothing here defines a result. Every kernel computes what a plain PyTorch function of
`lib.entropy`, `lib.clustering` or `lib.selection` computes, which stays the reference, the route on
a CPU and the fallback. A public function asks `backend_for` once and hands the answer down.

All shapes are static, nothing waits for the host, and an item's result does not depend on the rest
of its batch. Float32 only. Matrix products run on the tensor cores: half-precision tokens as they
are (their products are exact in float32), float32 as three TF32 products, indicators with the other
factor in two float16 parts (22 bits of a number up to one) or three of bfloat16 (all). Cosines err
by a few 1e-6, which the tensor cores' own sums cause.

Importing this package does not import Triton; `lib.kernels.operations` does.
"""

from .dispatch import (
    MAX_CLUSTERED,
    MAX_TOKENS,
    MIN_TOKENS,
    PLAIN,
    Backend,
    backend_for,
    use_kernels,
)

__all__ = [
    "MAX_CLUSTERED",
    "MAX_TOKENS",
    "MIN_TOKENS",
    "PLAIN",
    "Backend",
    "backend_for",
    "use_kernels",
]
