"""Hidden states of several layers at the visual tokens, for the methods that rank by content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import ImageTokens, VisualPruner


@dataclass(eq=False, kw_only=True)
class StatePruner(VisualPruner):
    """A method that looks at the visual tokens of the layers l1..l2.

    source, layers: whose hidden states are looked at, `layers = (l1, l2)` inclusive. "vision": the
        hidden states of the vision tower (index 0: its embeddings; negative counts from the end).
        "language": the visual tokens as they enter the language layers l1..l2 <= `layer`.
    """

    source: Literal["vision", "language"] = "vision"
    layers: tuple[int, int] | None = None

    #: layers used when none are named, counted back from the last one there is
    depth = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ahead: tuple | None = None
        self.one_of(source=("vision", "language"))
        if self.layers is not None:
            self.layers = tuple(self.layers)  # JSON has lists

    def one_of(self, **options: tuple[str, ...]) -> None:
        """Raise `ValueError` for an option that is not among the allowed names."""
        for option, allowed in options.items():
            if getattr(self, option) not in allowed:
                value = getattr(self, option)
                raise ValueError(f"{option} must be one of {allowed}, got {value!r}")

    def rank(self, states: list[Tensor]) -> Tensor:
        """The tokens to keep, bool `(n, N)`, from the states of the layers l1..l2."""
        raise NotImplementedError

    def select(self, images: ImageTokens) -> Tensor:
        if self._ahead is None:
            return self.rank(self.layer_states(images))
        (stream, mask, _), self._ahead = self._ahead, None
        torch.cuda.current_stream().wait_stream(stream)
        return mask

    def attach(self, model: PreTrainedModel) -> None:
        self.forget("_states", [])
        self.forget("_ahead")
        if self.source == "vision":
            self._attach_vision(model)
        else:
            self._attach_language(model)

    def _attach_vision(self, model: PreTrainedModel) -> None:
        config, tower = model.config, model.model.vision_tower
        if config.model_type != "llava":
            raise TypeError(
                f"the tiles of {config.model_type!r} do not line up with its visual tokens; "
                "use source='language'"
            )
        depth = config.vision_config.num_hidden_layers + 1
        feature = config.vision_feature_layer
        last = feature if isinstance(feature, int) else feature[-1]
        last = last if last >= 0 else depth + last
        wanted = self._range(depth, default=(max(0, last - self.depth + 1), last))
        skip = int(config.vision_feature_select_strategy == "default")  # the class token

        def ask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return args, kwargs | {"output_hidden_states": True}

        def collect(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            self._states = [output.hidden_states[index][:, skip:] for index in wanted]

        self.hook(tower, ask, before=True)
        self.hook(tower, collect, before=False)
        blocks = getattr(tower, "vision_model", tower).encoder.layers
        if wanted[-1] < len(blocks):
            self._attach_ahead([blocks[index] for index in wanted], skip)

    def _attach_ahead(self, blocks: list[nn.Module], skip: int) -> None:
        """In a captured prefill rank as soon as the last state is there, on a stream of its own.

        The rest of the vision tower, the projector and the language layers before `layer` do not
        wait for the choice. Without a capture the host is the bottleneck and nothing is gained.
        """
        entering: list[Tensor] = []

        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            if not (states.is_cuda and torch.cuda.is_current_stream_capturing()):
                return
            if module is blocks[0]:
                entering.clear()
            entering.append(states[:, skip:])
            groups = self._prefill.groups if self._prefill is not None else []
            if module is not blocks[-1] or len(groups) != 1 or groups[0].count != len(states):
                return
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # the states stay referenced until the streams meet again
                self._ahead = stream, self.rank(list(entering)), list(entering)

        for block in blocks:
            self.hook(block, enter, before=True)

    def _attach_language(self, model: PreTrainedModel) -> None:
        first = max(0, self.layer - self.depth + 1)
        wanted = self._range(self.layer + 1, default=(first, self.layer))

        def collect(first: bool):
            def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                if self._prefill is not None and self._prefill.groups:
                    if first:
                        self._states = []
                    self._states.append(args[0] if args else kwargs["hidden_states"])

            return hook

        for index in wanted:
            layer = model.model.language_model.layers[index]
            self.hook(layer, collect(index == wanted[0]), before=True)

    def _range(self, depth: int, default: tuple[int, int]) -> range:
        first, last = self.layers if self.layers is not None else default
        first, last = (i if i >= 0 else depth + i for i in (first, last))
        if not 0 <= first <= last < depth:
            raise ValueError(
                f"layers {self.layers} must name l1 <= l2 among {depth} hidden states of the "
                f"{self.source} model that exist before pruning"
            )
        return range(first, last + 1)

    def layer_states(self, images: ImageTokens) -> list[Tensor]:
        """The states of the layers l1..l2, shallow first: each `(n, N, D_l)`."""
        if not self._states:
            raise RuntimeError("the vision tower did not run: pass pixel_values")
        pick = images.of_vision if self.source == "vision" else images.take
        return [pick(states).to(images.columns.device) for states in self._states]
