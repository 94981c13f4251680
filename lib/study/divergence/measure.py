"""Methods are measured by themselves: a prefill each, then the references through its cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from ..captioning import SharedVision, repeatable_attention
from ..captioning.checks import checked_ids
from ..captioning.loader import Loader
from ..captioning.record import Batch, ExampleLike
from ..models import PROMPT, full_prompt, in_mode
from .reader import Reader
from .record import DivergenceRecord
from .text import Text


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
    with (
        in_mode(model, training=False),
        repeatable_attention(),
        Loader(processor, prompt, model.device) as loader,
        tqdm(
            total=sum(map(len, batches)), desc="divergence", unit="image", disable=not progress
        ) as bar,
    ):
        reader = Reader(model, SharedVision(model))
        for batch, inputs in loader(batches):
            text = Text.read(model, processor, prompt, batch, references)
            with torch.inference_mode():
                records = reader(batch, inputs, text, pruners)
            bar.update(len(batch))
            yield batch, records
