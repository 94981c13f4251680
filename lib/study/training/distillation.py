"""Distillation: a CLIP-shaped tower learns what an ImageNet network sees in photographs.

Each patch token learns the teacher's middle features at its place, each square of four tokens the
teacher's last features, the class token their mean, and both of the latter the teacher's classes
(arXiv:2106.05237 for the consistent, long schedule; arXiv:2104.10858 for classes at each place).
Teacher and tower see the same crop of the same mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from ..models import in_mode
from .losses import normalise_images, tower_states
from .photographs import PLAIN, Augmentation, PhotoPool, crop
from .runs import Means, Run, descend
from .teacher import SIDE, Knowledge, Teacher


class Heads(nn.Module):
    """From the tower's width to the teacher's; thrown away after training.

    The teacher's features are standardised by `measure`, so that every channel counts alike.
    """

    def __init__(self, width: int, teacher: Teacher) -> None:
        super().__init__()
        last = teacher.classifier.in_features
        self.norm = nn.LayerNorm(width)
        self.maps = nn.Linear(width, teacher.width)
        self.places = nn.Linear(width, last)
        self.pooled = nn.Linear(width, last)
        for name, size in (("maps", teacher.width), ("places", last), ("pooled", last)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def measure(self, seen: list[Knowledge]) -> None:
        """Take mean and deviation of each channel from a few batches."""
        for name in Knowledge._fields:
            values = torch.cat([getattr(each, name).flatten(0, -2).float() for each in seen])
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_std").copy_(values.std(0).clamp(min=1e-3))

    def standard(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """A feature of the teacher as the heads predict it."""
        return (values.float() - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")

    def original(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `standard`."""
        return values.float() * getattr(self, f"{name}_std") + getattr(self, f"{name}_mean")

    def forward(self, states: torch.Tensor) -> Knowledge:
        """(B, 1 + 256, D) states to what they say of the teacher's features, standardised."""
        states = self.norm(states)
        patches = states[:, 1:]
        grid = round(patches.shape[1] ** 0.5)
        squares = F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (grid, grid)), 2)
        return Knowledge(
            self.maps(patches),
            self.places(squares.flatten(2).transpose(1, 2)),
            self.pooled(states[:, 0]),
        )


@dataclass(frozen=True)
class DistillWeights:
    """How much each part of the loss counts."""

    maps: float = 0.5
    places: float = 1.0
    pooled: float = 1.0
    classes: float = 1.0
    place_classes: float = 0.5


def distillation_loss(
    heads: Heads,
    states: torch.Tensor,
    known: Knowledge,
    classifier: nn.Linear,
    weights: DistillWeights,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and how often tower and teacher name the same class (of whole images)."""
    guess = heads(states)
    loss = states.new_zeros((), dtype=torch.float32)
    for name in Knowledge._fields:
        target = heads.standard(name, getattr(known, name))
        loss = loss + getattr(weights, name) * F.smooth_l1_loss(
            getattr(guess, name).float(), target
        )
    kernel, bias = classifier.weight.float(), classifier.bias.float()
    agreed = None
    for name, weight in (("pooled", weights.classes), ("places", weights.place_classes)):
        mine = F.linear(heads.original(name, getattr(guess, name)), kernel, bias)
        theirs = F.linear(getattr(known, name).float(), kernel, bias)
        divergence = F.kl_div(
            mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True
        )
        loss = loss + weight * divergence.sum(-1).mean()
        if agreed is None:
            agreed = (mine.argmax(-1) == theirs.argmax(-1)).float().mean()
    return loss, agreed


class Distiller:
    """One step of distillation: a batch of photographs to a loss with a graph.

    Parameters
    ----------
    pool : where the photographs come from.
    augmentation : how they are varied.
    """

    def __init__(
        self,
        tower: CLIPVisionModel,
        depth: int,
        heads: Heads,
        teacher: Teacher,
        pool: PhotoPool,
        augmentation: Augmentation,
        *,
        weights: DistillWeights = DistillWeights(),
        compile: bool = False,
    ) -> None:
        self.tower, self.depth, self.heads, self.teacher = tower, depth, heads, teacher
        self.pool, self.augmentation, self.weights = pool, augmentation, weights
        self._teach, self._learn = teacher, self._student
        if compile:
            self._teach = torch.compile(teacher)
            self._learn = torch.compile(self._student)

    def _student(self, images: torch.Tensor, known: Knowledge):
        states = tower_states(self.tower, self.pixels(images), self.depth)
        return distillation_loss(self.heads, states, known, self.teacher.classifier, self.weights)

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The teacher's squares as the tower sees them."""
        side = self.tower.config.image_size
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=False)
        return normalise_images(images)

    def measure(self, size: int, generator: torch.Generator, *, batches: int = 4) -> None:
        """Standardise the teacher's features by a few batches."""
        drawn = [self.pool.draw(size, SIDE, self.augmentation, generator) for _ in range(batches)]
        self.heads.measure([self.teacher(images) for images in drawn])

    def loss(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a fresh batch: the loss and the agreement with the teacher's top class."""
        images = self.pool.draw(size, SIDE, self.augmentation, generator)
        return self.loss_of(images)

    def loss_of(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of given squares (B, 3, 256, 256) in [0, 1]."""
        return self._compare(images, self._teach, self._learn)

    def _compare(self, images: torch.Tensor, teach: Callable, learn: Callable):
        known = teach(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            return learn(images, known)

    @torch.no_grad()
    def agreement(self, photographs: torch.Tensor, *, batch_size: int = 250) -> float:
        """How often tower and teacher name the same class of whole photographs, (n, H, W, 3)."""
        hits = 0.0
        for part in photographs.split(batch_size):
            squares = crop(part, SIDE, PLAIN, None)
            _, agreed = self._compare(squares, self.teacher, self._student)
            hits += float(agreed) * len(part)
        return hits / len(photographs)


@dataclass(frozen=True)
class DistilPlan:
    """Settings of the distillation."""

    batch_size: int = 1024
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    random_state: int = 0


def distil(
    distiller: Distiller,
    plan: DistilPlan,
    run: Run,
    *,
    report: Callable[[Run], None] | None = None,
    report_every: int = 50,
) -> None:
    """Train tower and heads until the run ends or halts; `run` must have both among its parts."""
    device = next(distiller.heads.parameters()).device
    if run.step == 0:
        distiller.measure(min(256, plan.batch_size), run.generator(device, plan.random_state))
    optimizer = tower_optimizer(distiller, plan)
    run.attach("optimizer", optimizer)
    means = Means(run, ("loss", "agreement"), every=report_every, report=report)
    with in_mode(distiller.tower, training=True):
        while not run.halted:
            for group in optimizer.param_groups:
                group["lr"] = run.rate(plan.learning_rate, warmup=plan.warmup)
            loss, agreed = distiller.loss(plan.batch_size, run.generator(device, plan.random_state))
            loss.backward()
            descend(optimizer)
            run.advance()
            means.add(loss, agreed)
    run.checkpoint()


def tower_optimizer(distiller: Distiller, plan: DistilPlan) -> torch.optim.Optimizer:
    """AdamW; matrices decay, the rest does not. Layers that are never read do not learn."""
    tower = distiller.tower
    named = [
        *tower.embeddings.named_parameters(),
        *tower.pre_layrnorm.named_parameters(),
        *tower.encoder.layers[: distiller.depth].named_parameters(),
        *distiller.heads.named_parameters(),
    ]
    matrices = [w for name, w in named if w.ndim > 1 and "position" not in name]
    rest = [w for name, w in named if not (w.ndim > 1 and "position" not in name)]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    for weight in [*matrices, *rest]:
        weight.requires_grad_()
    fused = matrices[0].is_cuda
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=fused)
