"""What training needs of a scene: pixels, the codes of its patches, and tokenised captions.

Apart from the pool, so that its worker processes import neither torch nor transformers.
"""

from __future__ import annotations

import os

import numpy as np
from tokenizers import Tokenizer

from .drawing import draw, patch_labels
from .grammar import captions
from .layout import SIZE, Scene, sample_scene, scene_seed
from .words import COLOURS, SHAPES, SIZES

CAPTION_TOKENS = 48  # room for a caption, its end included


def patch_codes(scene: Scene) -> np.ndarray:
    """Shape, colour and size that each patch shows, in one number; 0 is the background.

    Returns
    -------
    (16, 16) int16: ``((shape + 1) * 16 + colour + 1) * 16 + size + 1``.
    """
    table = [0]
    for item in scene.objects:
        shape, colour = list(SHAPES).index(item.shape), list(COLOURS).index(item.colour)
        table.append(((shape + 1) * 16 + colour + 1) * 16 + list(SIZES).index(item.size) + 1)
    return np.array(table, np.int16)[patch_labels(scene)]


def render(
    start: int, count: int, variants: int, tokenizer_json: str, folder: str
) -> tuple[str, np.ndarray, np.ndarray]:
    """Draw training scenes start … start + count (runs in a worker).

    Pictures go through a file in memory, the small arrays come back as they are.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    end = tokenizer.token_to_id("</s>")
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    codes = np.zeros((count, 256), np.int16)
    tokens = np.full((count, variants, CAPTION_TOKENS), -1, np.int16)
    for i in range(count):
        scene = sample_scene(scene_seed("train", start + i))
        images[i] = draw(scene)
        codes[i] = patch_codes(scene).reshape(-1)
        for j, text in enumerate(captions(scene, variants)):
            ids = tokenizer.encode(" " + text, add_special_tokens=False).ids
            if len(ids) >= CAPTION_TOKENS:
                raise ValueError(
                    f"a caption of {len(ids)} tokens exceeds {CAPTION_TOKENS - 1}: {text!r}"
                )
            tokens[i, j, : len(ids) + 1] = [*ids, end]
    path = os.path.join(folder, f"{start}.npy")
    np.save(path, images)
    return path, codes, tokens
