"""The human captions of a batch as tokens, to be fed and to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..captioning.record import Batch


def reference_ids(model: Any, processor: Any, prompt: str, text: str) -> list[int]:
    """The tokens of a caption as the model would say it after a prompt, its end token included.

    Prompt and caption are tokenised together, and the prompt's tokens taken off: so the first word
    gets the space that belongs before it (none where the prompt ends in white space, as after a
    chat template's line end). The end token is the first of `generation_config.eos_token_id`, what
    stops `generate`, and is left out where there is none.

    Raises ValueError if the caption is blank, holds the image placeholder, or changes how the
    prompt is tokenised.
    """
    if not text.strip():
        raise ValueError(f"the caption {text!r} is blank")
    tokenizer = processor.tokenizer
    space = "" if prompt[-1:].isspace() else " "
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt + space + text, add_special_tokens=False)["input_ids"]
    if whole[: len(before)] != before or len(whole) == len(before):
        raise ValueError(f"the caption {text!r} is not tokenised apart from the prompt {prompt!r}")
    said = whole[len(before) :]
    if model.config.image_token_id in said:
        raise ValueError(f"the caption {text!r} holds the image placeholder")
    end = model.generation_config.eos_token_id
    if end is None:
        return said
    return [*said, end[0] if isinstance(end, list | tuple) else end]


@dataclass(frozen=True)
class Text:
    """The references of a batch, R rows an image, padded on the right.

    ids (B·R, L): every token but the last, which are fed. fed, true (B·R, L): which of them are
    tokens. first (B·R,): whether the row is a reference at all (an image may have fewer than R).
    targets (T,), image (T,): what is to be predicted, by all first tokens and then by all fed ones,
    and the image it belongs to.
    """

    copies: int
    ids: Tensor
    fed: Tensor
    first: Tensor
    targets: Tensor
    image: Tensor

    @classmethod
    def read(cls, model: Any, processor: Any, prompt: str, batch: Batch, references: int) -> Text:
        """The first so many captions of each image, as the model would say them."""
        texts = [example.references[:references] for example in batch]
        said = [[reference_ids(model, processor, prompt, one) for one in few] for few in texts]
        return cls.of(said, model.device)

    @classmethod
    def of(cls, said: Sequence[Sequence[Sequence[int]]], device: torch.device) -> Text:
        copies = max(map(len, said))
        rows = [ids for image in said for ids in [*image, *[[]] * (copies - len(image))]]
        length = max(map(len, rows))
        padded = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in rows])
        sizes = torch.tensor([len(ids) for ids in rows])
        there = torch.arange(length) < sizes[:, None]
        image = torch.arange(len(said)).repeat_interleave(copies)
        first, fed = there[:, 0], there[:, 1:]
        text = cls(
            copies=copies,
            ids=padded[:, :-1],
            fed=fed,
            first=first,
            targets=torch.cat([padded[:, 0][first], padded[:, 1:][fed]]),
            image=torch.cat([image[first], image[:, None].expand_as(fed)[fed]]),
        )
        moved = {name: value.to(device) for name, value in vars(text).items() if name != "copies"}
        return cls(copies=copies, **moved)

    def means(self, values: Tensor, images: int) -> list[float]:
        """The mean of values (T,) over the tokens of each image."""
        sums = torch.zeros(images, dtype=torch.float64, device=values.device)
        sums.index_add_(0, self.image.to(values.device), values.double())
        return (sums.cpu() / self.counts(images)).tolist()

    def counts(self, images: int) -> Tensor:
        """Tokens of each image."""
        return torch.bincount(self.image.cpu(), minlength=images)
