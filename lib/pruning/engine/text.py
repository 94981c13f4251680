"""What the prompt says about an image, for rules that read it before the language model does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .images import ImageTokens


class Text(NamedTuple):
    """Text tokens of n images: states `(n, q, D)`, and which are real, bool `(n, q)`."""

    states: Tensor
    real: Tensor


def text_of(images: ImageTokens) -> Text:
    """The text behind each image of a group, as it enters the pruning layer.

    Where nothing follows an image: all text of its prompt. Padding and drafts do not count. q needs
    no look at the device: it is the most that rows hold beside their visual tokens.
    """
    pass_, device = images.prefill, images.columns.device
    visual = [0] * pass_.batch
    for row, count in zip(pass_.row_of, pass_.lengths):
        visual[row] += count
    text = ~pass_.image_mask.to(device)
    if pass_.valid is not None:
        text = text & pass_.valid.to(device)
    place = torch.arange(pass_.length, device=device)
    text = (text & (place < pass_.length - pass_.drafts))[images.rows.to(device)]
    behind = text & (place > images.columns.amax(1, keepdim=True))
    behind = torch.where(behind.any(1, keepdim=True), behind, text)
    order = behind.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    order = order[:, : pass_.length - min(visual)]
    states = pass_.entering[images.rows.to(pass_.entering.device)[:, None], order]
    return Text(states.to(device), behind.gather(1, order))
