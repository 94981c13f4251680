"""How well a trained embedded model names what scenes show, with and without dropped tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from ...pruning.engine.release import cache_name, cache_of
from ..data.scenes import draw, object_f1, sample_scene, scene_seed
from ..data.scenes.rendering import CAPTION_TOKENS
from ..models import IMAGE_TOKEN, in_mode
from .losses import normalise, prompt_ids, random_keep


@torch.inference_mode()
def greedy_captions(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: np.ndarray | torch.Tensor,
    *,
    keep: torch.Tensor | None = None,
    batch_size: int = 250,
    max_new_tokens: int = CAPTION_TOKENS,
) -> list[str]:
    """Greedy captions through the public forward pass; dropped tokens are masked, positions stay.

    Parameters
    ----------
    images : (B, H, W, 3) uint8.
    keep : (B, N) boolean mask of visual tokens; all by default.
    """
    said: list[str] = []
    with in_mode(model, training=False):
        for start in range(0, len(images), batch_size):
            part = torch.as_tensor(images[start : start + batch_size]).to(model.device)
            kept = None if keep is None else keep[start : start + batch_size]
            row, mask = _prompts(model, tokenizer, len(part), kept)
            words = _likeliest(model, tokenizer, row, mask, normalise(part), max_new_tokens)
            texts = tokenizer.batch_decode(words, skip_special_tokens=True)
            said += [text.strip() for text in texts]
    return said


def _prompts(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    keep: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of the prompt, (L,), and which of them each of the images shows, (count, L)."""
    before, after = prompt_ids(tokenizer)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    total = model.config.image_seq_length
    row = torch.tensor([*before, *[image_token] * total, *after], device=model.device)
    mask = torch.ones((count, len(row)), dtype=torch.long, device=model.device)
    if keep is not None:
        mask[:, len(before) : len(before) + total] = keep
    return row, mask


def _likeliest(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    row: torch.Tensor,
    mask: torch.Tensor,
    pixels: torch.Tensor,
    max_new_tokens: int,
) -> torch.Tensor:
    """The likeliest next token again and again, (B, T); padding behind the end of a caption."""
    batch, length = mask.shape
    out = model(
        input_ids=row.expand(batch, -1),
        pixel_values=pixels,
        attention_mask=mask,
        position_ids=torch.arange(length, device=model.device).expand(batch, -1),
        use_cache=True,
        logits_to_keep=1,
    )
    words, done = [], torch.zeros(batch, dtype=torch.bool, device=model.device)
    for number in range(max_new_tokens):
        token = out.logits[:, -1].argmax(-1)
        words.append(torch.where(done, tokenizer.pad_token_id, token))
        done |= token == tokenizer.eos_token_id
        if done.all() or number == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones((batch, 1))], 1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=torch.full((batch, 1), length + number, device=model.device),
            use_cache=True,
            **{cache_name(model): cache_of(out)},
        )
    return torch.stack(words, 1)


def draw_split(split: str, count: int, *, first: int = 0) -> tuple[np.ndarray, list[list[dict]]]:
    """Images (count, 224, 224, 3) uint8 and ground-truth objects of a split's first scenes."""
    scenes = [sample_scene(scene_seed(split, first + i)) for i in range(count)]
    return (
        np.stack([draw(scene) for scene in scenes]),
        [[item.record() for item in scene.objects] for scene in scenes],
    )


def evaluate(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: np.ndarray,
    objects: list[list[dict]],
    *,
    keeps: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
    random_state: int = 0,
    batch_size: int = 250,
) -> list[dict]:
    """Object F1 with all visual tokens and with random ones dropped.

    Returns
    -------
    One row a share kept: ``keep``, ``precision``, ``recall``, ``object_f1``, ``captions``.
    """
    rows = []
    total = model.config.image_seq_length
    for share in keeps:
        generator = torch.Generator().manual_seed(random_state)
        counts = torch.full((len(images),), round(share * total))
        keep = None if share == 1 else random_keep(counts, total, generator).to(model.device)
        said = greedy_captions(model, tokenizer, images, keep=keep, batch_size=batch_size)
        scores = np.array([object_f1(text, truth) for text, truth in zip(said, objects)])
        rows.append(
            {
                "keep": share,
                **dict(zip(("precision", "recall", "object_f1"), scores.mean(0).round(4).tolist())),
                "captions": said,
            }
        )
    return rows
