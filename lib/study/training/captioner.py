"""The caption stages: adapters and projector learn from human captions, then from a score.

`learn_captions` minimises cross-entropy; the tower learns along slowly where it is given a rate,
held to its teacher by distillation. `learn_from_scores` raises CIDEr by policy gradient
(self-critical training, arXiv:1612.00563; each sample's baseline is the mean of the others,
arXiv:2003.09971). Both take `Drop` to hide random visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from ..models import in_mode
from .adapters import PlainCopy, Trainables
from .captions import decode, encode
from .distillation import Distiller
from .losses import kept_counts, normalise_images, random_keep, split_prompt, tower_states
from .packing import pack, packed_loss
from .photographs import MILD, PLAIN, Augmentation, crop, jitter
from .rewards import Rewards
from .runs import Means, Run, descend
from .sampling import PackedDecoder


@dataclass(frozen=True)
class Drop:
    """Random drop-out of visual tokens: uniform in size and in place.

    full_share : images that keep all.
    lowest : the smallest share kept by the others.
    """

    full_share: float = 0.3
    lowest: float = 0.0625


@dataclass(frozen=True)
class CaptionPlan:
    """Settings of a caption stage.

    room : positions for an image's captions behind the prompt.
    tower_rate : of the tower, as a part of `learning_rate`; 0 freezes it.
    distil_size : photographs a step on which the tower is held to its teacher.
    samples : captions an image that `learn_from_scores` draws.
    """

    batch_size: int = 96
    room: int = 96
    longest: int = 24
    learning_rate: float = 1e-3
    tower_rate: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.01
    smoothing: float = 0.1
    distil_size: int = 0
    distil_weight: float = 0.3
    samples: int = 5
    drop: Drop | None = None
    augmentation: Augmentation = MILD
    random_state: int = 0


class Captioner:
    """A model with adapters, photographs and their captions on one device.

    Parameters
    ----------
    model : from `lib.study.models.photos.build`, adapters added.
    photographs : (n, side, side, 3) uint8, on the model's device.
    captions : human captions of each.
    compile : compile the decoder layers for the losses.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        photographs: torch.Tensor,
        captions: Sequence[Sequence[str]],
        *,
        longest: int = 24,
        compile: bool = False,
    ) -> None:
        self.model, self.tokenizer = model, processor.tokenizer
        self.photographs, self.captions = photographs, captions
        self.device = photographs.device
        self.prompt = split_prompt(processor)
        self.ids = encode(self.tokenizer, captions, longest=longest)
        self.trainables = Trainables(model)
        self.tower = model.model.vision_tower
        self.depth = len(self.tower.encoder.layers) + 1 + model.config.vision_feature_layer
        on_gpu = self.device.type == "cuda"
        self.plain = PlainCopy(model, torch.bfloat16 if on_gpu else torch.float32)
        self.decoder = PackedDecoder(
            self.plain.language,
            model.lm_head,
            self.prompt,
            self.tokenizer.eos_token_id,
            max_new_tokens=longest,
        )
        self.layers = list(model.model.language_model.layers)
        if compile:
            self.layers = [torch.compile(layer) for layer in self.layers]

    def autocast(self) -> torch.autocast:
        """bfloat16 on a GPU."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")

    def visual(self, images: torch.Tensor, *, learn_tower: bool = False) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] to projected visual tokens (B, N, D)."""
        with torch.set_grad_enabled(learn_tower and torch.is_grad_enabled()):
            states = tower_states(self.tower, normalise_images(images), self.depth)[:, 1:]
        return self.model.model.multi_modal_projector(states)

    def views(
        self, index: torch.Tensor, augmentation: Augmentation, generator: torch.Generator
    ) -> torch.Tensor:
        """Photographs of an index, varied."""
        side = self.tower.config.image_size
        images = crop(self.photographs[index.to(self.device)], side, augmentation, generator)
        return jitter(images, augmentation, generator)

    def order(self, step: int, plan: CaptionPlan) -> torch.Tensor:
        """The photographs of a step: every one comes before any comes again."""
        count, size = len(self.photographs), plan.batch_size
        place = torch.arange(step * size, (step + 1) * size)
        chosen = torch.empty_like(place)
        for epoch in (place // count).unique().tolist():
            seed = torch.Generator().manual_seed(plan.random_state * 1000 + epoch)
            here = place // count == epoch
            chosen[here] = torch.randperm(count, generator=seed)[place[here] % count]
        return chosen

    def keep(self, size: int, drop: Drop | None, seed: int) -> torch.Tensor | None:
        """Which visual tokens stay, (size, N) boolean; None for all."""
        if drop is None:
            return None
        side = self.tower.config.image_size // self.tower.config.patch_size
        generator = torch.Generator().manual_seed(seed)
        counts = kept_counts(
            size, side**2, lowest=drop.lowest, full_share=drop.full_share, generator=generator
        )
        return random_keep(counts, side**2, generator, device=str(self.device))

    @torch.no_grad()
    def greedy(self, photographs: torch.Tensor, *, batch_size: int = 250) -> list[str]:
        """Greedy captions of (n, side, side, 3) uint8 photographs."""
        self.plain.refresh()
        said, side = [], self.tower.config.image_size
        with in_mode(self.model, training=False):
            for part in photographs.split(batch_size):
                with self.autocast():
                    visual = self.visual(crop(part.to(self.device), side, PLAIN, None))
                    said += decode(self.tokenizer, self.decoder(visual)[:, 0])
        return said


def learn_captions(
    captioner: Captioner,
    plan: CaptionPlan,
    run: Run,
    *,
    distiller: Distiller | None = None,
    report: Callable[[Run], None] | None = None,
    report_every: int = 50,
) -> None:
    """Minimise the cross-entropy of human captions until the run is over.

    `run` must have the captioner's `trainables` (and tower and heads, where they learn) among its
    parts; a stopped run then goes on as if it had not been.
    """
    optimizer = _optimizer(captioner, plan, distiller)
    run.attach("optimizer", optimizer)
    means = Means(run, ("caption_loss", "distil_loss"), every=report_every, report=report)
    with in_mode(captioner.model, training=True):
        while not run.halted:
            generator = run.generator(captioner.device, plan.random_state)
            _set_rates(optimizer, run, plan)
            loss = _caption_loss(captioner, plan, run.step, generator)
            loss.backward()
            held = torch.zeros_like(loss)
            if distiller is not None and plan.distil_size:
                held, _ = distiller.loss(plan.distil_size, generator)
                (plan.distil_weight * held).backward()
            descend(optimizer)
            run.advance()
            means.add(loss, held)
    run.checkpoint()


def learn_from_scores(
    captioner: Captioner,
    plan: CaptionPlan,
    run: Run,
    *,
    workers: int = 8,
    report: Callable[[Run], None] | None = None,
    report_every: int = 20,
) -> None:
    """Raise the CIDEr of sampled captions by policy gradient until the run is over.

    CIDEr alone favours short captions, so a sample shorter than its references loses by BLEU's
    brevity penalty.
    """
    optimizer = _optimizer(captioner, plan, None)
    run.attach("optimizer", optimizer)
    means = Means(run, ("reward",), every=report_every, report=report)
    # no drop-out in adapters: samples and gradient are of one policy
    evaluating = in_mode(captioner.model, training=False)
    with evaluating, Rewards(captioner.captions, captioner.tokenizer, workers=workers) as rewards:
        while not run.halted:
            generator = run.generator(captioner.device, plan.random_state)
            _set_rates(optimizer, run, plan)
            loss, reward = _policy_loss(captioner, plan, run.step, generator, rewards)
            loss.backward()
            descend(optimizer)
            run.advance()
            means.add(reward)
    run.checkpoint()


def _caption_loss(
    captioner: Captioner, plan: CaptionPlan, step: int, generator: torch.Generator
) -> torch.Tensor:
    """Cross-entropy of the human captions of a step's photographs."""
    index = captioner.order(step, plan)
    shuffled = torch.Generator().manual_seed(step)
    chosen = [_shuffle(captioner.ids[i], shuffled) for i in index.tolist()]
    packed = pack(chosen, room=plan.room).to(captioner.device)
    keep = captioner.keep(len(index), plan.drop, plan.random_state * 7919 + step)
    with captioner.autocast():
        views = captioner.views(index, plan.augmentation, generator)
        visual = captioner.visual(views, learn_tower=plan.tower_rate > 0)
        return packed_loss(
            captioner.model, visual, packed, captioner.prompt, keep=keep,
            smoothing=plan.smoothing, layers=captioner.layers,
        )  # fmt: skip


def _policy_loss(
    captioner: Captioner,
    plan: CaptionPlan,
    step: int,
    generator: torch.Generator,
    rewards: Rewards,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of samples of a step's photographs, weighted by advantage; their mean reward."""
    index = captioner.order(step, plan)
    keep = captioner.keep(len(index), plan.drop, plan.random_state * 7919 + step)
    with captioner.autocast():
        with torch.no_grad():
            captioner.plain.refresh()
            views = captioner.views(index, plan.augmentation, generator)
            said = captioner.decoder(
                captioner.visual(views), captions=plan.samples, sample=True,
                generator=generator, keep=keep,
            )  # fmt: skip
        ids, scores = rewards(index.tolist(), said)
        advantage = (scores - scores.mean(1, keepdims=True)) * (plan.samples / (plan.samples - 1))
        room = max(sum(map(len, each)) for each in ids)
        packed = pack(ids, room=-(-room // 32) * 32, weights=advantage.tolist())
        loss = packed_loss(
            captioner.model, captioner.visual(views), packed.to(captioner.device),
            captioner.prompt, keep=keep, layers=captioner.layers,
        )  # fmt: skip
    return loss, torch.tensor(scores.mean())


def _shuffle(captions: list[list[int]], generator: torch.Generator) -> list[list[int]]:
    order = torch.randperm(len(captions), generator=generator).tolist()
    return [captions[i] for i in order]


def _optimizer(captioner, plan, distiller) -> torch.optim.Optimizer:
    groups = [{"params": captioner.trainables.parameters(), "part": 1.0}]
    if plan.tower_rate > 0:
        used = captioner.tower.encoder.layers[: captioner.depth]
        learning = [
            *captioner.tower.embeddings.parameters(),
            *captioner.tower.pre_layrnorm.parameters(),
            *used.parameters(),
        ]
        if distiller is not None:
            learning += list(distiller.heads.parameters())
        groups.append({"params": [p.requires_grad_() for p in learning], "part": plan.tower_rate})
    return torch.optim.AdamW(
        groups,
        lr=plan.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=plan.weight_decay,
        fused=captioner.device.type == "cuda",
    )


def _set_rates(optimizer: torch.optim.Optimizer, run: Run, plan: CaptionPlan) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["part"] * run.rate(plan.learning_rate, warmup=plan.warmup)
