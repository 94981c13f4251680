"""The tokens of one or more layers, and what the selections ask of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..entropy import unit_tokens
from ..entropy.gram import as_gram, checked_gram, inner_products, require_tokens, unit_gram
from ..kernels import MAX_CLUSTERED, MAX_TOKENS, PLAIN, Backend, backend_for


@dataclass(eq=False)
class Layers:
    """Tokens (..., N, D_l) of layers l1 … l2, or with `gram` their Gram matrices (..., N, N).

    >>> Layers([torch.ones(2, 3), 5 * torch.eye(2)]).gram_at(-1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    views: list[Tensor]
    gram: bool = False

    def __len__(self) -> int:
        return len(self.views)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the results."""
        exact = any(view.dtype == torch.float64 for view in self.views)
        return torch.float64 if exact else torch.float32

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend that serves every layer."""
        return backend_for(*self.views)

    @functools.cached_property
    def clustering(self) -> Backend:
        """The backend that clusters more tokens, as they are, than the others take."""
        size = self.views[-1].shape[-2]
        if self.gram or size <= MAX_TOKENS:
            return PLAIN
        return backend_for(self.views[-1], most=MAX_CLUSTERED)

    @functools.cached_property
    def alike(self) -> bool:
        """Whether all layers go through every kernel together: those of one shape."""
        first = self.views[0]
        if self.gram or not self.backend:
            return False
        return all(v.shape == first.shape and v.dtype == first.dtype for v in self.views)

    @functools.cached_property
    def _stack(self) -> Tensor:
        """The tokens (L, ..., N, D) of layers of one shape."""
        return torch.stack(self.views)

    @functools.cached_property
    def stacked(self) -> Tensor | None:
        """Unit Gram matrices (L, ..., N, N) of all layers by the kernels; None unless `alike`."""
        return self.backend.kernels.gram(self._stack) if self.alike else None

    @functools.cached_property
    def stacked_raw(self) -> Tensor | None:
        """As `stacked`, of the tokens as they are, of mean square length one."""
        return self.backend.kernels.gram(self._stack, raw=True) if self.alike else None

    @functools.cached_property
    def rows(self) -> list[Tensor]:
        """Unit tokens (..., N, D_l) of each layer."""
        return [unit_tokens(view, check=False) for view in self.views]

    @functools.cached_property
    def raw(self) -> list[Tensor]:
        """Tokens (..., N, D_l) of each layer as they are, in float64, of mean square length one."""
        return [_of_mean_one(view) for view in self.views]

    def gram_at(self, index: int) -> Tensor:
        """The Gram matrix (..., N, N) of one layer: of its unit tokens, or the given one."""
        if self.stacked is not None:
            return self.stacked[index]
        if self.gram:
            return checked_gram(self.views[index], check=False)
        if self.backend:
            return self.backend.kernels.gram(self.views[index])
        return unit_gram(self.rows[index])

    def clustered(self, *, raw: bool) -> Tensor:
        """The last layer's Gram matrix (..., N, N) for `lib.clustering`; plainly in float64.

        Of unit tokens or, if `raw`, of the tokens as they are; or the given one.
        """
        if raw:
            stacked = self.stacked_raw
            return inner_products(self.raw[-1]) if stacked is None else stacked[-1]
        if self.stacked is not None or self.backend:
            return self.gram_at(-1)
        return as_gram(self.views[-1], self.backend, gram_given=self.gram, check=False, exact=True)

    def check(self) -> None:
        """Raise what `lib.entropy.gram` raises of bad tokens, for every layer; a GPU waits."""
        if self.gram:
            for view in self.views:
                checked_gram(view, check=True)
        else:
            self.rows = [unit_tokens(view) for view in self.views]


def _of_mean_one(view: Tensor) -> Tensor:
    """A layer's tokens in float64, their squared lengths of mean one."""
    rows = view.double()
    if view.dtype == torch.float64:  # squares of shorter types have room
        largest = rows.abs().amax((-2, -1), keepdim=True)
        rows = rows / largest.clamp_min(torch.finfo(torch.float64).tiny)
    whole = torch.linalg.vector_norm(rows, dim=(-2, -1), keepdim=True)
    return rows / (whole / math.sqrt(view.shape[-2]))


def as_layers(tokens: Tensor | None, layers: Sequence[Tensor] | None, *, gram: bool) -> Layers:
    """The layers that a selection is given: `layers`, or `tokens` alone.

    Raises:
        TypeError: a layer that is no floating-point tensor.
        ValueError: neither given, no layer, or layers of different tokens.

    >>> len(as_layers(torch.eye(3), None, gram=False))
    1
    """
    if layers is None:
        if tokens is None:
            raise ValueError("give tokens, layers or both; got neither")
        layers = [tokens]
    views = list(layers)
    if not views:
        raise ValueError("layers must hold at least one layer, got none")
    for view in views:
        require_tokens(view)
    if any(view.shape[:-1] != views[-1].shape[:-1] for view in views):
        shapes = [tuple(view.shape) for view in views]
        raise ValueError(f"layers must agree in all but the last dimension, got {shapes}")
    if tokens is not None and tokens.shape[:-1] != views[-1].shape[:-1]:
        raise ValueError(
            f"tokens {tuple(tokens.shape)} and the last layer {tuple(views[-1].shape)} "
            "must describe the same tokens"
        )
    return Layers(views, gram)
