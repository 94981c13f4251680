"""Whether the name of a model means the hub."""

from __future__ import annotations

import re
from pathlib import Path


def is_hub_name(name: str) -> bool:
    """Whether a name means a model on the hub: `owner/name`, unless there is such a folder.

    >>> is_hub_name("llava-hf/llava-1.5-7b-hf"), is_hub_name("embedded"), is_hub_name("./a/b")
    (True, False, False)
    """
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name).is_dir()
