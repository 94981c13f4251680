"""What lmms-eval makes of `--model entropy_prune`: a class that reads messages, one for text."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from . import options
from .generation import Decoding, decoding
from .requests import Question, Reader, batches, from_messages, from_text, with_continuation
from .responses import Responses, response
from .running import Answer, Measured, Runner, Score


class _EntropyPrune(lmms):
    """A vision-language model whose visual tokens are pruned.

    pretrained: a hub id, or a folder with a model and its processor. method: a pruning method, or
        `none`. What is not named here is an option of the method, such as keep and layer.
    batch_size: questions answered at once, padded on the left. max_batch_size: not used.
    device: where the model runs, by default the process's GPU, or the CPU. device_map: accelerate's
        placement of a large model, such as `auto`, in one process.
    dtype, attn_implementation, revision: of `from_pretrained`. processor: its options, such as
        `{"max_pixels": 1003520}`. chat_template: a file that holds one, where the model has none.
    system_prompt: a text, or a file that holds one.

    Raises `ValueError` for a method, an option or a value that there is not, `TypeError` for a
    model whose visual tokens cannot be pruned.
    """

    reader: Reader

    def __init__(
        self,
        pretrained: str,
        method: str = "entropy",
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        revision: str | None = None,
        processor: str | dict | None = None,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        **method_options: Any,
    ) -> None:
        super().__init__()
        pruner = options.pruner(method, method_options, _arguments())
        self.batch_size = _whole(batch_size)
        self.system_prompt = self._resolve_system_prompt(system_prompt or "")
        self.accelerator = Accelerator()
        self._rank, self._world_size = (
            self.accelerator.process_index, self.accelerator.num_processes,
        )  # fmt: skip
        own = self.accelerator.device
        if self.world_size > 1:
            _check_places(self.world_size, own, device, device_map)
        made = AutoProcessor.from_pretrained(
            pretrained, revision=revision, **options.mapping("processor", processor)
        )
        if chat_template is not None:
            made.chat_template = Path(chat_template).read_text(encoding="utf-8")
        model = AutoModelForImageTextToText.from_pretrained(
            pretrained, revision=revision, dtype=dtype, device_map=device_map,
            **({"attn_implementation": attn_implementation} if attn_implementation else {}),
        )  # fmt: skip
        if device_map is None:
            alone = device is not None and self.world_size == 1
            model = model.to(torch.device(device) if alone else own)
        self.runner: Runner | None = Runner(model.eval(), made, pruner)
        self._told: set[str] = set()

    # ---- what lmms-eval looks at ----------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.runner.model.device

    @property
    def tokenizer(self) -> Any:
        return self.runner.processor.tokenizer

    @property
    def chat_template(self) -> str:
        """The processor's, which every prompt goes through."""
        return self.runner.processor.chat_template

    def clean(self) -> None:
        """Let go of the model; lmms-eval may need the memory for a judge."""
        self.runner = None
        super().clean()

    # ---- requests -------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance]) -> Sequence[GenerationResult]:
        """Answers, each with its token counts."""

        def answer(batch: list[Question]) -> list[Answer]:
            how = decoding(batch[0].generation)
            self._tell_unknown(how)
            return self.runner.answer(batch, how)

        return self._responses(requests, type(self).reader, answer)

    def loglikelihood(self, requests: list[Instance]) -> Sequence[GenerationResult]:
        """A `Likelihood` a request, with its token counts."""
        return self._responses(requests, with_continuation, self.runner.score)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not there: tasks of several rounds build a prompt out of the answer before."""
        raise NotImplementedError(
            "entropy_prune answers tasks of one round (generate_until, loglikelihood, "
            "multiple_choice); this one has several"
        )

    def _responses(
        self,
        requests: list[Instance],
        reader: Reader,
        run: Callable[[list[Question]], list[Answer] | list[Score]],
    ) -> Responses:
        return Responses(len(requests), self._batches(requests, reader, run))

    def _batches(
        self, requests: list[Instance], reader: Reader, run: Callable
    ) -> Iterator[list[GenerationResult]]:
        questions = (self._question(reader, request) for request in requests)
        done: list[Measured] = []
        seconds = 0.0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="entropy_prune") as bar:
            for batch in batches(questions, self.batch_size):
                results = self._run(run, batch)
                done += [result.measured for result in results]
                seconds += results[0].measured.seconds
                bar.update(len(batch))
                if len(done) == len(requests):  # before the last one is handed over
                    _log(done, seconds)
                yield [response(result) for result in results]

    def _question(self, reader: Reader, request: Instance) -> Question:
        question = reader(request, self.task_dict)
        self._apply_system_prompt(question.messages, self.system_prompt)
        return question

    def _run(self, run: Callable, batch: list[Question]) -> list[Any]:
        try:
            return run(batch)
        except torch.OutOfMemoryError as error:
            error.add_note(
                f"batch_size={self.batch_size} does not fit. With --use_cache the answers before "
                "are kept: run again with a smaller batch, and LMMS_CACHE_RUN_ID naming this run's "
                "folder in the cache's runs/."
            )
            raise

    def _tell_unknown(self, how: Decoding) -> None:
        if new := set(how.unknown) - self._told:
            self._told |= new
            names = ", ".join(sorted(new))
            warnings.warn(f"generate knows no {names}: left out of its arguments", stacklevel=2)


class Chat(_EntropyPrune):
    """For tasks as messages, images where the task puts them."""

    is_simple = False
    reader = staticmethod(from_messages)


class Simple(_EntropyPrune):
    """For tasks as text and images: what `--force_simple` asks for, and likelihoods need."""

    is_simple = True
    reader = staticmethod(from_text)


def _arguments() -> list[str]:
    """Names of what the model itself takes."""
    parameters = inspect.signature(_EntropyPrune.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]


def _whole(batch_size: int | str) -> int:
    try:
        size = int(batch_size)
    except ValueError:
        size = 0
    if size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    return size


def _check_places(
    processes: int, own: torch.device, device: str | None, device_map: str | None
) -> None:
    """Each of several processes has a copy of the model on a device of its own, such as `own`."""
    elsewhere = device is not None and torch.device(device) not in (own, torch.device(own.type))
    for name, place, refused in (
        ("device", device, elsewhere),
        ("device_map", device_map, device_map is not None),
    ):
        if refused:
            raise ValueError(
                f"{name}={place} names one place for the copies of {processes} processes, and this "
                f"one's is {own}: leave it out, or start one process"
            )


def _log(done: list[Measured], seconds: float) -> None:
    """The run's means, among lmms-eval's own figures of throughput."""
    generated = sum(one.generated for one in done)
    means = {
        name: fmean(getattr(one, field) for one in done)
        for name, field in (
            ("visual_tokens", "visual"),
            ("kept_tokens", "kept"),
            ("first_token_seconds", "first_token"),
        )
    }
    log_metrics(
        total_elapsed_time=seconds,
        total_gen_tokens=generated,
        avg_speed=generated / seconds if seconds else 0.0,
        additional_metrics=means | {"total_requests": len(done)},
    )
