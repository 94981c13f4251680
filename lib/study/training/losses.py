"""What the trainers share: a tower's features, random drop-out of visual tokens, the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import (
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ..data.scenes import COLOURS, SHAPES, SIZES
from ..models import IMAGE_TOKEN, build_processor, format_prompt

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as in the image processor
_STD = (0.26862954, 0.26130258, 0.27577711)
#: Classes of shape, colour and size; class 0 is the background.
HEADS = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)


def tower_states(tower: CLIPVisionModel, pixels: torch.Tensor, depth: int) -> torch.Tensor:
    """(B, 3, H, W) normalised pixels to (B, 1 + N, D): the class token and the patches, `depth`
    layers in. The layers above are not run."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:depth]:
        hidden = layer(hidden, attention_mask=None)
    return hidden


def visual_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """The tower's patch features that LLaVA uses: layer ``vision_feature_layer``, CLS dropped.

    ``pixels``: (B, 3, H, W) normalised. Returns (B, N, D).
    """
    tower = model.model.vision_tower
    depth = len(tower.encoder.layers) + 1 + model.config.vision_feature_layer
    return tower_states(tower, pixels, depth)[:, 1:]


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32, as CLIP's image processor does."""
    return normalise_images(images.permute(0, 3, 1, 2).float() / 255).contiguous()


def normalise_images(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] to what CLIP's image processor gives."""
    mean, std = (images.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
    return (images - mean) / std


def random_keep(
    counts: torch.Tensor, total: int, generator: torch.Generator, *, device: str = "cpu"
) -> torch.Tensor:
    """A uniformly random subset of each size: (B,) counts to a (B, total) boolean mask."""
    noise = torch.rand((len(counts), total), generator=generator).to(device, non_blocking=True)
    rank = noise.argsort(1).argsort(1)
    return rank < counts.to(device, non_blocking=True)[:, None]


def kept_counts(
    size: int, total: int, *, lowest: float, full_share: float, generator: torch.Generator
) -> torch.Tensor:
    """How many tokens each image keeps: all in ``full_share`` of cases, else U(lowest, 1)·total."""
    rate = lowest + (1 - lowest) * torch.rand(size, generator=generator)
    full = torch.rand(size, generator=generator) < full_share
    return torch.where(full, total, (rate * total).round().long().clamp(1, total))


def caption_loss(
    model: LlavaForConditionalGeneration,
    visual: torch.Tensor,
    keep: torch.Tensor,
    counts: torch.Tensor,
    targets: torch.Tensor,
    prompt: tuple[list[int], list[int]],
    *,
    layers: Sequence[Callable] | None = None,
) -> torch.Tensor:
    """Summed cross-entropy of the captions, given the kept visual tokens at original positions.

    The dropped tokens are removed; what remains is left-aligned and attention is causal, so the
    padding on the right is never seen and no mask is needed. This equals the public forward pass
    with the dropped positions masked (a test says so).

    Parameters
    ----------
    visual : (B, N, D) projected visual tokens.
    keep : (B, N) boolean, on the same device.
    counts : (B,) number of kept tokens, on the CPU.
    targets : (B, T) token ids of caption and end, padded with -1, on the CPU.
    prompt : token ids before and after the image.
    layers : the decoder layers (compiled ones, say) instead of the model's own.

    Returns
    -------
    The losses summed over all target tokens, a scalar.
    """
    language = model.model.language_model
    device, batch = visual.device, len(targets)
    before, after = prompt
    spoken = targets >= 0
    # The sequence in original positions: before | image | after | caption, its end unread.
    frame = torch.tensor([*before, *after]).expand(batch, -1)
    text = torch.cat([frame, targets[:, :-1].clamp(min=0)], 1).to(device, non_blocking=True)
    present = torch.cat(
        [
            torch.ones((batch, len(before)), dtype=torch.bool, device=device),
            keep,
            torch.ones((batch, len(after)), dtype=torch.bool, device=device),
            spoken[:, 1:].to(device, non_blocking=True),
        ],
        1,
    )
    longest = int((counts + spoken.sum(1)).max()) + len(frame[0]) - 1
    longest = -(-longest // 64) * 64  # few distinct shapes
    order = (~present).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]

    words = language.embed_tokens(text).to(visual.dtype)
    full = torch.cat([words[:, : len(before)], visual, words[:, len(before) :]], 1)
    hidden = full.gather(1, order[..., None].expand(-1, -1, full.shape[-1]))
    rotary = language.rotary_emb(hidden, position_ids=order)
    for layer in layers if layers is not None else language.layers:
        hidden = layer(hidden, attention_mask=None, position_ids=order, position_embeddings=rotary)
    # Each target is predicted one place before its own.
    first = len(before) + counts + len(after) - 1
    where = (first[:, None] + torch.arange(targets.shape[1])).clamp(max=order.shape[1] - 1)
    where = where.to(device, non_blocking=True)
    hidden = hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1]))
    logits = model.lm_head(language.norm(hidden)).float()
    goal = torch.where(spoken, targets, -100).long().to(device, non_blocking=True)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), goal.flatten(), ignore_index=-100, reduction="sum"
    )


def patch_loss(head: nn.Linear, features: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of naming shape, colour and size in each patch; (B, N, D) and (B, N) codes.

    Background patches, most of the picture, weigh a tenth.
    """
    codes = codes.long()
    goals = (codes // 256, codes // 16 % 16, codes % 16)
    weight = torch.where(codes > 0, 1.0, 0.1)
    loss = features.new_zeros((), dtype=torch.float32)
    for logits, goal in zip(head(features).float().split(HEADS, -1), goals):
        each = nn.functional.cross_entropy(logits.flatten(0, 1), goal.flatten(), reduction="none")
        loss = loss + (each * weight.flatten()).sum() / weight.sum()
    return loss


def prompt_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of the embedded model's prompt before and after the image."""
    return split_prompt(build_processor(tokenizer))


def split_prompt(processor: LlavaProcessor) -> tuple[list[int], list[int]]:
    """Token ids of a processor's prompt before and after the image."""
    tokenizer = processor.tokenizer
    ids = tokenizer(format_prompt(processor)).input_ids
    at = ids.index(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    return ids[:at], ids[at + 1 :]
