"""Training of the embedded model: scenes drawn while it learns, visual tokens dropped at random.

Three stages follow LLaVA's recipe in small.

1. The vision tower learns alone to name what each patch shows (an auxiliary linear head, thrown
   away at the end). It stands in for the pre-training that CLIP brings to LLaVA.
2. Tower, projector and language model learn together from captions; the patch head stays on.
3. The tower is frozen, as LLaVA's is; projector and language model go on with *random visual-token
   drop-out*: each image keeps a share of its tokens drawn uniformly from [0.1, 1] (some images
   keep all), the kept ones chosen uniformly at random. The others are removed before the language
   model; positions stay as they were. No pruning method is favoured.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .data.scenes import COLOURS, SHAPES, SIZES, draw, object_f1, sample_scene, scene_seed
from .data.scenes.pool import ScenePool
from .data.scenes.rendering import CAPTION_TOKENS
from .models import IMAGE_TOKEN, build_processor, format_prompt

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as in the image processor
_STD = (0.26862954, 0.26130258, 0.27577711)
_HEADS = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)  # class 0 is the background


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on; equal configs and devices give equal weights."""

    stages: tuple[int, int, int] = (1000, 2000, 2000)  # steps of each
    batch_size: int = 512
    learning_rate: float = 1e-3
    warmup: int = 150  # steps, at the start of the first two stages
    weight_decay: float = 0.05
    patch_weight: float = 1.0  # of the auxiliary loss in the second stage
    full_share: float = 0.3  # images that keep all tokens in the third stage
    lowest_keep: float = 0.1
    micro_batches: int = 2  # third stage: sequences of similar length go through together
    pool: int = 160_000  # distinct training scenes; the first stage sees a quarter of them
    variants: int = 8  # captions a scene
    random_state: int = 0
    compile: bool = True

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(self.stages)

    def stage(self, step: int) -> int:
        """1, 2 or 3."""
        return 1 + (step >= self.stages[0]) + (step >= self.stages[0] + self.stages[1])


# -------------------------------------------------------------------------------- model's parts


def visual_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """The tower's patch features that LLaVA uses: layer ``vision_feature_layer``, CLS dropped.

    ``pixels``: (B, 3, H, W) normalised. Returns (B, N, D). The layers above are not run.
    """
    tower = model.model.vision_tower
    depth = len(tower.encoder.layers) + 1 + model.config.vision_feature_layer
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:depth]:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:]


def _features(model: LlavaForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    return visual_features(model, normalise(images))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32, as CLIP's image processor does."""
    mean = torch.tensor(_MEAN, device=images.device)
    std = torch.tensor(_STD, device=images.device)
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


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
    for logits, goal in zip(head(features).float().split(_HEADS, -1), goals):
        each = nn.functional.cross_entropy(logits.flatten(0, 1), goal.flatten(), reduction="none")
        loss = loss + (each * weight.flatten()).sum() / weight.sum()
    return loss


def prompt_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of the prompt before and after the image."""
    ids = tokenizer(format_prompt(build_processor(tokenizer))).input_ids
    at = ids.index(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    return ids[:at], ids[at + 1 :]


# ------------------------------------------------------------------------------------- trainer


class Trainer:
    """A seeded, resumable run.

    Parameters
    ----------
    model, tokenizer : what learns, and its words.
    config : see :class:`TrainConfig`.
    folder : checkpoints (``checkpoint.pt``) and the curve (``log.jsonl``); a run that finds them
        goes on from there, and refuses them when they belong to another config.
    pool : the scenes; drawn here by default.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        config: TrainConfig,
        folder: Path,
        *,
        device: str | None = None,
        pool: ScenePool | None = None,
        workers: int | None = None,
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.config, self.folder = config, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model, self.tokenizer = model.to(self.device).train(), tokenizer
        self.prompt = prompt_ids(tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.random_state)
            self.head = nn.Linear(model.config.vision_config.hidden_size, sum(_HEADS))
        self.head.to(self.device)
        self.optimizer = self._make_optimizer()
        self.step, self.log = 0, []
        self._shuffled = (None, None)
        self.pool = pool or ScenePool(
            config.pool, tokenizer, variants=config.variants, device=self.device, workers=workers
        )
        self._resume()
        self._layers = list(model.model.language_model.layers)
        self._features, self._patch_loss = _features, patch_loss
        if config.compile:
            self._layers = [torch.compile(layer) for layer in self._layers]
            self._features = torch.compile(_features)
            self._patch_loss = torch.compile(patch_loss)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        groups = []
        tower = self.model.model.vision_tower
        for module in (
            tower,
            self.head,
            self.model.model.multi_modal_projector,
            self.model.model.language_model,
            self.model.lm_head,
        ):
            early = module in (tower, self.head)
            named = list(module.named_parameters())
            plain = [w for name, w in named if w.ndim < 2 or "embed" in name]
            matrices = [w for name, w in named if not (w.ndim < 2 or "embed" in name)]
            for weights, decay in ((matrices, self.config.weight_decay), (plain, 0.0)):
                if weights:
                    groups.append({"params": weights, "weight_decay": decay, "early": early})
        return torch.optim.AdamW(
            groups, lr=self.config.learning_rate, betas=(0.9, 0.98), fused=self.device == "cuda"
        )

    def rate(self, step: int, *, early: bool = False) -> float:
        """Learning rate at a step: half a cosine down to a hundredth, with linear warm-ups.

        ``early``: for tower and patch head, whose cosine ends when the tower is frozen.
        """
        config = self.config
        last = config.steps - config.stages[2] * early
        wave = (1 + math.cos(math.pi * min(1.0, step / max(1, last)))) / 2
        into = step if config.stage(step) == 1 else step - config.stages[0]
        rise = min(1.0, (into + 1) / max(1, config.warmup))
        return config.learning_rate * (0.01 + 0.99 * wave) * rise

    def indices(self, step: int) -> torch.Tensor:
        """Scenes of a step: each stage goes through in order, then in seeded orders."""
        config, stage = self.config, self.config.stage(step)
        count = max(1, config.pool // 4) if stage == 1 else config.pool
        since = step - (config.stages[0] if stage > 1 else 0)
        place = torch.arange(since * config.batch_size, (since + 1) * config.batch_size)
        chosen = torch.empty_like(place)
        for epoch in (place // count).unique().tolist():
            here = place // count == epoch
            order = torch.arange(count) if epoch == 0 else self._order(epoch, count)
            chosen[here] = order[place[here] % count]
        return chosen

    def _order(self, epoch: int, count: int) -> torch.Tensor:
        if self._shuffled[0] != (epoch, count):
            generator = torch.Generator().manual_seed(self.config.random_state * 1000 + epoch)
            self._shuffled = (epoch, count), torch.randperm(count, generator=generator)
        return self._shuffled[1]

    def run(
        self,
        *,
        until: int | None = None,
        max_seconds: float | None = None,
        checkpoint_every: int = 1000,
        report_every: int = 50,
        report: Callable[[dict], None] | None = None,
    ) -> int:
        """Train to step ``until`` (the config's end by default) or until time is over.

        Returns
        -------
        The number of steps done so far, over all runs.
        """
        until = self.config.steps if until is None else min(until, self.config.steps)
        began, spoke, since = time.perf_counter(), time.perf_counter(), self.step
        sums = torch.zeros(2, device=self.device)
        while self.step < until:
            if max_seconds is not None and time.perf_counter() - began > max_seconds:
                break
            sums += self._advance()
            self.step += 1
            if self.step % report_every == 0 or self.step == until:
                now, count = time.perf_counter(), self.step - since
                words, patches = (sums / count).tolist()
                row = {
                    "step": self.step,
                    "stage": self.config.stage(self.step - 1),
                    "caption_loss": round(words, 5),
                    "patch_loss": round(patches, 5),
                    "rate": self.rate(self.step - 1),
                    "images_per_s": round(count * self.config.batch_size / (now - spoke), 1),
                    "seconds": round(now - began, 2),
                    "waited_s": round(self.pool.seconds, 2),
                }
                if not math.isfinite(words):
                    raise RuntimeError(
                        f"the loss is {words} at step {self.step}: lower "
                        f"learning_rate={self.config.learning_rate}"
                    )
                self._write(row)
                if report is not None:
                    report(row)
                spoke, since = now, self.step
                sums.zero_()
            if self.step % checkpoint_every == 0:
                self.checkpoint()
        self.checkpoint()
        return self.step

    def _advance(self) -> torch.Tensor:
        """One optimiser step; returns (caption loss a token, patch loss), 0 where not in use."""
        config, step, device = self.config, self.step, self.device
        stage = config.stage(step)
        generator = torch.Generator().manual_seed(config.random_state * 1_000_003 + step)
        index = self.indices(step)
        self.pool.wait(int(index.max()) + 1)
        there = index.to(device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step, early=group["early"])
        amp = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
        with amp, torch.set_grad_enabled(stage < 3):
            features = self._features(self.model, self.pool.images[there])
        # The tower's gradient is gathered here and sent back once.
        leaf = features.detach().requires_grad_(stage < 3)
        words = patches = torch.zeros((), device=device)
        if stage < 3:
            with amp:
                patches = self._patch_loss(self.head, leaf, self.pool.codes[there])
            weight = 1.0 if stage == 1 else config.patch_weight
            (weight * patches).backward()
        if stage > 1:
            words = self._learn_captions(leaf, index, generator, stage == 3, amp)
        if stage < 3:
            features.backward(leaf.grad)
        groups = self.optimizer.param_groups
        weights = [w for group in groups for w in group["params"] if w.grad is not None]
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([words, patches.detach()])

    def _learn_captions(
        self,
        leaf: torch.Tensor,
        index: torch.Tensor,
        generator: torch.Generator,
        drop: bool,
        amp: torch.autocast,
    ) -> torch.Tensor:
        """Gather the gradients of the captions' loss; returns the loss a token."""
        config, device, (size, total) = self.config, self.device, leaf.shape[:2]
        variant = torch.randint(config.variants, (size,), generator=generator)
        targets = self.pool.tokens[index, variant].long()
        lengths = (targets >= 0).sum(1)
        if drop:
            counts = kept_counts(
                size,
                total,
                lowest=config.lowest_keep,
                full_share=config.full_share,
                generator=generator,
            )
            keep = random_keep(counts, total, generator, device=device)
        else:
            counts = torch.full((size,), total)
            keep = torch.ones((size, total), dtype=torch.bool, device=device)
        # Similar lengths together, so that little of a micro-batch is padding.
        order = (counts + lengths).argsort(stable=True)
        words = torch.zeros((), device=device)
        for part in order.chunk(config.micro_batches if drop else 1):
            there = part.to(device, non_blocking=True)
            with amp:
                visual = self.model.model.multi_modal_projector(leaf[there])
                loss = (
                    caption_loss(
                        self.model,
                        visual,
                        keep[there],
                        counts[part],
                        targets[part],
                        self.prompt,
                        layers=self._layers,
                    )
                    / lengths.sum().item()
                )
            loss.backward()
            words = words + loss.detach()
        return words

    # --------------------------------------------------------------------- stopping and going on

    def checkpoint(self) -> Path:
        """Write everything a later run needs, atomically."""
        path = self.folder / "checkpoint.pt"
        temporary = path.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "config": asdict(self.config),
                "model": self.model.state_dict(),
                "head": self.head.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "log": self.log,
            },
            temporary,
        )
        os.replace(temporary, path)
        return path

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            (self.folder / "log.jsonl").unlink(missing_ok=True)
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        mine = asdict(self.config)
        differ = {
            k: (saved["config"].get(k), v) for k, v in mine.items() if saved["config"].get(k) != v
        }
        if differ:
            told = ", ".join(f"{k}: {a!r} there, {b!r} here" for k, (a, b) in differ.items())
            raise ValueError(
                f"{path} belongs to a run with other settings ({told}): give another "
                "folder, or delete it to start afresh"
            )
        self.model.load_state_dict(saved["model"])
        self.head.load_state_dict(saved["head"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.log = saved["step"], saved["log"]
        # Rows after the checkpoint belong to steps that will be done again.
        (self.folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in self.log))

    def _write(self, row: dict) -> None:
        self.log.append(row)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


# -------------------------------------------------------------------------------------- evaluation


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
    before, after = prompt_ids(tokenizer)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    total = model.config.image_seq_length
    row = torch.tensor([*before, *[image_token] * total, *after], device=model.device)
    said: list[str] = []
    training, _ = model.training, model.eval()
    for start in range(0, len(images), batch_size):
        part = torch.as_tensor(images[start : start + batch_size]).to(model.device)
        batch = len(part)
        mask = torch.ones((batch, len(row)), dtype=torch.long, device=model.device)
        if keep is not None:
            mask[:, len(before) : len(before) + total] = keep[start : start + batch]
        position = torch.arange(len(row), device=model.device).expand(batch, -1)
        out = model(
            input_ids=row.expand(batch, -1),
            pixel_values=normalise(part),
            attention_mask=mask,
            position_ids=position,
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
            place = torch.full((batch, 1), len(row) + number, device=model.device)
            out = model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=place,
                past_key_values=out.past_key_values,
                use_cache=True,
            )
        said += [
            text.strip()
            for text in tokenizer.batch_decode(torch.stack(words, 1), skip_special_tokens=True)
        ]
    model.train(training)
    return said


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


def plot_curves(log: Sequence[dict], stages: Sequence[int]):
    """Losses and learning rate over the steps, the stages marked; a matplotlib figure."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for name, first, last in (("patch_loss", 1, 2), ("caption_loss", 2, 3)):
        rows = [row for row in log if first <= row["stage"] <= last]
        left.plot(
            [row["step"] for row in rows], [row[name] for row in rows], label=name.replace("_", " ")
        )
    left.set(xlabel="step", ylabel="nats", yscale="log")
    left.legend()
    right.plot([row["step"] for row in log], [row["rate"] for row in log], color="tab:green")
    right.set(xlabel="step", ylabel="learning rate")
    for axes in (left, right):
        for edge in np.cumsum(stages)[:-1]:
            axes.axvline(edge, color="0.7", linewidth=0.8)
    return figure
