"""Images to captions: batches, resumable records, one vision pass for several methods, ranks.

Greedy decoding throughout. Every image leaves one record (see `Record`), appended batch by batch
to a results folder (`lib.study.records`), so a killed run continues where it stopped and ends with
the
records of an undisturbed one. Batches are cut from the list of examples once, by `batch_size`
alone: neither an interruption nor the number of processes changes what is computed together.

Several processes share the work when launched together; each appends its own shard:

    accelerate launch --multi_gpu --num_processes 4 -m lib.study.captioning --method fastv --keep
    0.5 ...

On one GPU or CPU, `python -m lib.study.captioning ...` does the same alone. (`--multi_gpu` is what
accelerate calls torchrun and works on CPUs, too; its own `--cpu` would start a single process.)

Batches are not sorted by length: all prompts are equal, and greedy captions end at similar lengths.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import sys
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor
from torch import distributed as dist
from tqdm.auto import tqdm

from ..records import RECORDS, RecordFolder, digest, environment
from .images import ImageError, load_image

__all__ = [
    "ImageError",
    "Record",
    "SharedVision",
    "Throughput",
    "caption",
    "caption_methods",
    "load_image",
    "own_gpu",
    "repeatable_attention",
    "until_end",
    "weights_digest",
]

PROMPT = "Describe the image briefly."
UNPRUNED = "unpruned"


class Record(TypedDict):
    """What one image leaves behind.

    `kept` of the `visual_tokens` visual tokens reached the end of the language model; `seconds` is
    the batch's wall time divided by its images, data preparation not included.
    """

    image_id: int
    caption: str
    kept: int
    visual_tokens: int
    kept_indices: NotRequired[list[int]]
    token_ids: NotRequired[list[int]]
    seconds: float


class ExampleLike(Protocol):
    """An image on disk: `lib.study.data.coco.Example`, or anything with these attributes."""

    image_id: int
    path: Path
    references: Sequence[str]


# ---------------------------------------------------------------------------- preparation


class _Loader:
    """Prepares batches in background threads, in order, a few batches ahead.

    Threads suffice: decoding, resizing and tensor work release the interpreter lock, and what a run
    waited all the same is noted with it (`Throughput`). Each thread has its own copy of the
    processor, because fast tokenizers cannot be shared while they pad. For a GPU the batches lie in
    pinned memory.
    """

    def __init__(self, processor: Any, prompt: str, workers: int, device: torch.device) -> None:
        self.processor, self.prompt, self.pin = processor, prompt, device.type == "cuda"
        self.ahead = workers + 1
        # a new thread's device is the first one: pinning there would take a context on it
        own = {"initializer": torch.cuda.set_device, "initargs": (device,)} if self.pin else {}
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="images", **own)
        self.local, self.lock = threading.local(), threading.Lock()

    def prepare(self, examples: Sequence[ExampleLike]) -> dict[str, Tensor]:
        images = [load_image(example.path) for example in examples]
        if not hasattr(self.local, "processor"):
            with self.lock:
                self.local.processor = copy.deepcopy(self.processor)
        inputs = self.local.processor(
            images=images,
            text=[self.prompt] * len(images),
            padding=True,
            padding_side="left",  # so that every row ends where generation starts
            return_tensors="pt",
        )
        return {k: v.pin_memory() if self.pin else v for k, v in inputs.items()}

    def __call__(
        self, batches: Sequence[Sequence[ExampleLike]]
    ) -> Iterator[tuple[Sequence[ExampleLike], dict[str, Tensor]]]:
        waiting: deque[tuple[Sequence[ExampleLike], Future]] = deque()
        todo = iter(batches)
        while True:
            while len(waiting) < self.ahead and (batch := next(todo, None)) is not None:
                waiting.append((batch, self.pool.submit(self.prepare, batch)))
            if not waiting:
                return
            batch, future = waiting.popleft()
            yield batch, future.result()

    def __enter__(self) -> _Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Throughput:
    """How fast a loop captions, and how long it waited for prepared images.

    `captions` counts an image once for each method; `seconds` are those of the loop, model loading
    and checks not included, and `waiting` those of them without a prepared batch to work on.
    """

    captions: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, with the clock running."""
        begin = time.perf_counter()
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            now = time.perf_counter()
            self.waiting += now - before
            self.seconds = now - begin
            if batch is None:
                return
            yield batch
            self.seconds = time.perf_counter() - begin

    def entry(self) -> dict[str, float]:
        """As manifests note it."""
        return {
            "captions": self.captions,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.captions / max(self.seconds, 1e-9), 3),
            "waiting_share": round(self.waiting / max(self.seconds, 1e-9), 4),
        }

    @staticmethod
    def together(ranks: Sequence[Throughput]) -> Throughput:
        """Of several processes that work at once: as long as the slowest, waiting on average."""
        return Throughput(
            sum(rank.captions for rank in ranks),
            max(rank.seconds for rank in ranks),
            sum(rank.waiting for rank in ranks) / len(ranks),
        )

    def __str__(self) -> str:
        entry = self.entry()
        return (
            f"{self.captions} captions in {self.seconds:.1f} s: {entry['images_per_second']:.1f} "
            f"images/s, {entry['waiting_share']:.1%} of the time waiting for prepared images"
        )


# ---------------------------------------------------------------------------- shared vision


class SharedVision:
    """One pass of the vision tower for several methods that caption the same batch.

        vision = SharedVision(model)
        with vision.batch(image_ids):
            model.generate(...)

    Within `batch` the tower's `forward` answers from a memo keyed by the batch's image ids; the
    first call computes all hidden states, so that any selection of layers can be served. Forward
    hooks on the tower itself still run. The `forward` that was there before is restored on leaving,
    whatever happens. A method that changes the tower (ToMe) must not run inside.

    Parameters
    ----------
    model : a LLaVA-like model with `model.model.vision_tower`.
    capacity : batches remembered; the least recently used is forgotten first.

    `computed` and `reused` count the tower's calls.
    """

    def __init__(self, model: Any, *, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.tower = model.model.vision_tower
        self.capacity = capacity
        self.computed = self.reused = 0
        self._memo: OrderedDict[tuple, Any] = OrderedDict()
        self._active = False

    @contextmanager
    def batch(self, image_ids: Sequence[int]) -> Iterator[SharedVision]:
        """Share the tower's output for this batch, one id per image, within the context."""
        if self._active:
            raise RuntimeError("this SharedVision is already in use; leave its context first")
        image_ids = tuple(int(i) for i in image_ids)
        before = vars(self.tower).get("forward")  # set by accelerate when it places weights
        original = self.tower.forward

        def forward(pixel_values: Tensor, **options: Any) -> Any:
            if pixel_values.shape[0] != len(image_ids):
                raise ValueError(
                    f"the vision tower got {pixel_values.shape[0]} images, but the shared batch "
                    f"has {len(image_ids)} ids: share one image per id"
                )
            options["output_hidden_states"] = True
            asked = sorted((name, str(value)) for name, value in options.items())
            key = (image_ids, pixel_values.shape, pixel_values.dtype, *asked)
            if key in self._memo:
                self.reused += 1
            else:
                self._memo[key] = original(pixel_values, **options)
                self.computed += 1
            self._memo.move_to_end(key)
            while len(self._memo) > self.capacity:
                self._memo.popitem(last=False)
            output = self._memo[key]
            # LLaVA writes its projected features into the output, so each caller gets its own
            return type(output)(**output) if isinstance(output, Mapping) else output

        self._active = True
        self.tower.forward = forward
        try:
            yield self
        finally:
            self._active = False
            if before is None:
                del self.tower.forward
            else:
                self.tower.forward = before

    def clear(self) -> None:
        """Forget everything, giving its memory back."""
        self._memo.clear()


# ---------------------------------------------------------------------------- manifests


def weights_digest(model: torch.nn.Module, *, samples: int = 64) -> str:
    """A fingerprint of a model's weights: SHA-256 over a fixed sample of every parameter.

    Names, shapes and up to `samples` evenly spaced values of every parameter and persistent buffer,
    the first and the last among them, enter as float32, so the fingerprint does not depend on the
    device. Cheap for models of any size, and different after any training step.
    """
    entries = []
    for name, tensor in sorted(model.state_dict().items()):
        values: list[float] | None = None
        if not tensor.is_meta and tensor.numel():
            flat = tensor.detach().reshape(-1)
            count, last = min(samples, flat.numel()), flat.numel() - 1
            # whole numbers: float32 would round the last index of 2^24 values and more past the end
            index = torch.arange(count) * last // max(count - 1, 1)
            values = flat[index.to(flat.device)].float().cpu().tolist()
        entries.append([name, list(tensor.shape), repr(values)])
    return digest(entries)


def _parameters(
    model, prompt, max_new_tokens, examples, extra, *, kept_indices=False, token_ids=False
) -> dict[str, Any]:
    """What determines the records, but for the method. Batch size and device change them by
    rounding only and are noted with the run."""
    names = [[example.image_id, Path(example.path).name] for example in examples]
    return {
        "prompt": prompt,
        "decoding": {"strategy": "greedy", "max_new_tokens": max_new_tokens},
        "kept_indices": kept_indices,
        "token_ids": token_ids,
        "model": {
            "class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": weights_digest(model),
        },
        "images": {"count": len(names), "sha256": digest(names)},
        **dict(extra or {}),
    }


# ---------------------------------------------------------------------------- captioning


@contextmanager
def repeatable_attention() -> Iterator[None]:
    """Attention without cuDNN inside the block; the setting found is put back.

    cuDNN's attention of a single query, a decoding step's, gives other roundings from call to call
    on the same inputs (seen with PyTorch 2.11 on an H200, bfloat16, 16 images at once): captions
    would differ between two runs. PyTorch's own kernels repeat themselves, and need no plan built
    for every length of the cache.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def until_end(model: Any, answer: Tensor) -> Tensor:
    """The ids of a generated answer (n,) that come before its first end token."""
    end = torch.as_tensor(model.generation_config.eos_token_id or [], device=answer.device)
    stop = torch.isin(answer, end).nonzero()
    return answer[: int(stop[0])] if len(stop) else answer


@dataclass
class _Task:
    """One method on its way through the images; in memory only when it has no folder."""

    slug: str
    pruner: Any
    store: RecordFolder | None
    memory: dict[int, Record] = field(default_factory=dict)

    @property
    def done(self) -> Mapping[int, Record]:
        return self.memory if self.store is None else self.store.done

    def append(self, records: Sequence[Record]) -> None:
        if self.store is None:
            self.memory.update((record["image_id"], record) for record in records)
        else:
            self.store.append(records)

    def finish(self, order: Sequence[int]) -> list[Record]:
        if self.store is None:
            return [self.memory[i] for i in order if i in self.memory]
        return self.store.finish(order)


def caption(
    model: Any,
    processor: Any,
    examples: Sequence[ExampleLike],
    *,
    pruner: Any = None,
    prompt: str = PROMPT,
    records: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    vision: SharedVision | None = None,
    kept_indices: bool = False,
    token_ids: bool = False,
    workers: int | None = None,
    progress: bool = True,
    limit_seconds: float | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> list[Record]:
    """Caption images greedily, in batches; one record an image, in the order of the examples.

    Parameters
    ----------
    model, processor : a LLaVA-like model and its processor, as `lib.study.models.load` gives them.
    examples : images with `image_id`, `path` and `references` (`lib.study.data.coco.Example`).
    pruner : a method of `lib.pruning`, or None for the unpruned model. Its `image_keys`, if it has
        them, are set to the image ids of each batch, so random choices go with the image.
    prompt : the question, put into the model's chat template; a text that already contains the
        image placeholder is taken as it is.
    records : results folder for `records.jsonl` and `manifest.json`; None keeps records in memory.
        Images recorded there are not captioned again.
    parameters : further entries for the manifest: model name and revision, data set, seeds.
    batch_size : images a batch. Changes a caption by rounding only, so it is noted in the manifest
        but does not forbid to continue.
    max_new_tokens : upper bound of the caption's length in tokens.
    vision : memo of vision features to use; ignored for a pruner whose `uses_own_vision` is true.
    kept_indices : store the indices of the kept visual tokens, too.
    token_ids : store the ids of the generated tokens, too, up to the end token.
    workers : threads that decode and prepare images ahead of time; default up to 4.
    progress : show a progress bar (on rank 0).
    limit_seconds : stop before the next batch after so many seconds, with a warning; call again to
        continue.
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
    run = _run(
        model, processor, examples, {"": pruner}, {"": records}, vision=vision, prompt=prompt,
        parameters=parameters, batch_size=batch_size, max_new_tokens=max_new_tokens,
        details={"kept_indices": kept_indices, "token_ids": token_ids},
        workers=workers, progress=progress, limit_seconds=limit_seconds, rank=rank,
        world_size=world_size,
    )  # fmt: skip
    return run[""]


def caption_methods(
    model: Any,
    processor: Any,
    examples: Sequence[ExampleLike],
    pruners: Mapping[str, Any],
    results_dir: str | Path | None,
    *,
    share_vision: bool = True,
    prompt: str = PROMPT,
    parameters: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    kept_indices: bool = False,
    token_ids: bool = False,
    workers: int | None = None,
    progress: bool = True,
    limit_seconds: float | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> dict[str, list[Record]]:
    """Caption the same images with several methods, batch by batch.

    Images are decoded once and, with `share_vision`, encoded once for all methods that leave the
    vision tower alone; the captions are those of separate `caption` calls. Each method has its own
    resumable folder `<results_dir>/<slug>` (`results_dir` None: in memory). With shared vision the
    `seconds` of the methods do not compare: the first one pays for the tower. Latency is measured
    by `lib.study.cost.efficiency`.

    Parameters
    ----------
    pruners : `{slug: pruner or None}`; slugs are plain folder names.

    All other parameters, and what is raised: see `caption`.
    """
    if not pruners:
        raise ValueError("pruners is empty: name at least one method, such as {'unpruned': None}")
    for slug in pruners:
        if not slug or slug != Path(slug).name or slug.startswith("."):
            raise ValueError(
                f"a slug must be a plain folder name such as 'fastv-0.5', got {slug!r}"
            )
    folders = {s: None if results_dir is None else Path(results_dir) / s for s in pruners}
    return _run(
        model, processor, examples, pruners, folders, prompt=prompt, parameters=parameters,
        vision=SharedVision(model) if share_vision and len(pruners) > 1 else None,
        batch_size=batch_size, max_new_tokens=max_new_tokens,
        details={"kept_indices": kept_indices, "token_ids": token_ids},
        workers=workers, progress=progress, limit_seconds=limit_seconds, rank=rank,
        world_size=world_size,
    )  # fmt: skip


def _run(
    model, processor, examples, pruners, folders, *, vision, prompt, parameters, batch_size,
    max_new_tokens, details, workers, progress, limit_seconds, rank, world_size,
) -> dict[str, list[Record]]:  # fmt: skip
    started = time.monotonic()
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    order = _checked_ids(examples)
    rank, world_size = _place(rank, world_size)
    full_prompt = _full_prompt(processor, prompt)
    device = model.device
    run = environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        batch_size=batch_size,
        processes=world_size,
    )
    settings: dict[str, Any] = {}
    if any(folder is not None for folder in folders.values()):
        settings = _parameters(model, full_prompt, max_new_tokens, examples, parameters, **details)
    with ExitStack() as stack:
        tasks = []
        for slug, pruner in pruners.items():
            store = None
            if folders[slug] is not None:
                method = pruner.options() if pruner is not None else {"method": UNPRUNED}
                store = RecordFolder(
                    _folder(folders[slug]), {"method": method, **settings},
                    run=run, rank=rank, world_size=world_size,
                )  # fmt: skip
                stack.callback(store.close)
            tasks.append(_Task(slug, pruner, store))

        batches = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
        mine = _share([b for b in batches if _pending(tasks, b)], batches, rank, world_size)
        _check_files(tasks, mine)
        total = sum(len(batch) for batch in mine) * len(tasks)
        done = total - sum(len(_missing(task, batch)) for task in tasks for batch in mine)
        bar = tqdm(
            total=total, initial=done, unit="image", desc="captions",
            disable=not progress or rank != 0 or not mine,
        )  # fmt: skip
        stack.enter_context(bar)
        threads = workers or min(4, os.cpu_count() or 1)
        loader = _Loader(processor, full_prompt, threads, device)
        stack.enter_context(loader)
        training = model.training
        model.eval()
        stack.callback(model.train, training)
        pace, worked = Throughput(), set[str]()
        for batch, inputs in pace.watch(loader(mine)):
            if limit_seconds is not None and time.monotonic() - started > limit_seconds:
                left = sum(bool(_missing(task, [e])) for task in tasks for e in examples)
                warnings.warn(
                    f"stopped after limit_seconds={limit_seconds}: {left} captions are missing; "
                    "call again with the same settings to continue",
                    stacklevel=3,
                )
                break
            for task in tasks:
                missing = _missing(task, batch)
                if not missing:
                    continue
                # A batch torn by a kill is computed whole again, so its numbers are the same.
                made = _caption_batch(
                    model, processor, batch, inputs, task.pruner, vision, max_new_tokens,
                    **details,
                )  # fmt: skip
                task.append([record for record in made if record["image_id"] in missing])
                worked.add(task.slug)
                pace.captions += len(made)
                bar.update(len(missing))
            if vision is not None and len(tasks) > 1:
                vision.clear()
        results = {task.slug: task.finish(order) for task in tasks}
        ranks = {rank: (pace, worked)}
        if world_size > 1 and dist.is_available() and dist.is_initialized():
            _wait_for_all()
            results = {task.slug: task.finish(order) for task in tasks}
            gathered: list[Any] = [None] * world_size
            dist.all_gather_object(gathered, ranks[rank])
            ranks = dict(enumerate(gathered)) if rank == 0 else {}
        _note_throughput(tasks, ranks, say=progress and rank == 0)
    return results


def _note_throughput(
    tasks: Sequence[_Task], ranks: Mapping[int, tuple[Throughput, set[str]]], *, say: bool
) -> None:
    """Note the pace of these ranks in the manifests of the methods they captioned with."""
    for rank, (pace, worked) in ranks.items():
        for task in tasks:
            if task.store is not None and task.slug in worked:
                task.store.manifest.note("throughput", f"rank {rank}", pace.entry())
        if say and pace.captions and len(ranks) > 1:
            tqdm.write(f"rank {rank}: {pace}", file=sys.stderr)
    whole = Throughput.together([pace for pace, _ in ranks.values()]) if say else Throughput()
    if whole.captions:
        tqdm.write(f"{whole}", file=sys.stderr)


def _caption_batch(
    model, processor, batch, inputs, pruner, vision, max_new_tokens, *, kept_indices, token_ids
) -> list[Record]:
    """Generate for one prepared batch and write its records."""
    ids = [int(example.image_id) for example in batch]
    shared = vision is not None and not getattr(pruner, "uses_own_vision", False)
    begin = time.perf_counter()
    try:
        with (
            torch.inference_mode(),
            repeatable_attention(),
            vision.batch(ids) if shared else nullcontext(),
            pruner(model) if pruner is not None else nullcontext() as active,
        ):
            if hasattr(active, "image_keys"):
                active.image_keys = torch.tensor(ids, dtype=torch.int64)
            tensors = {
                k: v.to(model.device, model.dtype if v.is_floating_point() else None,
                        non_blocking=True)
                for k, v in inputs.items()
            }  # fmt: skip
            sequences = model.generate(
                **tensors, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
            )
            kept = [t.tolist() for t in active.kept] if active is not None else None
    except torch.OutOfMemoryError as error:
        error.add_note(f"batch_size={len(batch)} does not fit; records so far are kept. "
                       "Call again with a smaller batch_size to continue.")  # fmt: skip
        raise
    prompt_length = inputs["input_ids"].shape[1]
    answers = sequences[:, prompt_length:].cpu()
    texts = processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    seconds = (time.perf_counter() - begin) / len(batch)
    visual = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    if kept is not None and len(kept) != len(batch):
        raise RuntimeError(
            f"{type(pruner).__name__} reported kept tokens of {len(kept)} images, "
            f"the batch has {len(batch)}"
        )
    records: list[Record] = []
    for row, (image_id, text) in enumerate(zip(ids, texts)):
        record: Record = {
            "image_id": image_id,
            "caption": " ".join(text.split()),
            "kept": visual[row] if kept is None else len(kept[row]),
            "visual_tokens": visual[row],
        }
        if kept_indices:
            record["kept_indices"] = list(range(visual[row])) if kept is None else kept[row]
        if token_ids:
            record["token_ids"] = until_end(model, answers[row]).tolist()
        records.append(record | {"seconds": round(seconds, 6)})
    return records


# ---------------------------------------------------------------------------- checks and shares


def _checked_ids(examples: Sequence[ExampleLike]) -> list[int]:
    if not len(examples):
        raise ValueError("examples is empty: there is nothing to caption")
    seen: dict[int, ExampleLike] = {}
    for example in examples:
        name = int(example.image_id)
        if name in seen:
            raise ValueError(
                f"image_id {name} occurs twice, for {seen[name].path} and {example.path}"
            )
        if not len(getattr(example, "references", (None,))):
            raise ImageError(f"image without references: {example.path} (image_id {name})")
        seen[name] = example
    return list(seen)


def _check_files(tasks, batches) -> None:
    """All missing files at once, before any work; recorded images are not needed any more."""
    needed = [e for batch in batches for e in batch if _pending(tasks, batch)]
    missing = [str(e.path) for e in needed if not Path(e.path).is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ImageError(f"image file is missing: {', '.join(missing[:5])}{more}")


def _missing(task: _Task, batch: Sequence[ExampleLike]) -> set[int]:
    return {int(e.image_id) for e in batch} - task.done.keys()


def _pending(tasks: Sequence[_Task], batch: Sequence[ExampleLike]) -> bool:
    return any(_missing(task, batch) for task in tasks)


def _folder(records: str | Path) -> Path:
    """The results folder; the path of its `records.jsonl` is understood, too."""
    records = Path(records)
    if records.name == RECORDS:
        return records.parent
    if records.suffix == ".jsonl":
        raise ValueError(f"records must be a folder (or its {RECORDS}), got {records}")
    return records


def _full_prompt(processor: Any, prompt: str) -> str:
    if processor.image_token in prompt:
        return prompt
    from ..models import format_prompt

    return format_prompt(processor, prompt)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is None:
        if dist.is_available() and dist.is_initialized():
            rank, world_size = dist.get_rank(), dist.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
    return rank, world_size


def own_gpu() -> str | None:
    """The GPU of a launched process (LOCAL_RANK's), made the current one; None without GPUs."""
    if not torch.cuda.is_available():
        return None
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    torch.cuda.set_device(device)
    return device


def _wait_for_all() -> None:
    try:
        dist.barrier()
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this run stopped before it was done. All records are kept: run "
            "the same command again to do what is missing."
        ) from error


def _share(pending: list, batches: list, rank: int, world_size: int) -> list:
    """The batches this rank does: every world_size-th.

    Ranks start at different moments and would see different batches missing, so without a process
    group they count over all batches; with one, rank 0's view is dealt out evenly.
    """
    if world_size == 1:
        return pending
    wanted = {id(batch) for batch in pending}
    numbers = [number for number, batch in enumerate(batches) if id(batch) in wanted]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() == world_size:
        plan = [numbers]
        dist.broadcast_object_list(plan, src=0)
        return [batches[number] for number in plan[0][rank::world_size]]
    return [batches[number] for number in numbers if number % world_size == rank]


# ---------------------------------------------------------------------------- command line


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from ...pruning import available

    parser = argparse.ArgumentParser(
        prog="python -m lib.study.captioning",
        description="Caption a split with one method or several; run it again to continue.",
    )
    add = parser.add_argument
    add("--profile", default="embedded", help="results go to data/results/<profile>")
    add("--results-dir", type=Path, help="another folder for the results")
    add("--model", default="embedded", help="embedded, a hub id, or a local folder")
    add("--revision", help="revision of a hub model")
    add("--dtype", help="float32, float16 or bfloat16; default the model's own")
    add("--data", type=Path, help="JSON in Karpathy's layout; default the generated scenes")
    add("--image-root", type=Path, help="folder of the images; default the JSON's")
    add("--split", default="test")
    add("--limit", type=int, help="seeded subset of so many images")
    add("--random-state", type=int, default=0, help="seed of the subset")
    add("--method", nargs="+", default=[UNPRUNED], choices=[UNPRUNED, *available()])
    add("--keep", type=float, default=0.5, help="share of visual tokens kept")
    add("--prompt", default=PROMPT)
    add("--batch-size", type=int, default=16)
    add("--token-ids", action="store_true", help="record the generated ids, too")
    add("--max-new-tokens", type=int, default=64)
    add("--limit-seconds", type=float)
    add("--cpu", action="store_true", help="stay off GPUs")
    add("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; see `python -m lib.study.captioning --help`."""
    from ... import pruning
    from .. import models, paths
    from ..data import coco

    options = _arguments(argv)
    rank, world_size = _place(None, None)
    device = "cpu" if options.cpu else own_gpu() or "cpu"
    if world_size > 1:
        # gloo: ranks exchange only a list of batch numbers, and it works with and without GPUs
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=1))
    try:
        data = options.data or _draw_scenes(options, rank, world_size)
        examples = coco.read_karpathy(
            data, options.split, image_root=options.image_root, limit=options.limit,
            random_state=options.random_state, check_files=False,
        )  # fmt: skip
        dtype = getattr(torch, options.dtype) if options.dtype else None
        loaded = models.load(options.model, device=device, dtype=dtype, revision=options.revision)
        pruners = {
            name if name == UNPRUNED else f"{name}-{options.keep:g}": None
            if name == UNPRUNED
            else pruning.create(name, keep=options.keep)
            for name in options.method
        }
        begin = time.monotonic()
        results = caption_methods(
            loaded.model, loaded.processor, examples, pruners,
            options.results_dir or paths.results_dir(options.profile),
            prompt=options.prompt, batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens, token_ids=options.token_ids,
            limit_seconds=options.limit_seconds,
            progress=not options.quiet,
            parameters={
                "source": {
                    "model": Path(loaded.name).name if Path(loaded.name).is_dir() else loaded.name,
                    "revision": options.revision,
                    "data": Path(data).name, "split": options.split,
                    "limit": options.limit, "random_state": options.random_state,
                }
            },
        )  # fmt: skip
        if rank == 0:
            for slug, records in results.items():
                kept = sum(r["kept"] for r in records) / sum(r["visual_tokens"] for r in records)
                print(f"{slug}: {len(records)} of {len(examples)} images, {kept:.1%} tokens kept")
            print(f"{time.monotonic() - begin:.1f} s")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _draw_scenes(options: argparse.Namespace, rank: int, world_size: int) -> Path:
    """Draw the generated scenes once, on rank 0, and let the others wait."""
    from ..data import scenes

    if rank == 0 or world_size == 1:
        path = scenes.ensure_scenes(options.split, progress=not options.quiet)
    if world_size > 1:
        dist.barrier()
        path = path if rank == 0 else scenes.ensure_scenes(options.split, progress=False)
    return path
