"""How far pruning moves a model's next-token predictions: a measure that sees small damage.

The teacher-forced Kullback-Leibler divergence from the unpruned model's next-token distribution to
the pruned one's, in nats a token: both models read the same human captions, and what is compared
is the whole distribution at every token of them, the first and the end token included. Captions
change only where the first choice changes; this changes with every probability, is paired by
construction and costs one prefill and one short pass an image. (Distilled and quantised language
models are compared in the same way.)

Beside it stands the mean negative log-likelihood of the captions under the pruned model. It is no
measure of damage by itself: a model that is over-confident on the references loses less of it when
pruning makes it less sure, so that pruning can seem to help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from ..pruning.engine.release import cache_name, cache_of
from .captioning import SharedVision, repeatable_attention
from .captioning.checks import checked_ids
from .captioning.loader import Loader
from .captioning.record import Batch, ExampleLike
from .models import PROMPT, full_prompt

__all__ = ["DivergenceRecord", "divergence", "divergences", "reference_ids"]


class DivergenceRecord(TypedDict):
    """What one image leaves behind under one method.

    kl: divergence from the unpruned model, mean over the tokens of the image's references, in nats.
    nll: negative log-likelihood of the same tokens under the method, likewise. tokens: how many.
    kept: visual tokens that reached the end of the language model, of `visual_tokens`.
    """

    image_id: int
    kl: float
    nll: float
    tokens: int
    kept: int
    visual_tokens: int


def divergence(
    model: Any,
    processor: Any,
    examples: Sequence[ExampleLike],
    pruners: Mapping[str, Any],
    *,
    prompt: str = PROMPT,
    references: int = 2,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, list[DivergenceRecord]]:
    """The divergence of several methods from the unpruned model, image by image.

    One batch at a time: the unpruned model first, then every method on the same prepared images
    and, where the method leaves the vision tower alone, the same features. A method prunes in the
    prefill of the prompt; the references then pass through its cache, all of an image at once.
    Logits are turned into log-probabilities and compared in float32, whatever the model's type.

    Parameters
    ----------
    model, processor : a LLaVA-like model and its processor, as `lib.study.models.load` gives them.
    examples : images with `image_id`, `path` and `references`.
    pruners : `{slug: pruner}`; None is the unpruned model, whose divergence is 0.
    prompt : the question, as in `lib.study.captioning.caption`.
    references : how many of each image's captions are read, the first ones; fewer where it has
        fewer.
    batch_size : images at a time; changes the result by rounding only.

    Returns
    -------
    `{slug: records}`, the records as plain JSON in the order of the examples.

    Raises
    ------
    ImageError : an image is missing or damaged, or an example has no references.
    ValueError : no examples, repeated image ids, an option out of range, or a caption that holds
        the image placeholder.
    """
    if references < 1 or batch_size < 1:
        raise ValueError(
            f"references and batch_size must be at least 1, got {references} and {batch_size}"
        )
    checked_ids(examples)
    batches = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    found: dict[str, list[DivergenceRecord]] = {slug: [] for slug in pruners}
    options = {"prompt": prompt, "references": references, "progress": progress}
    for _, records in divergences(model, processor, batches, pruners, **options):
        for slug, rows in records.items():
            found[slug] += rows
    return found


def divergences(
    model: Any,
    processor: Any,
    batches: Sequence[Batch],
    pruners: Mapping[str, Any],
    *,
    prompt: str = PROMPT,
    references: int = 2,
    progress: bool = True,
) -> Iterator[tuple[Batch, dict[str, list[DivergenceRecord]]]]:
    """`divergence` batch by batch: each with the records of every method on it.

    Parameters and what is raised: see `divergence`.
    """
    if references < 1:
        raise ValueError(f"references must be at least 1, got {references}")
    prompt = full_prompt(processor, prompt)
    training = model.training
    model.eval()
    try:
        with (
            repeatable_attention(),
            Loader(processor, prompt, model.device) as loader,
            tqdm(
                total=sum(map(len, batches)), desc="divergence", unit="image", disable=not progress
            ) as bar,
        ):
            reader = _Reader(model, SharedVision(model))
            for batch, inputs in loader(batches):
                said = [
                    [reference_ids(model, processor, prompt, text) for text in texts]
                    for texts in (example.references[:references] for example in batch)
                ]
                text = _Text.of(said, model.device)
                with torch.inference_mode():
                    records = reader(batch, inputs, text, pruners)
                bar.update(len(batch))
                yield batch, records
    finally:
        model.train(training)


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
class _Text:
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
    def of(cls, said: Sequence[Sequence[Sequence[int]]], device: torch.device) -> _Text:
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


class _Reader:
    """Has a model, pruned or not, read the references of one batch after the other."""

    def __init__(self, model: Any, vision: SharedVision) -> None:
        self.model, self.vision = model, vision
        #: whether positions have several axes (Qwen's multimodal RoPE)
        self.axes = hasattr(getattr(model, "model", None), "rope_deltas")

    def __call__(
        self, batch: Batch, inputs: Mapping[str, Tensor], text: _Text, pruners: Mapping[str, Any]
    ) -> dict[str, list[DivergenceRecord]]:
        """The records of a batch under every method."""
        model, ids = self.model, [int(example.image_id) for example in batch]
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        found = {}
        try:
            visual = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
            unpruned, _ = self._log_probabilities(ids, inputs, text, None)
            for slug, pruner in pruners.items():
                pruned, kept = unpruned, visual
                if pruner is not None:
                    pruned, kept = self._log_probabilities(ids, inputs, text, pruner)
                found[slug] = _records(ids, text, unpruned, pruned, (kept, visual))
        except torch.OutOfMemoryError as error:
            error.add_note(f"batch_size={len(batch)} does not fit; use a smaller one")
            raise
        self.vision.clear()
        return found

    def _log_probabilities(
        self, ids: Sequence[int], inputs: Mapping[str, Tensor], text: _Text, pruner: Any
    ) -> tuple[Tensor, list[int]]:
        """Log-probabilities (T, V) float32 where a target stands, and each image's kept tokens."""
        shared = not getattr(pruner, "uses_own_vision", False)
        with (
            self.vision.batch(ids) if shared else nullcontext(),
            pruner(self.model) if pruner is not None else nullcontext() as active,
        ):
            if hasattr(active, "image_keys"):
                active.image_keys = torch.tensor(ids, dtype=torch.int64)
            mask = inputs["attention_mask"]
            # left-padded rows count their own tokens, as `generate` does; with positions in several
            # axes, the model counts
            places = {} if self.axes else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
            output = self.model(**inputs, **places, use_cache=True, logits_to_keep=1)
            kept = [len(row) for row in active.kept_per_prompt] if active is not None else []
            logits = output.logits[:, -1].repeat_interleave(text.copies, dim=0)[text.first]
            if text.ids.shape[1]:
                logits = torch.cat([logits, self._read(cache_of(output), mask, text)])
        return logits.float().log_softmax(-1), kept

    def _read(self, cache: Any, mask: Tensor, text: _Text) -> Tensor:
        """Logits at the fed tokens, read through copies of the prompt's cache."""
        cache.batch_repeat_interleave(text.copies)
        mask = mask.repeat_interleave(text.copies, dim=0)
        places = mask.sum(1, keepdim=True) + torch.arange(text.ids.shape[1], device=mask.device)
        if self.axes:  # text goes on behind the image's grid, alike in all axes
            behind = self.model.model.rope_deltas.to(places.device)
            places = (places + behind.repeat_interleave(text.copies, dim=0)).expand(3, -1, -1)
        output = self.model(
            input_ids=text.ids,
            attention_mask=torch.cat([mask, text.fed.to(mask.dtype)], dim=1),
            position_ids=places,
            use_cache=True,
            **{cache_name(self.model): cache},
        )
        return output.logits[text.fed.to(output.logits.device)]


def _records(
    ids: Sequence[int],
    text: _Text,
    unpruned: Tensor,
    pruned: Tensor,
    counts: Sequence[Sequence[int]],
) -> list[DivergenceRecord]:
    kl = functional.kl_div(pruned, unpruned, reduction="none", log_target=True).sum(-1)
    targets = text.targets.to(pruned.device)
    nll = -pruned.gather(1, targets[:, None]).squeeze(1)
    count = len(ids)
    names = "image_id", "kl", "nll", "tokens", "kept", "visual_tokens"
    read = text.means(kl, count), text.means(nll, count), text.counts(count).tolist()
    return [dict(zip(names, row)) for row in zip(ids, *read, *counts, strict=True)]
