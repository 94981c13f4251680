"""The photograph model's training from end to end: stages, each resumable by itself.

1. `distil`: the tower learns from the teacher, on captioned and other photographs.
2. `joint`: tower (slowly), projector and adapters learn captions; the teacher still holds the
   tower. Then the tower is stored a byte a weight and stays as stored.
3. `captions`: projector and adapters go on, once with all visual tokens (`photos`) and once with
   random ones hidden (`photos-dropout`), from the same start, on the same photographs.
4. `scores`: each of the two is rewarded for the score of captions that it samples.
5. `again`: each goes on from there with human captions, since training by score leaves a model
   sure of its own words.
6. `mix`: each becomes the mean of its weights before and after stage 5; of several means, the one
   that captions other photographs best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoModel, CLIPVisionConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..models.photos import NAMES, VISION, build, photo_processor, publish, quantise, restore
from .adapters import add_adapters
from .captioner import Captioner, CaptionPlan, Drop, learn_captions, learn_from_scores
from .distillation import Distiller, DistilPlan, Heads, distil
from .mixing import mixed, quality
from .photographs import Augmentation, PhotoPool
from .runs import Run
from .teacher import Teacher

#: What a stage's length is counted in.
UNITS = ("seconds", "steps")


@dataclass(frozen=True)
class Recipe:
    """Settings of all stages; the defaults are those of the published weights.

    distil, joint, captions, scores, again : how long each stage takes, in `unit`; 0 leaves out one
        of the last two.
    share : part of a distillation batch that the captioned photographs give.
    shares : of the weights after stage 5, among which stage 6 chooses.
    """

    distil: float = 780
    joint: float = 250
    captions: float = 100
    scores: float = 150
    again: float = 90
    unit: str = "seconds"
    share: float = 0.36
    rank: int = 8
    alpha: int = 32
    adapter_dropout: float = 0.05
    distil_plan: DistilPlan = field(default_factory=DistilPlan)
    joint_plan: CaptionPlan = field(
        default_factory=lambda: CaptionPlan(tower_rate=0.1, distil_size=256)
    )
    caption_plan: CaptionPlan = field(
        default_factory=lambda: CaptionPlan(learning_rate=5e-4, random_state=1)
    )
    score_plan: CaptionPlan = field(
        default_factory=lambda: CaptionPlan(
            learning_rate=4e-4, warmup=10, samples=8, random_state=2
        )
    )
    again_plan: CaptionPlan = field(
        default_factory=lambda: CaptionPlan(learning_rate=5e-4, warmup=20, random_state=3)
    )
    shares: tuple[float, ...] = (0.5,)
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")


class PhotoTraining:
    """All stages over one folder of checkpoints.

    Parameters
    ----------
    language, tokenizer : from `lib.study.models.photos.read_gguf`.
    teacher : what the tower learns from.
    photographs, captions : (n, side, side, 3) uint8 and the human captions of each.
    extra : more photographs, without captions; may be empty.
    folder : checkpoints and logs.
    vision : overrides of the tower's configuration, for smoke runs.
    max_seconds : training stops after this long; the next process goes on. 0 for no limit.
    """

    def __init__(
        self,
        language: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        teacher: Teacher,
        photographs: torch.Tensor,
        captions: Sequence[Sequence[str]],
        extra: torch.Tensor,
        folder: Path,
        *,
        recipe: Recipe = Recipe(),
        vision: Mapping[str, int] | None = None,
        max_seconds: float = 0.0,
        device: str | None = None,
        compile: bool = False,
        report: Callable[[dict], None] | None = None,
        report_every: int = 50,
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.recipe, self.folder, self.report_every = recipe, Path(folder), report_every
        self.max_seconds, self.began = max_seconds, time.perf_counter()
        self._report = report
        self.vision = {**VISION, **(vision or {})}
        photographs = photographs.to(self.device)
        self.distiller = self._distiller(teacher, photographs, extra, compile)
        self.tower, self.heads = self.distiller.tower, self.distiller.heads
        self.captioner = self._captioner(language, tokenizer, photographs, captions)
        self.rows: list[dict] = []
        self.states: dict[str, dict[str, torch.Tensor]] = {}

    def _distiller(
        self, teacher: Teacher, photographs: torch.Tensor, extra: torch.Tensor, compile: bool
    ) -> Distiller:
        """A new tower and its heads before their teacher, which is in half precision on a GPU."""
        recipe, teacher = self.recipe, teacher.to(self.device)
        if self.device == "cuda":
            teacher = teacher.half().to(memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.random_state)
            tower = AutoModel.from_config(CLIPVisionConfig(**self.vision)).eval().to(self.device)
            heads = Heads(self.vision["hidden_size"], teacher).to(self.device)
        shares = [recipe.share, 1 - recipe.share] if len(extra) else [1.0]
        pool = PhotoPool([photographs, extra.to(self.device)][: len(shares)], shares)
        depth = self.vision["num_hidden_layers"] - 1  # LLaVA reads the layer before the last
        return Distiller(tower, depth, heads, teacher, pool, Augmentation(), compile=compile)

    def _captioner(
        self,
        language: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        photographs: torch.Tensor,
        captions: Sequence[Sequence[str]],
    ) -> Captioner:
        """The language model with adapters behind the tower that is distilled."""
        recipe = self.recipe
        model = build(language, tokenizer, vision=self.vision)
        model.model.vision_tower = self.tower
        add_adapters(
            model, rank=recipe.rank, alpha=recipe.alpha, dropout=recipe.adapter_dropout,
            random_state=recipe.random_state,
        )  # fmt: skip
        processor = photo_processor(tokenizer, image_size=self.vision["image_size"])
        return Captioner(
            model.to(self.device), processor, photographs, captions,
            longest=recipe.joint_plan.longest,
        )  # fmt: skip

    def distil(self) -> Run:
        """Stage 1."""
        run = self._run("distil", self.recipe.distil, tower=self.tower, heads=self.heads)
        distil(self.distiller, self.recipe.distil_plan, run, **self._reports())
        return self._end(run)

    def joint(self) -> Run:
        """Stage 2; at its end the tower is rounded to what is stored."""
        parts = {"tower": self.tower, "heads": self.heads, "learning": self.captioner.trainables}
        run = self._run("joint", self.recipe.joint, **parts)
        learn_captions(
            self.captioner, self.recipe.joint_plan, run, distiller=self.distiller, **self._reports()
        )
        self.tower.requires_grad_(False)
        if run.over:
            self.tower.load_state_dict(restore(quantise(self.tower.state_dict())), strict=False)
            self.states["joint"] = self.captioner.trainables.state_dict()
        return self._end(run)

    def captions(self, name: str) -> Run:
        """Stage 3 of one checkpoint, from the end of stage 2."""
        self.captioner.trainables.load_state_dict(self.states["joint"])
        plan = replace(self.recipe.caption_plan, drop=self._drop(name))
        run = self._run(name, self.recipe.captions, learning=self.captioner.trainables)
        learn_captions(self.captioner, plan, run, **self._reports())
        if run.over:
            self.states[name] = self.captioner.trainables.state_dict()
        return self._end(run)

    def scores(self, name: str, *, workers: int = 8) -> Run | None:
        """Stage 4 of one checkpoint, from the end of its stage 3; None where it is left out."""
        if not self.recipe.scores:
            return None
        self.captioner.trainables.load_state_dict(self.states[name])
        plan = replace(self.recipe.score_plan, drop=self._drop(name))
        parts = {"learning": self.captioner.trainables}
        run = self._run(f"{name}-scores", self.recipe.scores, **parts)
        learn_from_scores(self.captioner, plan, run, workers=workers, **self._reports())
        if run.over:
            self.states[name] = self.captioner.trainables.state_dict()
        return self._end(run)

    def again(self, name: str) -> Run | None:
        """Stage 5 of one checkpoint, from the end of its stage 4; None where it is left out."""
        if not self.recipe.again:
            return None
        self.captioner.trainables.load_state_dict(self.states[name])
        plan = replace(self.recipe.again_plan, drop=self._drop(name))
        run = self._run(f"{name}-again", self.recipe.again, learning=self.captioner.trainables)
        learn_captions(self.captioner, plan, run, **self._reports())
        if run.over:
            self.states[f"{name}-before"] = self.states[name]
            self.states[name] = self.captioner.trainables.state_dict()
        return self._end(run)

    def mix(
        self, name: str, photographs: torch.Tensor, references: Sequence[Sequence[str]]
    ) -> list[dict]:
        """Stage 6 of one checkpoint, by CIDEr + BLEU-4 of weights as stored; a row a share.

        photographs, references : held out, (n, side, side, 3) uint8 and their human captions.
        """
        if f"{name}-before" not in self.states:
            return []
        before, after = self.states.pop(f"{name}-before"), self.states[name]
        rows, best = [], float("-inf")
        for share in self.recipe.shares:
            state = mixed(before, after, share)
            self.captioner.trainables.load_state_dict(restore(quantise(state)))
            found = quality(self.captioner.greedy(photographs), references)
            rows.append({"stage": f"{name}-mix", "share": share, **found})
            if (total := found["CIDEr"] + found["BLEU-4"]) > best:
                best, self.states[name] = total, state
        return rows

    def all(self, *, workers: int = 8) -> bool:
        """Every stage that is not over yet, in order; False if time ran out in between."""
        stages = [self.distil, self.joint]
        for name in NAMES:
            stages += [
                lambda name=name: self.captions(name),
                lambda name=name: self.scores(name, workers=workers),
                lambda name=name: self.again(name),
            ]
        for stage in stages:
            run = stage()
            if run is not None and not run.over:
                return False
        return True

    def publish(self, folder: Path) -> None:
        """Write `tower.safetensors`, a file a checkpoint, and their checksums."""
        facts = {"rank": self.recipe.rank, "alpha": self.recipe.alpha}
        sizes = {key: value for key, value in self.vision.items() if isinstance(value, int)}
        states = {name: self.states[name] for name in NAMES}
        publish(folder, self.tower.state_dict(), states, vision=sizes, **facts)

    def _drop(self, name: str) -> Drop | None:
        return Drop() if name == "photos-dropout" else None

    def _reports(self) -> dict:
        return {"report": self._tell, "report_every": self.report_every}

    def _tell(self, run: Run) -> None:
        if self._report is not None:
            self._report(run.rows[-1])

    def _run(self, name: str, length: float, **parts) -> Run:
        used = time.perf_counter() - self.began
        return Run(
            name, self.folder, parts, {"recipe": repr(asdict(self.recipe))},
            limit=max(1e-9, self.max_seconds - used) if self.max_seconds else 0.0,
            **{self.recipe.unit: length},
        )  # fmt: skip

    def _end(self, run: Run) -> Run:
        self.rows += run.rows
        return run
