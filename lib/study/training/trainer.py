"""Training of the embedded model: scenes drawn while it learns, visual tokens dropped at random.

Three stages follow LLaVA's recipe in small.

1. The vision tower learns alone to name what each patch shows (an auxiliary linear head, thrown
   away at the end). It stands in for the pre-training that CLIP brings to LLaVA.
2. Tower, projector and language model learn together from captions; the patch head stays on.
3. The tower is frozen, as LLaVA's is; projector and language model go on with *random visual-token
   drop-out*: each image keeps a share of its tokens drawn uniformly from [0.1, 1] (some images
   keep all), the kept ones chosen uniformly at random. The others are removed before the language
   model; positions stay as they were. That is random pruning's own distribution.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from ..data.scenes.pool import ScenePool
from ..files import write_atomically
from .losses import (
    HEADS,
    caption_loss,
    kept_counts,
    normalise,
    patch_loss,
    prompt_ids,
    random_keep,
    visual_features,
)
from .runs import refuse_others


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


def _features(model: LlavaForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    return visual_features(model, normalise(images))


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
            self.head = nn.Linear(model.config.vision_config.hidden_size, sum(HEADS))
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
        saved = {
            "step": self.step,
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log": self.log,
        }
        write_atomically(path, lambda file: torch.save(saved, file))
        return path

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            (self.folder / "log.jsonl").unlink(missing_ok=True)
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        refuse_others(path, saved["config"], asdict(self.config))
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
