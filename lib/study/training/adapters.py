"""Low-rank adapters (LoRA, arXiv:2106.09685) in a frozen language model, through peft."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaModel, LlavaForConditionalGeneration

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_adapters(
    model: LlavaForConditionalGeneration,
    *,
    rank: int = 8,
    alpha: int = 32,
    dropout: float = 0.05,
    random_state: int = 0,
) -> LlavaForConditionalGeneration:
    """Freeze the language model and give each of its linear maps an adapter; in place.

    The update is (alpha / rank) B A; B starts at zero, so the model's output does not change.
    """
    model.requires_grad_(False)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(TARGETS), bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        inject_adapter_in_model(config, model.model.language_model)
    return model


class Trainables:
    """The adapters and the projector of a model: what a caption stage learns and what is kept."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self.model = model

    def named(self) -> dict[str, torch.nn.Parameter]:
        """Parameters by short names: ``layers.0.mlp.up_proj.A``, ``projector.linear_1.bias``."""
        found = {}
        for name, weight in self.model.model.language_model.named_parameters():
            if ".lora_" in name:
                place, _, rest = name.partition(".lora_")
                found[f"{place}.{rest[0]}"] = weight
        for name, weight in self.model.model.multi_modal_projector.named_parameters():
            found[f"projector.{name}"] = weight
        return found

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters, set to learn."""
        return [weight.requires_grad_() for weight in self.named().values()]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of the weights on the CPU."""
        return {name: weight.detach().cpu().clone() for name, weight in self.named().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take weights in place."""
        there = self.named()
        if missing := sorted(set(there) ^ set(state)):
            raise ValueError(f"adapters differ in {missing[:3]} ({len(missing)} names in all)")
        with torch.no_grad():
            for name, weight in there.items():
                weight.copy_(state[name])


class PlainCopy:
    """The language model with its adapters folded in, for decoding: fewer and cheaper kernels.

    Parameters
    ----------
    model : with adapters.
    dtype : of the copy.
    """

    def __init__(self, model: LlavaForConditionalGeneration, dtype: torch.dtype) -> None:
        self.source = model.model.language_model
        device = self.source.embed_tokens.weight.device
        with torch.device(device):
            self.language = LlamaModel(model.config.text_config).to(dtype).eval()
        self.language.requires_grad_(False)
        self.refresh(everything=True)

    @torch.no_grad()
    def refresh(self, *, everything: bool = False) -> None:
        """Take the adapters as they are now; the frozen weights only where `everything`."""
        mine = dict(self.language.named_modules())
        for name, module in self.source.named_modules():
            if isinstance(module, LoraLayer):
                change = module.get_delta_weight("default")
                mine[name].weight.copy_(module.base_layer.weight + change)
            elif everything and name in mine:
                for key, weight in module.named_parameters(recurse=False):
                    mine[name].get_parameter(key).copy_(weight)
