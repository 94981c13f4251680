"""The only place that loads a model and its processor.

Four kinds of names: ``"embedded"``, the small LLaVA that ships in ``data/embedded``; ``"photos"``
and ``"photos-dropout"``, SmolLM2-135M behind a CLIP tower of this project (`photos`);
``"shape:llava-1.5-7b"``, the exact architecture of LLaVA-1.5-7B with random weights, for timing
without a download (``"shape:tiny"`` is the same in tiny, for tests); and any Hugging Face hub id or
local folder. Image processors are always the PIL ones, so torchvision is not needed and pixels do
not depend on whether it is installed.
"""

from ..hub import is_hub_name
from ..paths import embedded_dir
from .embedded import (
    IMAGE_TOKEN,
    SPECIAL_TOKENS,
    build_embedded,
    build_processor,
    embedded_config,
    embedded_tokenizer,
    train_tokenizer,
)
from .folders import SUMS, check_folder, save
from .loading import Loaded, load, load_processor, read_config
from .modes import in_mode
from .names import ships
from .processors import COUNTING
from .prompts import CHAT_TEMPLATE, PROMPT, format_prompt, full_prompt

__all__ = [
    "CHAT_TEMPLATE",
    "COUNTING",
    "IMAGE_TOKEN",
    "PROMPT",
    "SPECIAL_TOKENS",
    "SUMS",
    "Loaded",
    "build_embedded",
    "build_processor",
    "check_folder",
    "embedded_config",
    "embedded_dir",
    "embedded_tokenizer",
    "format_prompt",
    "full_prompt",
    "in_mode",
    "is_hub_name",
    "load",
    "load_processor",
    "read_config",
    "save",
    "ships",
    "train_tokenizer",
]
