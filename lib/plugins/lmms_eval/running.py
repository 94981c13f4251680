"""One batch of questions under a pruner: answers, or likelihoods of given ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ...pruning import VisualPruner
from ...pruning.families import Family, resolve
from . import prompts
from .generation import Decoding
from .requests import Question


@dataclass(frozen=True)
class Measured:
    """What one question took.

    prompt: tokens of the prompt, visual tokens unpruned; generated: new tokens; visual: visual
    tokens; kept: those left after pruning. first_token: seconds from the call of `generate`, the
    vision tower included, to the first token of the batch; seconds: to its last.
    """

    prompt: int
    generated: int
    visual: int
    kept: int
    first_token: float
    seconds: float


@dataclass(frozen=True)
class Answer:
    """A text, and what it took."""

    text: str
    measured: Measured


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood of a continuation's tokens, whether greedy decoding would have
    given it, and what it took."""

    loss: float
    greedy: bool
    measured: Measured


class FirstToken(StoppingCriteria):
    """Ends nothing; notes when the first token of a batch was there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.began = device, time.perf_counter()
        self.seconds: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.seconds is None:
            _wait(self.device)
            self.seconds = time.perf_counter() - self.began
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Runner:
    """A model that answers batches of questions under a pruner.

    pruner: None for the unpruned model.

    Raises `TypeError` for a model whose visual tokens cannot be pruned, and `ValueError` for a
    pruner that does not fit the model, as for a layer that it does not have.
    """

    def __init__(self, model: Any, processor: Any, pruner: VisualPruner | None) -> None:
        prompts.prepare(processor)
        self.model, self.processor, self.pruner = model, processor, pruner
        self.family: Family = resolve(model)
        if pruner is not None:
            pruner(model)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """The model's answers to questions of one kind."""
        arguments = dict(decoding.arguments)
        if decoding.stops:
            arguments |= {
                "stop_strings": list(decoding.stops), "tokenizer": self.processor.tokenizer,
            }  # fmt: skip
        given = prompts.inputs(self.processor, questions)
        output, took = self._generate(given, arguments, decoding.beams)
        new = output[:, given["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = new == self.processor.tokenizer.pad_token_id
        lengths = (~ended).sum(1).tolist()
        return [
            Answer(decoding.cut(text), measured)
            for text, measured in zip(texts, self._measure(given, took, lengths))
        ]

    def score(self, questions: Sequence[Question]) -> list[Score]:
        """The likelihoods of the questions' continuations.

        The prompt is pruned as for an answer, then each step of decoding is given its token: what
        stays does not depend on the continuation.
        """
        wanted = prompts.continuations(self.processor, questions)
        given = prompts.inputs(self.processor, questions)
        before, steps = given["input_ids"].shape[1], max(map(len, wanted))

        def token(row: int, ids: Tensor) -> list[int]:
            # a row that is through goes on with its last token, which nobody looks at
            return [wanted[row][min(len(ids) - before, len(wanted[row]) - 1)]]

        arguments = {
            "prefix_allowed_tokens_fn": token, "max_new_tokens": steps, "do_sample": False,
            "num_beams": 1, "return_dict_in_generate": True, "output_logits": True,
        }  # fmt: skip
        output, took = self._generate(given, arguments, 1)
        logits = torch.stack(output.logits, dim=1).float()
        measured = self._measure(given, took, [len(ids) for ids in wanted])
        return [Score(*_likelihood(*row)) for row in zip(logits, wanted, measured)]

    def _generate(self, given: Any, arguments: dict[str, Any], beams: int) -> tuple[Any, _Took]:
        seen = any(name.startswith("pixel_values") for name in given)
        pruner = self.pruner if seen else None
        model, device = self.model, self.model.device
        tensors = given.to(device, model.dtype)
        arguments = {"pad_token_id": self.processor.tokenizer.pad_token_id} | arguments
        with torch.inference_mode(), pruner(model) if pruner else nullcontext() as active:
            _wait(device)
            first = FirstToken(device)
            output = model.generate(
                **tensors, **arguments, stopping_criteria=StoppingCriteriaList([first])
            )
            _wait(device)
            seconds = time.perf_counter() - first.began
            kept = [len(i) for i in active.kept_per_prompt][::beams] if active else None
        return output, _Took(kept, first.seconds or seconds, seconds)

    def _measure(self, given: Any, took: _Took, lengths: Sequence[int]) -> list[Measured]:
        ids = given["input_ids"]
        marks = [self.family.placeholders(m, ids, None) for m in self.family.modalities]
        visual = sum(mark.sum(1) for mark in marks).tolist()
        prompt = given["attention_mask"].sum(1).tolist()
        rows = zip(prompt, lengths, visual, took.kept or visual)
        return [Measured(*row, took.first_token, took.seconds) for row in rows]


@dataclass(frozen=True)
class _Took:
    """What a call of `generate` left of each prompt's visual tokens, and its seconds."""

    kept: list[int] | None
    first_token: float
    seconds: float


def _likelihood(logits: Tensor, ids: list[int], measured: Measured) -> tuple:
    """Loss and greediness of the ids under logits (steps, vocabulary)."""
    logits = logits[: len(ids)]
    target = torch.tensor(ids, device=logits.device)
    loss = torch.nn.functional.cross_entropy(logits, target)
    return loss.item(), bool((logits.argmax(-1) == target).all()), measured


def _wait(device: torch.device) -> None:
    """Let a GPU finish, whose work goes on after a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
