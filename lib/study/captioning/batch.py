"""One prepared batch to records: greedy decoding under a method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .decoder import Decoder
from .listening import Prefill, prefill_of
from .record import Batch, Record
from .vision import SharedVision


@dataclass(frozen=True, kw_only=True)
class Captioner:
    """A model that captions prepared batches; what is the same for all of them.

    vision: memo of vision features, ignored for a pruner that changes the tower. kept_indices,
    token_ids: record these, too. decoder: what decodes instead of `generate`.
    """

    model: Any
    processor: Any
    max_new_tokens: int
    vision: SharedVision | None = None
    kept_indices: bool = False
    token_ids: bool = False
    decoder: Decoder | None = None

    def __call__(
        self,
        batch: Batch,
        inputs: Mapping[str, Tensor],
        pruner: Any,
        hear: Callable[[Prefill], None] | None = None,
    ) -> list[Record]:
        """The records of a batch under a method, None for the unpruned model.

        inputs: may have more rows than the batch, copies of its last image. hear: is called
        with the prompts' pass, the method still active.
        """
        try:
            answers, kept, seconds = self._generate(batch, inputs, pruner, hear)
        except torch.OutOfMemoryError as error:
            error.add_note(
                f"batch_size={len(batch)} does not fit; records so far are kept. Call again with a "
                "smaller batch_size to continue."
            )
            raise
        texts = self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        visual = (inputs["input_ids"] == self.model.config.image_token_id).sum(1).tolist()
        if kept is not None and len(kept) != len(visual):
            raise RuntimeError(
                f"{type(pruner).__name__} reported kept tokens of {len(kept)} prompts, "
                f"the batch has {len(visual)}"
            )
        records: list[Record] = []
        for row, (example, text) in enumerate(zip(batch, texts)):
            record: Record = {
                "image_id": int(example.image_id),
                "caption": " ".join(text.split()),
                "kept": visual[row] if kept is None else len(kept[row]),
                "visual_tokens": visual[row],
            }
            if self.kept_indices:
                record["kept_indices"] = list(range(visual[row])) if kept is None else kept[row]
            if self.token_ids:
                record["token_ids"] = until_end(self.model, answers[row]).tolist()
            records.append(record | {"seconds": round(seconds / len(batch), 6)})
        return records

    def _generate(
        self,
        batch: Batch,
        inputs: Mapping[str, Tensor],
        pruner: Any,
        hear: Callable[[Prefill], None] | None,
    ) -> tuple[Tensor, list[list[int]] | None, float]:
        """The generated ids (rows, new tokens), each row's kept indices, and the seconds."""
        model, keys = self.model, [int(example.image_id) for example in batch]
        keys += keys[-1:] * (len(inputs["input_ids"]) - len(keys))
        begin = time.perf_counter()
        shared = self.vision is not None and not getattr(pruner, "uses_own_vision", False)
        with (
            torch.inference_mode(),
            repeatable_attention(),
            self.vision.batch(keys) if shared else nullcontext(),
            pruner(model) if pruner is not None else nullcontext() as active,
        ):
            if hasattr(active, "image_keys"):
                active.image_keys = torch.tensor(keys, dtype=torch.int64)
            tensors = {
                name: value.to(
                    model.device,
                    model.dtype if value.is_floating_point() else None,
                    non_blocking=True,
                )
                for name, value in inputs.items()
            }
            if self.decoder is not None:
                ids = self.decoder.generate(**tensors, max_new_tokens=self.max_new_tokens)
            else:
                answer = model.generate(
                    **tensors,
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=self.max_new_tokens,
                    return_dict_in_generate=True,
                    output_logits=hear is not None,
                )
                ids = answer.sequences
            kept = [t.tolist() for t in active.kept_per_prompt] if active is not None else None
            ids = ids[:, inputs["input_ids"].shape[1] :].cpu()
            seconds = time.perf_counter() - begin
            if hear is not None:
                hear(prefill_of(answer, tensors, None if kept is None else [*map(len, kept)]))
        return ids, kept, seconds


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
