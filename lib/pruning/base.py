"""What every pruning method shares: a context manager that hooks an unmodified LLaVA.

A method says which visual tokens stay (`VisualPruner.select`); everything else lives here: finding
the image tokens, gathering hidden states, position ids and rotary embeddings at layer K, the
attention mask of ragged rows, and the cache whose layers have different lengths. The attention
implementation of the model (SDPA, Flash, eager) is left as it is.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from .cache import PrunedCache, PrunedState

_REGISTRY: dict[str, type[VisualPruner]] = {}
_SUPPORTED = {"llava": "LLaVA", "llava_next": "LLaVA-NeXT"}


def available() -> list[str]:
    """Names of all registered pruning methods.

    >>> "fastv" in available()
    True
    """
    return sorted(_REGISTRY)


def create(name: str, **options: Any) -> VisualPruner:
    """The registered method `name`, built with `options`.

    Raises `ValueError` for an unknown name and for options the method does not have.

    >>> create("random", keep=0.25).keep
    0.25
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown pruning method {name!r}; available: {', '.join(available())}")
    method = _REGISTRY[name]
    known = [f.name for f in fields(method) if f.init]
    if unknown := set(options) - set(known):
        raise ValueError(
            f"{name} has no option {', '.join(map(repr, sorted(unknown)))}; "
            f"its options: {', '.join(known)}"
        )
    return method(**options)


@dataclass(eq=False)
class ImageTokens:
    """The visual tokens of the n images in one prefill that have the same number N of tokens.

    `rows` `(n,)` and `columns` `(n, N)` locate them in the batch; `ordinals` numbers the images in
    reading order over the whole batch (row by row).
    """

    rows: Tensor
    columns: Tensor
    ordinals: list[int]
    prefill: Prefill | None

    @property
    def count(self) -> int:
        return self.columns.shape[0]

    @property
    def tokens(self) -> int:
        return self.columns.shape[1]

    def take(self, states: Tensor) -> Tensor:
        """`(batch, positions, ...)` at the image tokens: `(n, N, ...)`."""
        rows, columns = self.rows.to(states.device), self.columns.to(states.device)
        return states[rows[:, None], columns]

    @cached_property
    def hidden(self) -> Tensor:
        """Hidden states of the visual tokens as they enter the pruning layer, `(n, N, D)`."""
        return self.take(self.prefill.entering)

    def of_vision(self, per_image: Tensor) -> Tensor:
        """A tensor of the vision tower (one row an image) ordered as the images here.

        Beam search and several returned sequences repeat the prompt after the vision tower ran
        (transformers >= 5.18) or before (5.17); both are recognised by the number of rows.
        """
        if per_image.shape[0] == self.count == sum(self.prefill.images_per_row):
            return per_image
        index = torch.as_tensor(
            [self.prefill.vision_row(i, per_image.shape[0]) for i in self.ordinals],
            device=per_image.device,
        )
        return per_image.index_select(0, index)


@dataclass(eq=False)
class Prefill:
    """One forward pass that contains image tokens, from its first to its last layer."""

    image_mask: Tensor | None  # (batch, new positions) bool; None: no image in this pass
    images_per_row: list[int]
    groups: list[ImageTokens]
    valid: Tensor | None  # (batch, new positions) bool; None: no padding
    past: int  # tokens seen before this pass
    past_valid: Tensor | None = None  # padding of an unpruned cache, (batch, past) bool
    entering: Tensor = field(default=None, repr=False)  # hidden states entering layer K
    masks: list[Tensor] = field(default_factory=list)  # per group: (n, N) bool, True: kept
    gather: Tensor | None = None  # (batch, positions after pruning)
    key_mask: Tensor | None = None  # (batch, positions after pruning) bool
    attention_mask: Any = None
    rotary: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    position_ids: Tensor | None = None

    def vision_row(self, ordinal: int, vision_rows: int) -> int:
        """The row of the vision tower's output that belongs to the image `ordinal`."""
        images = sum(self.images_per_row)
        if images == vision_rows:
            return ordinal
        copies, rest = divmod(images, vision_rows)
        if rest:
            raise RuntimeError(
                f"the prompt has {images} images but the vision tower encoded {vision_rows}; pass "
                "pixel_values for exactly the images of this prompt"
            )
        seen = before = 0
        for row, count in enumerate(self.images_per_row):
            if ordinal < seen + count:
                return before + ordinal - seen
            seen += count
            if row % copies == copies - 1:
                before += count
        raise AssertionError("unreachable: ordinal beyond the images of the prompt")


@dataclass(eq=False, kw_only=True)
class VisualPruner:
    """A pruning method, used as `with Method(keep=0.5)(model) as pruner: model.generate(...)`.

    keep: share of the visual tokens that stays, in (0, 1].
    layer: index K of the first language layer that sees the pruned sequence; 0 prunes before the
        language model.
    mode: "inplace" removes the dropped tokens from layer K on (Algorithm 2 of the paper); "mask"
        hides them as keys and keeps the sequence length (Algorithm 3).

    Position ids stay the originals in both modes, in decoding too. Logits and hidden states of an
    in-place prefill cover the surviving positions only. Without a cache every decoding step is a
    fresh prefill, so the tokens are scored again at every step.

    Raises `ValueError` for options out of range, `TypeError` for a model class that is not
    supported, `RuntimeError` for nested or repeated use.
    """

    keep: float = 0.5
    layer: int = 0
    mode: Literal["inplace", "mask"] = "inplace"

    name: ClassVar[str]
    #: True: the kept count is always `budget(N)`, so no count has to be read back from the device.
    exact: ClassVar[bool] = True
    #: True: the method changes the vision tower's output, which then cannot be shared.
    uses_own_vision: ClassVar[bool] = False
    #: the methods whose run time is the price of choosing (for `lib.study.cost.efficiency`)
    scorer: ClassVar[tuple[str, ...]] = ("select",)
    #: model types the method works on
    supports: ClassVar[frozenset[str]] = frozenset(_SUPPORTED)

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
                raise ValueError(f"a pruning method named {name!r} exists: {_REGISTRY[name]}")
            cls.name = name
            _REGISTRY[name] = cls

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be in (0, 1], got {self.keep}")
        if not isinstance(self.layer, int) or self.layer < 0:
            raise ValueError(f"layer must be an integer >= 0, got {self.layer!r}")
        if self.mode not in ("inplace", "mask"):
            raise ValueError(f"mode must be 'inplace' or 'mask', got {self.mode!r}")
        self._model: PreTrainedModel | None = None
        self._stack: ExitStack | None = None
        self._prefill: Prefill | None = None
        self._decoding: PrunedState | None = None
        self._last: Prefill | None = None
        self._mask: Any = None
        #: one int64 key an image of the next prefill; seeds random choices (None: from the pixels)
        self.image_keys: Tensor | None = None
        #: images in every row, if the caller knows: nothing is then read back from the device
        self.images_each: int | None = None

    # ---- to be written by a method ------------------------------------------------------------

    def select(self, images: ImageTokens) -> Tensor:
        """The tokens to keep: bool `(n, N)`, True where a token stays."""
        raise NotImplementedError

    def attach(self, model: PreTrainedModel) -> None:
        """Register the method's own hooks with `self.hook`; called on entering the context."""

    # ---- for callers --------------------------------------------------------------------------

    def budget(self, tokens: int) -> int:
        """Tokens kept of `tokens` at this keep rate: rounded, at least one.

        >>> create("random", keep=0.5).budget(575)
        288
        """
        return max(1, min(tokens, int(self.keep * tokens + 0.5)))

    def options(self) -> dict[str, Any]:
        """Name and parameters as plain JSON values, for manifests."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {"method": self.name} | {
            k: list(v) if isinstance(v, tuple) else v for k, v in values.items()
        }

    @property
    def keeps_all(self) -> bool:
        """True if nothing is ever dropped; the model then runs untouched."""
        return self.keep == 1

    @property
    def active(self) -> bool:
        """True inside the with-block."""
        return self._stack is not None

    @property
    def kept(self) -> list[Tensor]:
        """Indices of the kept visual tokens in raster order, one tensor per image, last prefill."""
        return [mask.nonzero().squeeze(1) for mask in self.kept_masks]

    @property
    def kept_masks(self) -> list[Tensor]:
        """Bool `(N,)` per image of the last prefill, True where the token stayed."""
        if self._last is None:
            raise RuntimeError("nothing was pruned yet: run the model inside the with-block first")
        masks = dict(
            (ordinal, mask)
            for images, group in zip(self._last.groups, self._last.masks)
            for ordinal, mask in zip(images.ordinals, group)
        )
        return [masks[ordinal] for ordinal in sorted(masks)]

    def __call__(self, model: PreTrainedModel) -> Self:
        """Bind the pruner to a model; the hooks are set on entering the with-block."""
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in self.supports:
            raise TypeError(
                f"{type(self).__name__} does not support {type(model).__name__}"
                f" (model type {kind!r}); supported: "
                + ", ".join(f"{_SUPPORTED[k]} ({k!r})" for k in sorted(self.supports))
            )
        text = model.config.get_text_config()
        if self.layer >= text.num_hidden_layers:
            raise ValueError(
                f"layer must be below the language model's {text.num_hidden_layers} layers, "
                f"got {self.layer}"
            )
        if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or []):
            raise TypeError("language models with sliding-window layers are not supported")
        if self.active:
            raise RuntimeError(f"{type(self).__name__} is already active; leave its with-block")
        self._model = model
        return self

    def __enter__(self) -> Self:
        if self._model is None:
            raise RuntimeError(f"bind a model first: with {type(self).__name__}(...)(model) as p:")
        if self.active:
            raise RuntimeError(f"{type(self).__name__} is already active; leave its with-block")
        inner = self._model.model
        if (other := getattr(inner, "_visual_pruner", None)) is not None:
            raise RuntimeError(
                f"{type(other).__name__} is already active on this model; pruners do not nest"
            )
        inner._visual_pruner = self
        with ExitStack() as stack:
            stack.callback(delattr, inner, "_visual_pruner")
            self._stack = stack
            try:
                self._install()
            except BaseException:
                self._stack = None
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        stack, self._stack = self._stack, None
        self._model = self._prefill = self._decoding = self._mask = None
        if self._last is not None:  # keep the kept sets, let go of the activations
            self._last.entering = None
            for images in self._last.groups:
                images.__dict__.pop("hidden", None)
        stack.close()

    def hook(self, module: nn.Module, function: Callable, *, before: bool) -> None:
        """Register a forward hook with keyword arguments that is removed on exit."""
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        self._stack.callback(register(function, with_kwargs=True).remove)

    def replace(self, owner: Any, attribute: str, value: Any) -> None:
        """Set an instance attribute (such as `forward`) that is restored on exit."""
        if attribute in vars(owner):
            self._stack.callback(setattr, owner, attribute, vars(owner)[attribute])
        else:
            self._stack.callback(delattr, owner, attribute)
        setattr(owner, attribute, value)

    def forget(self, attribute: str, value: Any = None) -> None:
        """Set an attribute now and again on exit, so that no activation outlives the context."""
        setattr(self, attribute, value)
        self._stack.callback(setattr, self, attribute, value)

    # ---- hooks --------------------------------------------------------------------------------

    def _install(self) -> None:
        inner = self._model.model
        self._signature = inspect.signature(inner.forward)
        self.hook(self._model, self._refuse_unsupported, before=True)
        self.hook(inner, self._begin, before=True)
        self.attach(self._model)
        for index, layer in enumerate(inner.language_model.layers):
            if index >= self.layer:
                self.hook(layer, self._layer_hook(index), before=True)
        self.hook(inner, self._end, before=False)

    def _refuse_unsupported(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.mode == "inplace" and not self.keeps_all:
            if kwargs.get("labels") is not None:
                raise ValueError(
                    "labels do not line up with a sequence pruned in place; "
                    "use mode='mask' to compute a loss"
                )
            if isinstance(kwargs.get("logits_to_keep"), Tensor):
                raise ValueError(
                    "logits_to_keep as a tensor of positions does not line up with a sequence "
                    "pruned in place; pass a number of trailing positions"
                )

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._prefill = self._decoding = self._mask = None
        given = self._signature.bind(*args, **kwargs).arguments
        given = given | given.get("kwargs", {})
        cache = given.get("past_key_values")
        state = cache.visual if isinstance(cache, PrunedCache) else None
        if state is not None and state.owner() is not self:
            raise RuntimeError(
                "this cache was pruned by another pruner; start from a new prompt in this one"
            )
        past = cache.get_seq_length() if cache is not None else 0
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        new = (ids if ids is not None else embeds).shape[1]
        with_images = (
            given.get("pixel_values") is not None
            or (given.get("mm_encoder_outputs") or {}).get("image") is not None
        )
        self._decoding = state
        split = not with_images and new > 1 and ids is not None
        if split and bool((ids == self._model.config.image_token_id).any()):
            raise ValueError(
                "the prompt holds image tokens but no pixel_values came with them: pass whole "
                "images (prefill_chunk_size is not supported while pruning)"
            )
        if not with_images and state is None:
            return
        valid = past_valid = None
        # one decoding step appends one visible token a row: nothing to read back from the device
        if new > 1 and (valid := given.get("attention_mask")) is not None:
            if valid.ndim != 2:
                raise ValueError(
                    f"pruning needs a 2D attention mask or none, got {valid.ndim} dimensions "
                    "(static caches and prepared 4D masks are not supported)"
                )
            past_valid = valid[:, :-new].bool() if state is None and valid.shape[1] > new else None
            valid = valid[:, -new:].bool()
            if self.images_each is None and bool(valid.all()):
                valid = None
        groups, images_per_row, image_mask = [], [], None
        if with_images:
            if ids is not None:
                image_mask = ids == self._model.config.image_token_id
            else:
                token = torch.tensor(self._model.config.image_token_id, device=embeds.device)
                image_mask = (embeds == module.get_input_embeddings()(token)).all(-1)
            groups, images_per_row = self._find_images(image_mask)
        if groups or state is not None:
            self._prefill = Prefill(image_mask, images_per_row, groups, valid, past, past_valid)
            for images in groups:
                images.prefill = self._prefill

    def _find_images(self, image_mask: Tensor) -> tuple[list[ImageTokens], list[int]]:
        """Image tokens in groups of equal length, and the number of images in each row."""
        config, device = self._model.config, image_mask.device
        if self.images_each is not None and config.model_type == "llava":
            return self._known_images(image_mask, self.images_each, visual_tokens(config))
        on_host = image_mask.cpu()  # one copy instead of a synchronisation for every count
        per_row = on_host.sum(1).tolist()
        rows, columns = on_host.nonzero(as_tuple=True)
        if not len(rows):
            return [], [0] * len(per_row)
        if config.model_type == "llava":
            tokens = visual_tokens(config)
            if any(count % tokens for count in per_row):
                raise ValueError(
                    f"rows hold {per_row} image tokens, not multiples of {tokens}: pass whole "
                    "images (prefill_chunk_size is not supported while pruning)"
                )
            lengths = [tokens] * (len(columns) // tokens)
        else:  # LLaVA-NeXT: images differ in length; an unbroken run of image tokens is one image
            starts = torch.ones_like(columns, dtype=torch.bool)
            starts[1:] = (columns[1:] != columns[:-1] + 1) | (rows[1:] != rows[:-1])
            first = starts.nonzero().squeeze(1)
            lengths = torch.diff(first, append=first.new_tensor([len(columns)])).tolist()
        runs = columns.split(lengths)
        row_of = torch.stack([run[0] for run in rows.split(lengths)])
        groups = []
        for tokens in sorted(set(lengths)):
            members = [i for i, length in enumerate(lengths) if length == tokens]
            place = torch.stack([runs[i] for i in members])
            groups.append(
                ImageTokens(row_of[members].to(device), place.to(device), members, self._prefill)
            )
        return groups, torch.bincount(row_of, minlength=len(per_row)).tolist()

    @staticmethod
    def _known_images(
        image_mask: Tensor, each: int, tokens: int
    ) -> tuple[list[ImageTokens], list[int]]:
        """The same on the device alone, for `each` images of `tokens` tokens in every row."""
        batch = image_mask.shape[0]
        order = image_mask.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        columns = order[:, : each * tokens].reshape(-1, tokens)
        rows = torch.arange(batch, device=image_mask.device).repeat_interleave(each)
        ordinals = list(range(batch * each))
        return [ImageTokens(rows, columns, ordinals, None)], [each] * batch

    def _layer_hook(self, index: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            pass_ = self._prefill
            if pass_ is None or (self.keeps_all and self._decoding is None):
                if index == self.layer and pass_ is not None and pass_.groups:
                    self._keep_all(pass_)
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if index == self.layer:
                self._choose(pass_, hidden, kwargs)
                if pass_.gather is not None:
                    hidden = _take(hidden, pass_.gather)
            changed = kwargs | {"attention_mask": self._mask_on(hidden.device)}
            if pass_.gather is not None:
                changed |= self._original_positions(pass_, kwargs, hidden.device)
            if args:
                return (hidden, *args[1:]), changed
            return args, changed | {"hidden_states": hidden}

        return hook

    def _keep_all(self, pass_: Prefill) -> None:
        pass_.masks = [torch.ones_like(g.columns, dtype=torch.bool) for g in pass_.groups]
        self._last = pass_

    def _choose(self, pass_: Prefill, hidden: Tensor, kwargs: dict) -> None:
        """At layer K: select, then work out the gather index, the key mask and the mask."""
        cache = kwargs.get("past_key_values")
        if cache is not None and type(cache) not in (DynamicCache, PrunedCache):
            raise TypeError(
                f"pruning keeps layers of different lengths, which {type(cache).__name__} cannot "
                "hold; leave cache_implementation at its default (DynamicCache)"
            )
        pass_.entering = hidden
        visible = pass_.valid
        if pass_.groups:
            for images in pass_.groups:
                mask = self.select(images)
                if mask.shape != images.columns.shape or mask.dtype != torch.bool:
                    raise ValueError(
                        f"{type(self).__name__}.select must return bool "
                        f"{tuple(images.columns.shape)}, got {mask.dtype} {tuple(mask.shape)}"
                    )
                pass_.masks.append(mask)
            self._last = pass_
            stay = ~pass_.image_mask.to(hidden.device)
            for images, mask in zip(pass_.groups, pass_.masks):
                stay[images.rows[:, None].to(stay.device), images.columns.to(stay.device)] = (
                    mask.to(stay.device)
                )
            if self.mode == "mask":
                visible = stay if visible is None else stay & visible.to(stay.device)
            else:
                lengths = self._lengths(pass_, stay)
                longest = max(lengths)
                # a stable sort moves dropped tokens to the front, so that rows stay left-padded
                order = torch.sort(stay.to(torch.uint8), dim=1, stable=True).indices
                pass_.gather = order[:, stay.shape[1] - longest :]
                visible = (
                    None if visible is None else visible.to(stay.device).gather(1, pass_.gather)
                )
                if min(lengths) < longest:
                    filled = stay.gather(1, pass_.gather)
                    visible = filled if visible is None else filled & visible
        length = hidden.shape[1] if pass_.gather is None else pass_.gather.shape[1]
        pass_.key_mask = visible
        past_mask, held = None, 0
        if cache is not None and len(cache.layers) > self.layer:
            held = cache.layers[self.layer].get_seq_length()
            if self._decoding is not None:
                past_mask = self._decoding.past_mask(held)
            elif held and pass_.past_valid is not None:
                past_mask = pass_.past_valid[:, -held:]
        keys = _concat_masks(past_mask, visible, held, length, hidden)
        config = self._model.model.language_model.config
        self._mask = {
            hidden.device: ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
                batch_size=hidden.shape[0],
                q_length=length,
                kv_length=held + length,
                q_offset=held,
                kv_offset=0,
                mask_function=causal_mask_function,
                attention_mask=keys,
                allow_is_causal_skip=True,
                dtype=hidden.dtype,
                config=config,
                device=hidden.device,
            )
        }
        if cache is not None:
            if type(cache) is DynamicCache:
                cache.__class__ = PrunedCache
            cache.visual = PrunedState(
                self.layer, pass_.past + hidden.shape[1], held + length, keys, weakref.ref(self)
            )

    def _lengths(self, pass_: Prefill, stay: Tensor) -> list[int]:
        """Positions left in each row; read back from the device only if the method is adaptive."""
        if not self.exact:
            return stay.sum(1).tolist()
        lengths = [stay.shape[1]] * stay.shape[0]
        row_of = [row for row, count in enumerate(pass_.images_per_row) for _ in range(count)]
        for images in pass_.groups:
            for ordinal in images.ordinals:
                lengths[row_of[ordinal]] -= images.tokens - self.budget(images.tokens)
        return lengths

    def _mask_on(self, device: torch.device) -> Any:
        if device not in self._mask:  # layers spread over several devices
            mask = next(iter(self._mask.values()))
            self._mask[device] = mask.to(device) if isinstance(mask, Tensor) else mask
        return self._mask[device]

    def _original_positions(
        self, pass_: Prefill, kwargs: dict, device: torch.device
    ) -> dict[str, Any]:
        """The original position ids and rotary embeddings of the tokens that are left."""
        if device not in pass_.rotary:
            index = pass_.gather.to(device)
            batch = index.shape[0]
            cos_sin = kwargs["position_embeddings"]
            pass_.rotary[device] = {
                "position_embeddings": tuple(
                    _take(t.to(device).expand(batch, -1, -1), index) for t in cos_sin
                ),
                "position_ids": kwargs["position_ids"].to(device).expand(batch, -1).gather(1, index)
                if kwargs.get("position_ids") is not None
                else None,
            }
        return pass_.rotary[device]

    def _end(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if self._prefill is not None:
            self._prefill.entering = None
            self._prefill.rotary.clear()
            for images in self._prefill.groups:
                images.__dict__.pop("hidden", None)
        self._prefill = self._decoding = self._mask = None


def visual_tokens(config: Any) -> int:
    """Visual tokens of one image of a LLaVA with this configuration."""
    tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    return tokens + (config.vision_feature_select_strategy == "full")


def _take(states: Tensor, index: Tensor) -> Tensor:
    """`(batch, positions, D)` at `index` `(batch, kept)`."""
    return states.gather(1, index.to(states.device)[..., None].expand(-1, -1, states.shape[-1]))


def _concat_masks(
    past: Tensor | None, new: Tensor | None, held: int, length: int, like: Tensor
) -> Tensor | None:
    """Key mask over cached and new positions; None when all of them are visible."""
    if past is None and new is None:
        return None
    parts = []
    for mask, size in ((past, held), (new, length)):
        if mask is None:
            mask = torch.ones(like.shape[0], size, dtype=torch.bool, device=like.device)
        parts.append(mask.to(like.device))
    return torch.cat(parts, dim=1)


def discover() -> Iterator[str]:
    """Import every module of this package, so that each file registers its method."""
    import importlib
    import pkgutil

    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
        yield module.name
