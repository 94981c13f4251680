"""Where the time inside a forward pass goes: vision tower, choosing, prefill."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ...pruning.families import resolve
from .timing import Stopwatch


class Parts:
    """Stopwatches on a model and a pruner, while `watching`.

    What a method does in hooks around the vision tower is its choosing, not the tower's work: the
    hash of the pixels by which RandomPrune knows an image, say. So `scorer` is the time inside the
    methods that `pruner.scorer` names and that of those hooks, and `vision` is the tower and the
    projector without them. `prefill` lasts from the first of the tower and the model to the end of
    the model's first pass: `generate` encodes the images before it, in some versions.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.features, self.tower, self.called, self.passes = (Stopwatch(device) for _ in range(4))
        self.choosing = {False: Stopwatch(device), True: Stopwatch(device)}  # within the tower?
        self._within = False

    @contextmanager
    def watching(self, model: Any, pruner: Any | None) -> Iterator[Parts]:
        """Take the times of the passes inside the block; everything is put back."""
        family = resolve(model)
        inner, tower = family.inner, family.tower
        with ExitStack() as stack:
            stack.enter_context(_wrapped(inner, "get_image_features", self.features))
            stack.enter_context(_wrapped(tower, "forward", self.tower))
            # around every hook that is there already
            self._around(stack, tower, self.called, self._entered)
            self._around(stack, model, self.passes, lambda inside: None)
            for name in pruner.scorer if pruner is not None else ():
                stack.enter_context(_wrapped(pruner, name, lambda: self.choosing[self._within]))
            yield self

    def seconds(self) -> dict[str, float]:
        """Of everything watched: `vision`, `scorer`, and `prefill`, the first pass alone."""
        total = {
            name: sum(watch.seconds())
            for name, watch in (
                ("features", self.features),
                ("tower", self.tower),
                ("called", self.called),
                ("outside", self.choosing[False]),
                ("inside", self.choosing[True]),
            )
        }
        hooks = total["called"] - total["tower"] if self.called.spans else 0.0
        return {
            "vision": total["features"] - hooks,
            "scorer": total["outside"] + max(hooks, total["inside"]),
            "prefill": self._prefill(),
        }

    def _prefill(self) -> float:
        if not self.passes.spans:
            return 0.0
        begin, end = self.passes.spans[0]
        if not self.features.spans:
            return self.passes.between(begin, end)
        encoding, encoded = self.features.spans[0]
        before = self.passes.between(encoded, begin) > 0
        return self.passes.between(encoding if before else begin, end)

    def _entered(self, inside: bool) -> None:
        self._within = inside

    def _around(
        self, stack: ExitStack, module: Any, watch: Stopwatch, note: Callable[[bool], None]
    ) -> None:
        def before(*_: Any) -> None:
            note(True)
            watch.__enter__()

        def after(*_: Any) -> None:
            watch.__exit__()
            note(False)

        stack.callback(module.register_forward_pre_hook(before, prepend=True).remove)
        stack.callback(module.register_forward_hook(after).remove)


@contextmanager
def _wrapped(owner: Any, name: str, watch: Stopwatch | Callable[[], Stopwatch]) -> Iterator[None]:
    """The method `name` of an object under a stopwatch, put back on leaving."""
    before, original = vars(owner).get(name), getattr(owner, name)

    @functools.wraps(original)  # transformers asks for signatures
    def timed(*args: Any, **kwargs: Any) -> Any:
        with watch() if not isinstance(watch, Stopwatch) else watch:
            return original(*args, **kwargs)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
