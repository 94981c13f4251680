"""The table of methods by model family on the families' page, made from the methods' refusals.

`python -m lib report docs` writes it into docs/families.md. The models have the families' default
configurations and no weights: binding a method to one is all that happens.
"""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from ...pruning import support_markdown, support_table
from ..paths import PACKAGE

PAGE = PACKAGE.parent / "docs" / "families.md"
#: one model type a family, in the page's order
KINDS = (
    "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm",
)  # fmt: skip


def table() -> str:
    """The table in Markdown, of every registered method."""
    # up to transformers 5.17 the default padding token of SmolVLM lies outside its vocabulary
    configs = [AutoConfig.for_model(kind, pad_token_id=0) for kind in KINDS]
    with torch.device("meta"):
        models = [AutoModelForImageTextToText.from_config(config) for config in configs]
    return support_markdown(support_table(models))


def blocks() -> dict[str, str]:
    """`{marker: Markdown}` of what is made of the page."""
    return {"support": table()}
