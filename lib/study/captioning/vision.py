"""One pass of the vision tower for several methods."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...pruning.families import resolve


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
    model : a model of one of `lib.pruning.families`.
    capacity : batches remembered; the least recently used is forgotten first.

    `computed` and `reused` count the tower's calls.
    """

    def __init__(self, model: Any, *, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.tower = resolve(model).tower
        # LLaVA encodes an image as one row; others cut it into several, or into its patches
        self.whole = model.config.model_type == "llava"
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
            self._check(pixel_values.shape[0], len(image_ids))
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

    def _check(self, rows: int, images: int) -> None:
        """Another batch than the one named would get this one's features."""
        if rows < images or (self.whole and rows != images):
            raise ValueError(
                f"the vision tower got {rows} rows, but the shared batch has {images} ids: share "
                "one image per id"
            )

    def clear(self) -> None:
        """Forget everything, giving its memory back."""
        self._memo.clear()
