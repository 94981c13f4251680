"""The loop over the batches: every method that lacks a batch captions it; `caption` and
`caption_methods` are its two doors."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..models import PROMPT, full_prompt, in_mode
from ..records import RecordFolder, environment
from . import ranks
from .batch import Captioner
from .checks import check_files, checked_ids, checked_slugs, records_folder
from .decoder import Decoder, check_repeatable
from .listening import Listener
from .loader import Loader
from .parameters import manifest_parameters
from .record import Batch, ExampleLike, Record
from .task import Task
from .throughput import Throughput
from .vision import SharedVision

UNPRUNED = "unpruned"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for every batch of a run; `caption` says what each means."""

    prompt: str = PROMPT
    parameters: Mapping[str, Any] | None = None
    batch_size: int = 16
    max_new_tokens: int = 64
    kept_indices: bool = False
    token_ids: bool = False
    workers: int | None = None
    loader: Loader | None = None
    listener: Listener | None = None
    progress: bool = True
    limit_seconds: float | None = None
    rank: int | None = None
    world_size: int | None = None
    decoder: Decoder | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.decoder is not None:
            check_repeatable(self.decoder)
            if self.listener is not None:
                raise ValueError("listener needs the logits of generate: leave decoder out")
            if self.loader is not None and self.loader.fill != self.batch_size:
                raise ValueError(
                    f"with a decoder the loader must fill its batches: fill={self.batch_size}, "
                    f"got {self.loader.fill}"
                )


def caption(
    model: Any,
    processor: Any,
    examples: Sequence[ExampleLike],
    *,
    pruner: Any = None,
    records: str | Path | None = None,
    vision: SharedVision | None = None,
    **options: Any,
) -> list[Record]:
    """Caption images greedily, in batches; one record an image, in the order of the examples.

    Parameters
    ----------
    model, processor : a LLaVA-like model and its processor, as `lib.study.models.load` gives them.
    examples : images with `image_id`, `path` and `references` (`lib.study.data.coco.Example`).
    pruner : a method of `lib.pruning`, or None for the unpruned model. Its `image_keys`, if it has
        them, are set to the image ids of each batch, so random choices go with the image.
    records : results folder for `records.jsonl` and `manifest.json`; None keeps records in memory.
        Images recorded there are not captioned again.
    vision : memo of vision features to use; ignored for a pruner whose `uses_own_vision` is true.
    prompt : the question, put into the model's chat template; a text that already contains the
        image placeholder is taken as it is.
    parameters : further entries for the manifest: model name and revision, data set, seeds.
    batch_size : images a batch, 16 by default. Changes a caption by rounding only, so it is noted
        in the manifest but does not forbid to continue.
    max_new_tokens : upper bound of the caption's length in tokens, 64 by default.
    kept_indices : store the indices of the kept visual tokens, too.
    token_ids : store the ids of the generated tokens, too, up to the end token.
    workers : threads that decode and prepare images ahead of time; default up to 4.
    loader : a `Loader` that has begun already; `workers` is then its own.
    listener : is called with every batch's prompts as a method left them (`Listener`).
    progress : show a progress bar (on rank 0).
    limit_seconds : stop before the next batch after so many seconds, with a warning; call again to
        continue.
    decoder : a `lib.decoding.StaticDecoder` with capture_prefill="at once", to decode with instead
        of `generate`. All batches are filled up to `batch_size`, so that every image is computed in
        one shape; the manifest names the decoder, and with each run whether its prefills were
        captured or why not. Captions may differ from those of `generate` by rounding.
    rank, world_size : this process's share; by default those of torch.distributed if initialised,
        else of the launcher's environment (RANK, WORLD_SIZE), else 0 of 1.

    Returns
    -------
    The records on disk (or in memory) of the given examples. With several processes, those of all
    ranks when torch.distributed is initialised, else those recorded so far.

    Raises
    ------
    ImageError : an image is missing or damaged, or an example has no references. Everything
        recorded before stays.
    lib.study.records.ManifestMismatch : the folder holds records of other settings.
    ValueError : no examples, repeated image ids, or an option out of range.
    """
    settings = Settings(**options)
    if settings.decoder is not None and vision is not None:
        raise ValueError("a captured prefill holds the vision tower: leave vision out with decoder")
    run = _Run(model, processor, examples, vision, settings)
    return run({"": pruner}, {"": records})[""]


def caption_methods(
    model: Any,
    processor: Any,
    examples: Sequence[ExampleLike],
    pruners: Mapping[str, Any],
    results_dir: str | Path | None,
    *,
    share_vision: bool = True,
    **options: Any,
) -> dict[str, list[Record]]:
    """Caption the same images with several methods, batch by batch.

    Images are decoded once and, with `share_vision`, encoded once for all methods that leave the
    vision tower alone; the captions are those of separate `caption` calls. Each method has its own
    resumable folder `<results_dir>/<slug>` (`results_dir` None: in memory). With shared vision the
    `seconds` of the methods do not compare: the first one pays for the tower. Latency is measured
    by `lib.study.cost`. With a `decoder` nothing is shared, and one method follows the other.

    Parameters
    ----------
    pruners : `{slug: pruner or None}`; slugs are plain folder names.

    All other parameters, and what is raised: see `caption`.
    """
    checked_slugs(pruners)
    folders = {s: None if results_dir is None else Path(results_dir) / s for s in pruners}
    settings = Settings(**options)
    shared = share_vision and len(pruners) > 1 and settings.decoder is None
    vision = SharedVision(model) if shared else None
    return _Run(model, processor, examples, vision, settings)(pruners, folders)


class _Run:
    """One call: what is constant, and the steps from the first check to the merged records."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        examples: Sequence[ExampleLike],
        vision: SharedVision | None,
        settings: Settings,
    ) -> None:
        self.started = time.monotonic()
        self.model, self.processor, self.examples, self.vision = model, processor, examples, vision
        self.settings = settings
        self.order = checked_ids(examples)
        self.rank, self.world_size = ranks.place(settings.rank, settings.world_size)
        self.prompt = full_prompt(processor, settings.prompt)
        self.batches = cut(examples, settings.batch_size)
        self.pace, self.worked = Throughput(), set[str]()

    def __call__(
        self, pruners: Mapping[str, Any], folders: Mapping[str, str | Path | None]
    ) -> dict[str, list[Record]]:
        with ExitStack() as stack:
            tasks = self._tasks(pruners, folders, stack)
            pending = [b for b in self.batches if any(task.missing(b) for task in tasks)]
            mine = ranks.share(pending, self.batches, self.rank, self.world_size)
            # recorded images are not needed any more
            check_files(e for b in mine for e in b if any(task.missing(b) for task in tasks))
            self._caption(tasks, mine, stack)
            return self._finish(tasks)

    def _tasks(
        self,
        pruners: Mapping[str, Any],
        folders: Mapping[str, str | Path | None],
        stack: ExitStack,
    ) -> list[Task]:
        device, settings = self.model.device, self.settings
        run = environment(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            batch_size=settings.batch_size,
            processes=self.world_size,
        )
        shared: dict[str, Any] = {}
        if any(folder is not None for folder in folders.values()):
            shared = manifest_parameters(
                self.model,
                self.prompt,
                settings.max_new_tokens,
                self.examples,
                settings.parameters,
                kept_indices=settings.kept_indices,
                token_ids=settings.token_ids,
                decoder=settings.decoder and settings.decoder.options(),
            )
        tasks = []
        for slug, pruner in pruners.items():
            store = None
            if (folder := folders[slug]) is not None:
                method = pruner.options() if pruner is not None else {"method": UNPRUNED}
                parameters = {"method": method, **shared}
                place = {"rank": self.rank, "world_size": self.world_size}
                noted = run | self._noted(slug, pruner)
                store = RecordFolder(records_folder(folder), parameters, run=noted, **place)
                stack.callback(store.close)
            tasks.append(Task(slug, pruner, store))
        return tasks

    def _noted(self, slug: str, pruner: Any) -> dict[str, str]:
        """How a decoder reads the prompts of a method, for its manifest and for people."""
        if (decoder := self.settings.decoder) is None:
            return {}
        if (why := decoder.refusal(pruner)) is None:
            return {"prefill": "captured"}
        if self.settings.progress and self.rank == 0:
            name = slug or (UNPRUNED if pruner is None else pruner.options()["method"])
            tqdm.write(f"{name}: prefills run plainly, since {why}", file=sys.stderr)
        return {"prefill": f"plain: {why}"}

    def _caption(self, tasks: Sequence[Task], mine: Sequence[Batch], stack: ExitStack) -> None:
        model, settings = self.model, self.settings
        fill = 0 if settings.decoder is None else settings.batch_size
        loader = settings.loader or stack.enter_context(
            Loader(self.processor, self.prompt, model.device, workers=settings.workers, fill=fill)
        )
        captioner = Captioner(
            model=model,
            processor=self.processor,
            max_new_tokens=settings.max_new_tokens,
            vision=self.vision,
            kept_indices=settings.kept_indices,
            token_ids=settings.token_ids,
            decoder=settings.decoder,
        )
        bar = stack.enter_context(self._bar(tasks, mine))
        stack.enter_context(in_mode(model, training=False))
        if settings.decoder is None:
            self._batches(tasks, mine, loader, captioner, bar)
            return
        for task in tasks:  # what is captured is one method's
            wanted = [batch for batch in mine if task.missing(batch)]
            try:
                if not self._batches([task], wanted, loader, captioner, bar):
                    return
            finally:
                settings.decoder.clear()

    def _batches(
        self,
        tasks: Sequence[Task],
        mine: Sequence[Batch],
        loader: Loader,
        captioner: Captioner,
        bar: tqdm,
    ) -> bool:
        """Caption the batches with these methods; False if the time was up."""
        settings = self.settings
        for batch, inputs in self.pace.watch(loader(mine)):
            if self._out_of_time(tasks):
                return False
            for task in tasks:
                if not (missing := task.missing(batch)):
                    continue
                # A batch torn by a kill is computed whole again, so its numbers are the same.
                hear = settings.listener and partial(settings.listener, task.slug, batch)
                made = captioner(batch, inputs, task.pruner, hear)
                task.append(record for record in made if record["image_id"] in missing)
                self.worked.add(task.slug)
                self.pace.captions += len(made)
                bar.update(len(missing))
            if self.vision is not None and len(tasks) > 1:
                self.vision.clear()
        return True

    def _bar(self, tasks: Sequence[Task], mine: Sequence[Batch]) -> tqdm:
        total = sum(len(batch) for batch in mine) * len(tasks)
        missing = sum(len(task.missing(batch)) for task in tasks for batch in mine)
        hidden = not self.settings.progress or self.rank != 0 or not mine
        return tqdm(
            total=total, initial=total - missing, unit="image", desc="captions", disable=hidden
        )

    def _out_of_time(self, tasks: Sequence[Task]) -> bool:
        limit = self.settings.limit_seconds
        if limit is None or time.monotonic() - self.started <= limit:
            return False
        left = sum(len(task.missing(self.examples)) for task in tasks)
        warnings.warn(
            f"stopped after limit_seconds={limit}: {left} captions are missing; "
            "call again with the same settings to continue",
            stacklevel=6,
        )
        return True

    def _finish(self, tasks: Sequence[Task]) -> dict[str, list[Record]]:
        results = {task.slug: task.finish(self.order) for task in tasks}
        paces: dict[int, tuple[Throughput, set[str]]] = {self.rank: (self.pace, self.worked)}
        if self.world_size > 1 and ranks.together():
            ranks.wait_for_all()
            results = {task.slug: task.finish(self.order) for task in tasks}
            gathered = ranks.gather(paces[self.rank], self.world_size)
            paces = dict(enumerate(gathered)) if self.rank == 0 else {}
        note_throughput(tasks, paces, say=self.settings.progress and self.rank == 0)
        return results


def cut(examples: Sequence[ExampleLike], batch_size: int) -> list[Batch]:
    """The batches: neither an interruption nor the number of processes changes them."""
    return [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]


def note_throughput(
    tasks: Sequence[Task], paces: Mapping[int, tuple[Throughput, set[str]]], *, say: bool
) -> None:
    """Note the pace of these ranks in the manifests of the methods they captioned with."""
    for rank, (pace, worked) in paces.items():
        for task in tasks:
            if task.store is not None and task.slug in worked:
                task.store.manifest.note("throughput", f"rank {rank}", pace.entry())
        if say and pace.captions and len(paces) > 1:
            tqdm.write(f"rank {rank}: {pace}", file=sys.stderr)
    whole = Throughput.together([pace for pace, _ in paces.values()]) if say else Throughput()
    if whole.captions:
        tqdm.write(f"{whole}", file=sys.stderr)
