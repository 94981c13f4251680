"""What every pruning method shares: options, and a context manager on an unmodified model.

A method says which visual tokens stay (`VisualPruner.select`). Entering the with-block hooks the
model through `engine.forward`; leaving it takes everything back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ... import geometry
from .. import registry
from ..families import Family, resolve
from .averages import by_layer, check_average
from .forward import Forward
from .hooks import Hooks, forget_compiled
from .images import ImageTokens
from .passes import Current, Kept
from .release import check
from .replayed import replay_tower
from .sequence import Chosen


@dataclass(eq=False, kw_only=True)
class VisualPruner:
    """A pruning method, used as `with Method(keep=0.5)(model) as pruner: model.generate(...)`.

    keep: share of the visual tokens that stays, in (0, 1].
    average: instead of `keep`, the visual tokens that a language layer may process on average over
        all layers: an integer counts tokens, a float is a share of the image's. What that leaves
        behind the pruning layer follows from the model's depth.
    layer: index K of the first language layer that sees the pruned sequence; 0 prunes before the
        language model.
    mode: "inplace" removes the dropped tokens from layer K on (Algorithm 2 of the paper); "mask"
        hides them as keys and keeps the sequence length (Algorithm 3).
    positions: "original" keeps every token's position, in decoding too; "contiguous" closes up over
        what was dropped, as if it had never been there.

    The model may be wrapped (PEFT, torch.compile) or its inner model without a head. Logits and
    hidden states of an in-place prefill cover the surviving positions only. Without a cache every
    decoding step is a fresh prefill, so the tokens are scored again at every step. Several threads
    may run the model in one block; `kept` is that of the calling thread's last prefill.

    Raises `ValueError` for options out of range, `TypeError` for a model that is not supported,
    `RuntimeError` for nested or repeated use and for options changed inside the block.
    """

    keep: float = 0.5
    average: float | None = None
    layer: int = 0
    mode: Literal["inplace", "mask"] = "inplace"
    positions: Literal["original", "contiguous"] = "original"

    name: ClassVar[str]
    #: True: the kept count is always `budget(N)`, so no count has to be read back from the device.
    exact: ClassVar[bool] = True
    #: True: where the count varies, `most` bounds it, so that a prefill can be captured.
    bounded: ClassVar[bool] = False
    #: False: choosing waits for the device, so that a prefill cannot be captured.
    captures: ClassVar[bool] = True
    #: True: the method reads or changes the inside of the tower, which cannot be shared then.
    uses_own_vision: ClassVar[bool] = False
    #: True: kept tokens leave in another order than the raster; only in-place pruning can do it.
    reorders: ClassVar[bool] = False
    #: True: some of what is kept is not as the model made it: merged or recycled tokens.
    merges: ClassVar[bool] = False
    #: the first language layer before which the method has seen what it looks at
    first_layer: ClassVar[int] = 0
    #: True: what is chosen depends on the vision tower alone.
    vision_only: ClassVar[bool] = False
    #: the methods whose run time is the price of choosing (for cost measurements)
    scorer: ClassVar[tuple[str, ...]] = ("select",)
    #: model types the method works on; None: all families
    supports: ClassVar[frozenset[str] | None] = None

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            registry.register(name, cls)
            cls.name = name

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be in (0, 1], got {self.keep}")
        check_average(self.average)
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise ValueError(f"layer must be an integer >= 0, got {self.layer!r}")
        if self.layer < self.first_layer:
            raise ValueError(
                f"layer must be at least {self.first_layer} for {type(self).__name__}, which looks "
                f"at what layers before it compute; got {self.layer}"
            )
        self.one_of(mode=("inplace", "mask"), positions=("original", "contiguous"))
        if self.mode == "mask" and self.reorders:
            raise ValueError(
                f"{type(self).__name__} changes the order of the tokens, which mode='mask' cannot; "
                "use mode='inplace'"
            )
        self._forward: Forward | None = None
        self.hooks: Hooks | None = None
        self.family: Family | None = None
        self._depth: int | None = None
        self._current = Current()

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "hooks", None) is not None and name in _option_names(type(self)):
            raise RuntimeError(
                f"{name} cannot change inside the with-block: leave it and enter one with "
                f"{name}={value!r}"
            )
        object.__setattr__(self, name, value)

    # ---- to be written by a method ------------------------------------------------------------

    def select(self, images: ImageTokens) -> Tensor | Chosen:
        """The tokens to keep: bool `(n, N)`, True where a token stays, or a `Chosen`."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        """Register the method's own hooks with `self.hook`; called on entering the context.

        Inside the vision tower they write into the record of the call alone, since on a GPU the
        tower may be replayed (`lib.pruning.engine.replayed`).
        """

    def stages(self) -> tuple[int, ...]:
        """The language layers before which tokens are chosen, in order; by default `layer`."""
        return (self.layer,)

    def most(self, tokens: int) -> int:
        """The most tokens that can stay of `tokens`, whatever the image."""
        return self.budget(tokens)

    def plan(self, tokens: int) -> tuple[int, ...]:
        """Tokens left of an image's `tokens` by every stage, in order."""
        return (self.budget(tokens),)

    # ---- for callers --------------------------------------------------------------------------

    def one_of(self, **options: tuple[str, ...]) -> None:
        """Raise `ValueError` for an option that is not among the allowed names."""
        for option, allowed in options.items():
            if (value := getattr(self, option)) not in allowed:
                raise ValueError(f"{option} must be one of {allowed}, got {value!r}")

    def only_ahead(self, does: str) -> None:
        """Raise `ValueError` unless `layer` is 0, for a method that does something before it."""
        if self.layer != 0:
            raise ValueError(
                f"{type(self).__name__} {does} before the language model: layer is 0, not "
                f"{self.layer}"
            )

    def budget(self, tokens: int) -> int:
        """Tokens kept of `tokens`: at this keep rate, rounded, at least one; or within `average`.

        Raises `ValueError` if the average cannot be had, `RuntimeError` if it needs a model.

        >>> from lib.pruning import create
        >>> create("random", keep=0.5).budget(575), create("random", average=64).budget(576)
        (288, 64)
        """
        if self.average is None:
            return geometry.kept_count(self.keep, tokens)
        depth = self.model_depth if self.layer else 1
        return geometry.kept_for_average(
            self.average_of(tokens), tokens=tokens, layer=self.layer, layers=depth
        )

    def average_of(self, tokens: int) -> float:
        """What `average` asks for, in tokens, for an image with `tokens` of them.

        >>> from lib.pruning import create
        >>> create("random", average=0.25).average_of(576)
        144.0
        """
        return self.average * tokens if isinstance(self.average, float) else float(self.average)

    @property
    def model_depth(self) -> int:
        """Layers of the language model the pruner is, or was last, bound to."""
        if self._depth is None:
            raise RuntimeError(
                f"how many tokens {type(self).__name__} keeps depends on the model's depth: bind "
                "it to the model first, or ask layer_counts with a depth"
            )
        return self._depth

    def stage_counts(self, tokens: int, depth: int) -> list[tuple[int, int]]:
        """Layer and tokens left of `tokens`, stage by stage, in a model of `depth` layers.

        The most of them, where the count varies by image.

        >>> from lib.pruning import create
        >>> create("pyramiddrop").stage_counts(576, 32)
        [(8, 288), (16, 144), (24, 72)]
        """
        twin = dataclasses.replace(self)
        twin._depth = depth
        plan = twin.plan(tokens) if twin.exact else (twin.most(tokens),)
        return list(zip(twin.stages(), plan))

    def layer_counts(self, tokens: int, depth: int) -> list[int]:
        """Visual tokens that each of `depth` language layers is planned to process of `tokens`.

        >>> from lib.pruning import create
        >>> create("fastv", keep=0.25, layer=2).layer_counts(256, 4)
        [256, 256, 64, 64]
        """
        return by_layer(tokens, self.stage_counts(tokens, depth), depth)

    def options(self) -> dict[str, Any]:
        """Name and parameters as plain JSON values, for manifests."""
        values = {name: getattr(self, name) for name in _option_names(type(self))}
        return {"method": self.name} | {
            k: list(v) if isinstance(v, tuple) else v for k, v in values.items()
        }

    @property
    def keeps_all(self) -> bool:
        """True if nothing is ever dropped; the model then runs untouched."""
        return (
            self.average == 1.0
            if isinstance(self.average, float)
            else (self.keep == 1 and self.average is None)
        )

    @property
    def active(self) -> bool:
        """True inside the with-block."""
        return self.hooks is not None

    @property
    def in_pass(self) -> bool:
        """True while this thread runs the model."""
        return self._current.pass_ is not None

    @property
    def kept(self) -> list[Tensor]:
        """Indices of the kept visual tokens in raster order, one tensor per image, last prefill."""
        return [mask.nonzero().squeeze(1) for mask in self.kept_masks]

    @property
    def kept_masks(self) -> list[Tensor]:
        """Bool `(N,)` per image of the last prefill, True where the token stayed."""
        return self._seen().masks

    @property
    def kept_stages(self) -> list[tuple[int, list[Tensor]]]:
        """Language layer and kept masks of every stage of the last prefill, in order."""
        return self._seen().stages

    @property
    def kept_counts(self) -> list[int]:
        """Visual tokens left of each image behind the last stage, merged ones included."""
        return [int(mask.sum()) for mask in self.kept_masks]

    def average_tokens(self) -> list[float]:
        """Visual tokens that a language layer processed, averaged over the layers, by image.

        Of the last prefill. What mask mode hides counts as gone, although it is still computed.
        """
        stages = self._seen().stages
        lengths, layers = [len(mask) for mask in self.kept_masks], [layer for layer, _ in stages]
        counts = [[int(mask.sum()) for mask in masks] for _, masks in stages]
        return [
            sum(by_layer(total, zip(layers, own), self.model_depth)) / self.model_depth
            for total, own in zip(lengths, zip(*counts))
        ]

    def _seen(self) -> Kept:
        kept = self._current.kept
        if kept is None:
            raise RuntimeError("nothing was pruned yet: run the model inside the with-block first")
        return kept

    @property
    def kept_per_prompt(self) -> list[Tensor]:
        """Indices of the kept ones among all visual tokens of a prompt, one tensor a batch row.

        The images, tiles or frames of a prompt are counted through, each behind the one before.
        """
        masks = iter(self.kept_masks)
        rows = [[next(masks) for _ in range(n)] for n in self._current.kept.per_row]
        nothing = torch.zeros(0, dtype=torch.int64)
        return [torch.cat(row).nonzero().squeeze(1) if row else nothing for row in rows]

    @property
    def image_keys(self) -> Tensor | None:
        """One int64 key an image of this thread's next prefill; seeds random choices.

        None: the images' pixels do.
        """
        return self._current.image_keys

    @image_keys.setter
    def image_keys(self, keys: Tensor | None) -> None:
        self._current.image_keys = keys

    # ---- the with-block -----------------------------------------------------------------------

    def __call__(self, model: nn.Module) -> Self:
        """Bind the pruner to a model; the hooks are set on entering the with-block."""
        if self.active:
            raise RuntimeError(f"{type(self).__name__} is already active; leave its with-block")
        family = resolve(model)
        kind = family.config.model_type
        if self.supports is not None and kind not in self.supports:
            raise TypeError(
                f"{type(self).__name__} does not support {type(family.model).__name__} (model type "
                f"{kind!r}); supported: {', '.join(sorted(self.supports))}"
            )
        depth = self._depth = len(family.layers)
        if (deepest := max(self.stages())) >= depth:
            raise ValueError(
                f"layer must be below the language model's {depth} layers, got {deepest}"
            )
        if self.positions == "contiguous" and not family.plain_positions:
            raise TypeError(
                f"{type(self).__name__} closes positions up, but {family.title} gives its tokens "
                "positions in time, height and width, which cannot be; use positions='original'"
            )
        self.family = family
        return self

    def __enter__(self) -> Self:
        if self.family is None:
            raise RuntimeError(f"bind a model first: with {type(self).__name__}(...)(model) as p:")
        if self.active:
            raise RuntimeError(f"{type(self).__name__} is already active; leave its with-block")
        inner = self.family.inner
        if (other := getattr(inner, "_visual_pruner", None)) is not None:
            raise RuntimeError(
                f"{type(other).__name__} is already active on this model; pruners do not nest"
            )
        check(inner, self.family.layers)
        hooks = Hooks()
        try:
            inner._visual_pruner = self
            hooks.at_end(delattr, inner, "_visual_pruner")
            forget_compiled(self.family.model)
            hooks.at_end(forget_compiled, self.family.model)
            self.hooks = hooks
            self._renew()
            self._forward = Forward(self)
            self._forward.install()
            replay_tower(self)
        except BaseException:
            self._leave(hooks)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave(self.hooks)

    def _leave(self, hooks: Hooks) -> None:
        self.hooks = self._forward = self.family = None
        self._renew()
        hooks.close()

    def _renew(self) -> None:
        """Let go of what any thread's passes left, but for what callers may ask or have set."""
        before, self._current = self._current, Current()
        self._current.kept, self._current.image_keys = before.kept, before.image_keys

    # ---- for methods --------------------------------------------------------------------------

    def hook(self, module: nn.Module, function: Callable, *, before: bool) -> None:
        """Register a forward hook with keyword arguments that is removed on exit."""
        self.hooks.add(module, function, before=before)

    def replace(self, owner: Any, attribute: str, value: Any) -> None:
        """Set an instance attribute (such as `forward`) that is restored on exit."""
        self.hooks.replace(owner, attribute, value)


def _option_names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.init) if dataclasses.is_dataclass(kind) else ()
