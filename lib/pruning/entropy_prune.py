"""Entropy-Prune: keep the tokens whose removal would cost the most matrix entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..selection import hierarchical, token_level
from .base import ImageTokens, VisualPruner


@dataclass(eq=False, kw_only=True)
class EntropyPrune(VisualPruner, name="entropy"):
    """Algorithm 1 of the paper on the matrix entropy of several layers, merged by rollout.

    source, layers: whose hidden states are ranked, `layers = (l1, l2)` inclusive. "vision": the
        hidden states of the vision tower (index 0: its embeddings; negative counts from the end;
        default the four layers up to the one the projector reads). "language": the visual tokens
        as they enter the language layers l1..l2 <= `layer` (default 0..`layer`).
    level: "cluster" is Algorithm 1; "token" ranks single tokens by exact leave-one-out.
    count: "exact" keeps `budget(N)` tokens, filled from the core clusters by their distance to
        the centroid; "adaptive" is the paper's dynamic count, at most k_c * t_pc.
    n_clusters, core_clusters, tokens_per_cluster: M, k_c and t_pc. By default k_c follows from
        `keep` (k_c * t_pc is the budget) and M = 2 k_c, the paper's proportions.
    rollout: "scaled" (I + H/L), "literal" (eq. 6) or "scores"; see `lib.rollout`.
    weighting: how a centroid counts, see `lib.selection.hierarchical`.
    """

    source: Literal["vision", "language"] = "vision"
    layers: tuple[int, int] | None = None
    level: Literal["cluster", "token"] = "cluster"
    count: Literal["exact", "adaptive"] = "exact"
    n_clusters: int | None = None
    core_clusters: int | None = None
    tokens_per_cluster: int = 2
    rollout: Literal["scaled", "literal", "scores"] = "scaled"
    weighting: Literal["unit", "mass", "token-sum"] = "unit"
    random_state: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, allowed in {
            "source": ("vision", "language"),
            "level": ("cluster", "token"),
            "count": ("exact", "adaptive"),
        }.items():
            if getattr(self, option) not in allowed:
                raise ValueError(
                    f"{option} must be one of {allowed}, got {getattr(self, option)!r}"
                )
        if self.level == "token" and self.count == "adaptive":
            raise ValueError("level='token' has no adaptive count; use count='exact'")
        if self.tokens_per_cluster < 1:
            raise ValueError(f"tokens_per_cluster must be >= 1, got {self.tokens_per_cluster}")

    @property
    def exact(self) -> bool:
        return self.count == "exact"

    @property
    def keeps_all(self) -> bool:
        return self.keep == 1 and (self.exact or self.core_clusters is None)

    def attach(self, model: PreTrainedModel) -> None:
        self._states: list[Tensor] = []
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
        wanted = self._range(depth, default=(max(0, last - 3), last))
        skip = int(config.vision_feature_select_strategy == "default")  # the class token

        def ask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return args, kwargs | {"output_hidden_states": True}

        def collect(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            self._states = [output.hidden_states[index][:, skip:] for index in wanted]

        self.hook(tower, ask, before=True)
        self.hook(tower, collect, before=False)

    def _attach_language(self, model: PreTrainedModel) -> None:
        wanted = self._range(self.layer + 1, default=(0, self.layer))

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

    def select(self, images: ImageTokens) -> Tensor:
        if not self._states:
            raise RuntimeError("the vision tower did not run: pass pixel_values")
        pick = images.of_vision if self.source == "vision" else images.take
        states = [pick(s).to(images.hidden.device) for s in self._states]
        tokens, keep = states[-1], self.budget(images.tokens)
        layers = states if len(states) > 1 else None
        if self.level == "token":
            return token_level(tokens, keep, layers=layers, rollout=self.rollout, check=False)
        cores = self.core_clusters or max(1, -(-keep // self.tokens_per_cluster))
        return hierarchical(
            tokens,
            self.n_clusters or min(images.tokens, 2 * cores),
            cores,
            self.tokens_per_cluster,
            layers=layers,
            rollout=self.rollout,
            budget=keep if self.exact else "adaptive",
            weighting=self.weighting,
            random_state=self.random_state,
            check=False,
        ).mask
