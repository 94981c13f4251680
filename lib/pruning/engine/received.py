"""What the tokens of a tower receive of its attention, without the matrix of a large tower."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

#: Attention weights computed at once: 2^24 of them are 64 MiB in float32.
AT_ONCE = 2**24


def received(
    queries: Tensor, keys: Tensor, scale: float, *, visible: Tensor | None = None
) -> Tensor:
    """The sum over the queries of their softmaxed attention, float32 `(rows, heads, keys)`.

    queries `(rows, heads, q, width)`, keys `(rows, heads, k, width)`. visible: bool or additive
    mask that broadcasts to `(rows, heads, q, k)`; None: every key is. The weights are computed for
    some queries at a time.

    >>> uniform = received(torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 6, 4), 1.0)
    >>> uniform[0, 0].tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    rows, heads, asked, _ = queries.shape
    total = queries.new_zeros(rows, heads, keys.shape[2], dtype=torch.float32)
    step = max(1, AT_ONCE // (rows * heads * keys.shape[2]))
    for first in range(0, asked, step):
        part = slice(first, first + step)
        logits = (queries[:, :, part] @ keys.transpose(2, 3) * scale).float()
        if visible is not None:
            mask = visible if visible.shape[2] == 1 else visible[:, :, part]
            if mask.dtype == torch.bool:
                logits = logits.masked_fill(~mask, float("-inf"))
            else:
                logits = logits + mask
        total += logits.softmax(-1).sum(2)
    return total


def received_in_segments(queries: Tensor, keys: Tensor, scale: float, bounds: list[int]) -> Tensor:
    """The same where attention stays within segments of one packed sequence: `(heads, tokens)`.

    queries, keys `(tokens, heads, width)`; bounds: where segments begin, and the end of the last
    (`cu_seqlens`). Segments of one length are computed together.

    >>> x = torch.zeros(6, 1, 4)
    >>> received_in_segments(x, x, 1.0, [0, 2, 6]).tolist()
    [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    result = queries.new_zeros(queries.shape[1], queries.shape[0], dtype=torch.float32)
    lengths = [end - begin for begin, end in itertools.pairwise(bounds)]
    for length in sorted(set(lengths)):
        begins = [begin for begin, own in zip(bounds, lengths) if own == length]
        place = torch.tensor(begins, device=queries.device)[:, None] + torch.arange(
            length, device=queries.device
        )
        q, k = queries[place].transpose(1, 2), keys[place].transpose(1, 2)
        heads = received(q, k, scale).transpose(0, 1)  # (heads, segments, length)
        result[:, place.flatten()] = heads.flatten(1)
    return result
