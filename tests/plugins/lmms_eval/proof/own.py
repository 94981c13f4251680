"""What this checkout's own code answers: nothing here is the plug-in's, and nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor

from lib.pruning import create
from lib.study import captioning, models
from lib.study.data import Example
from tests.plugins.lmms_eval.proof import material
from tests.plugins.lmms_eval.tasks import utils

#: as in the tasks' files
CAPTION_TOKENS, ANSWER_TOKENS = 32, 8


@dataclass(frozen=True)
class Said:
    """An answer and the visual tokens behind it: all, and those that were kept."""

    text: str
    visual: int
    kept: int


class Own:
    """A model under a method, None for the unpruned model, and what it says of one image a time."""

    def __init__(self, name: str, method: str | None, options: dict[str, Any]) -> None:
        folder = str(material.folder(name))
        self.model = models.load(folder, device="cpu").model
        # the shipped model's images are prepared as the study does, others as transformers likes
        backend = {"backend": "pil"} if name == "embedded" else {}
        self.processor = AutoProcessor.from_pretrained(folder, **backend)
        self.pruner = create(method, **options) if method else None

    def captions(self, examples: Sequence[Example]) -> list[Said]:
        """Captions of the study's own loop."""
        records = captioning.caption(
            self.model, self.processor, examples, pruner=self.pruner, batch_size=1,
            max_new_tokens=CAPTION_TOKENS, progress=False,
        )  # fmt: skip
        return [Said(r["caption"], r["visual_tokens"], r["kept"]) for r in records]

    def answers(self, documents: Sequence[dict], pictures: str) -> list[Said]:
        """Answers to the documents' questions; pictures: the function that gives the images."""
        images = getattr(utils, pictures)
        return [self._answer(images(doc), doc["question"]) for doc in documents]

    def losses(self, documents: Sequence[dict]) -> list[list[float]]:
        """The mean negative log-likelihood of each choice of each document."""
        return [
            [self._loss(utils.visual(doc), choice) for choice in doc["choices"]]
            for doc in documents
        ]

    def _inputs(self, images: list[Image.Image], text: str, behind: str = "") -> Any:
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        # words follow a space, unless the prompt ends in one
        space = "" if not behind or prompt[-1].isspace() else " "
        return self.processor(images=[images], text=[prompt + space + behind], return_tensors="pt")

    def _answer(self, images: list[Image.Image], question: str) -> Said:
        inputs = self._inputs(images, question)
        with torch.inference_mode(), self._pruned() as active:
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS)
            kept = sum(map(len, active.kept_per_prompt)) if active else None
        text = self.processor.tokenizer.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        visual = int((inputs["input_ids"] == self.model.config.image_token_id).sum())
        return Said(" ".join(text.split()), visual, visual if kept is None else kept)

    def _loss(self, images: list[Image.Image], choice: str) -> float:
        """The whole text in one pass; under a method the choice follows the pruned prompt."""
        before = self._inputs(images, models.PROMPT)
        whole = self._inputs(images, models.PROMPT, choice)
        length = before["input_ids"].shape[1]
        ids = whole["input_ids"][:, length:]
        with torch.inference_mode(), self._pruned() as active:
            if active is None:
                logits = self.model(**whole).logits[0, length - 1 : -1]
            else:
                first = self.model(**before, use_cache=True)
                rest = self.model(input_ids=ids, past_key_values=first.past_key_values)
                logits = torch.cat([first.logits[0, -1:], rest.logits[0, :-1]])
        return torch.nn.functional.cross_entropy(logits.float(), ids[0]).item()

    def _pruned(self) -> Any:
        return nullcontext() if self.pruner is None else self.pruner(self.model)
