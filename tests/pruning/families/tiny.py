"""Tiny random models of every family and prompts for them; nothing is downloaded.

A `Tiny` builds a model of the real classes and lays out prompts: a row of a batch is a list of word
ids and of pictures, `Picture(kind, size)`, whose size means what the family's images differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.tiny import PAD, VOCABULARY, finish, tiny_llava, tiny_llava_next

IMAGE, VIDEO, START, END = 90, 91, 92, 93


class Picture(NamedTuple):
    """An image or a video of a prompt; size as the family counts it."""

    kind: str
    size: tuple[int, ...]


@dataclass
class Tiny:
    """A family in tiny.

    tokens: visual tokens of each part of a picture that has a budget of its own. between: words
    that stand between these parts. collate: the model's inputs besides ids and mask.
    small, large: sizes of two images; video: of a video, None if there are none.
    """

    name: str
    build: Callable[[], Any]
    tokens: Callable[[Picture], list[int]]
    collate: Callable[[list[list[Picture]], torch.Tensor, torch.Generator], dict[str, Any]]
    small: tuple[int, ...]
    large: tuple[int, ...]
    video: tuple[int, ...] | None = None
    between: Sequence[int] = ()
    words: int = 80
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        """A new model; the same weights every time."""
        with torch.no_grad():
            return self.build()

    def batch(self, rows: list[list[int | Picture]], *, seed: int = 0) -> dict[str, Any]:
        """Left-padded inputs."""
        prompts = [self._ids(row) for row in rows]
        longest = max(map(len, prompts))
        ids = torch.full((len(rows), longest), PAD)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        pictures = [[part for part in row if isinstance(part, Picture)] for row in rows]
        generator = torch.Generator().manual_seed(seed)
        return {"input_ids": ids, "attention_mask": mask} | self.collate(pictures, ids, generator)

    def _ids(self, row: list[int | Picture]) -> list[int]:
        ids: list[int] = []
        for part in row:
            if not isinstance(part, Picture):
                ids.append(part)
                continue
            marker = IMAGE if part.kind == "image" else VIDEO
            for number, count in enumerate(self.tokens(part)):
                ids += [*(self.between if number else ()), *[marker] * count]
        return ids

    def rows(self, kind: str) -> list[list[int | Picture]]:
        """Prompts: "one" image, a "ragged" batch, or a "video"."""
        small, large = Picture("image", self.small), Picture("image", self.large)
        if kind == "one":
            return [[1, 11, 12, large, 13, 14, 15]]
        if kind == "video":
            film = Picture("video", self.video)
            return [[1, 21, film, 22, 23], [1, 24, 25, 26, film, 27, film, 28]]
        if kind == "mixed":
            film = Picture("video", self.video)
            return [[1, 31, film, 32, small, 33], [1, large, 34, film, 35, 36]]
        return [
            [1, 41, large, 42, 43, 44],
            [1, 45, 46, small, 47, 48, large, 49, 50, 51, 52],
            [1, 53, 54, 55],
            [1, 56, 57, 58, 59, small, 60, 61],
        ]

    def inputs(self, kind: str, *, seed: int = 0) -> dict[str, Any]:
        return self.batch(self.rows(kind), seed=seed)

    def lengths(self, kind: str) -> list[int]:
        """Tokens of each part with a budget, in reading order."""
        rows = self.rows(kind)
        return [n for row in rows for p in row if isinstance(p, Picture) for n in self.tokens(p)]


def smooth(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """`(..., channels, height, width)` random images whose neighbouring pixels resemble each other."""
    *lead, channels, height, width = shape
    coarse = torch.randn(_product(lead), channels, 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (image + 0.1 * torch.randn(image.shape, generator=generator)).view(*shape)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _flat(rows: list[list[Picture]], kind: str) -> list[Picture]:
    return [picture for row in rows for picture in row if picture.kind == kind]


TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 512,
}  # fmt: skip

# ---- LLaVA-OneVision -------------------------------------------------------------------------------

SIDE = 6  # patches along a tile


def _onevision(ratio: str = "anyres_max_9") -> Any:
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 42, "patch_size": 7,
            "vision_use_head": False,
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE, video_token_id=VIDEO, vision_feature_select_strategy="full",
        vision_feature_layer=-1, vision_aspect_ratio=ratio,
        image_grid_pinpoints=[[42, 42], [42, 84], [84, 42]],
    )  # fmt: skip
    return finish(LlavaOnevisionForConditionalGeneration, config)


def _onevision_tokens(picture: Picture) -> list[int]:
    if picture.kind == "video":
        return [9] * (picture.size[0] - 1) + [10]
    height, width = picture.size
    if (height, width) == (42, 42):  # a single tile and the base
        return [36 + 6 * 7]
    return [36 + (height // 7) * (width // 7 + 1)]


def _onevision_shrunk(picture: Picture) -> list[int]:
    return [36 + 6 * 7] if picture.size == (42, 42) else [36 + {42: 4 * 9, 84: 8 * 5}[picture.size[0]]]


def _onevision_collate(rows, ids, generator):
    images, videos = _flat(rows, "image"), _flat(rows, "video")
    made = {}
    if images:
        made["pixel_values"] = smooth(generator, len(images), 3, 3, 42, 42)
        made["image_sizes"] = torch.tensor([picture.size for picture in images])
    if videos:
        made["pixel_values_videos"] = smooth(generator, len(videos), videos[0].size[0], 3, 42, 42)
    return made


# ---- Qwen ------------------------------------------------------------------------------------------


def _qwen25() -> Any:
    config = Qwen2_5_VLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "depth": 4, "num_heads": 4, "patch_size": 4,
            "window_size": 16, "fullatt_block_indexes": [1, 3], "out_hidden_size": 32,
        },
        text_config={
            **TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
            "mrope_section": [2, 1, 1]}, "use_sliding_window": False, "sliding_window": 8,
        },
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START,
        vision_end_token_id=END,
    )  # fmt: skip
    return finish(Qwen2_5_VLForConditionalGeneration, config)


def _qwen3() -> Any:
    config = Qwen3VLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "depth": 4, "num_heads": 4, "patch_size": 4,
            "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        text_config={
            **TEXT, "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
            "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        },
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START,
        vision_end_token_id=END,
    )  # fmt: skip
    return finish(Qwen3VLForConditionalGeneration, config)


def _qwen_tokens(picture: Picture) -> list[int]:
    frames, height, width = picture.size
    return [height * width // 4] * frames


def _qwen_collate(rows, ids, generator):
    made = {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}
    for kind, pixels, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        pictures = _flat(rows, kind)
        if pictures:
            made[grid] = torch.tensor([picture.size for picture in pictures])
            patches = [_patches(generator, *picture.size) for picture in pictures]
            made[pixels] = torch.cat(patches)
    return made


def _patches(generator, frames, height, width):
    """`(patches, 3 * 2 * 4 * 4)`, squares of two by two patches one after another."""
    image = smooth(generator, frames, 6, height * 4, width * 4)
    image = image.view(frames, 6, height // 2, 2, 4, width // 2, 2, 4)
    return image.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(frames * height * width, -1)


# ---- InternVL, SmolVLM -------------------------------------------------------------------------------


def _internvl() -> Any:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": [32, 32], "patch_size": [4, 4],
            "norm_type": "layer_norm", "layer_scale_init_value": 1.0,
        },
        text_config={"model_type": "qwen2", **TEXT}, image_token_id=IMAGE, downsample_ratio=0.5,
        image_seq_length=16,
    )  # fmt: skip
    return finish(InternVLForConditionalGeneration, config)


def _tiles(picture: Picture) -> list[int]:
    return [16] * picture.size[0]


def _internvl_collate(rows, ids, generator):
    tiles = sum(picture.size[0] for picture in _flat(rows, "image"))
    return {"pixel_values": smooth(generator, tiles, 3, 32, 32)}


def _smolvlm(kind: Any = SmolVLMForConditionalGeneration, configure: Any = SmolVLMConfig) -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 4,
    }  # fmt: skip
    config = configure(
        vision_config=vision, text_config={"model_type": "llama", **TEXT}, image_token_id=IMAGE,
        scale_factor=2, pad_token_id=PAD,
    )  # fmt: skip
    return finish(kind, config)


def _smolvlm_collate(rows, ids, generator):
    counts = [sum(picture.size[0] for picture in row) for row in rows]
    pixels = torch.zeros(len(rows), max(counts), 3, 32, 32)
    for row, count in enumerate(counts):
        if count:
            pixels[row, :count] = smooth(generator, count, 3, 32, 32)
    return {"pixel_values": pixels}


# ---- LLaVA ---------------------------------------------------------------------------------------


def _llava_collate(rows, ids, generator):
    return {"pixel_values": smooth(generator, len(_flat(rows, "image")), 3, 42, 42)}


def _next_collate(rows, ids, generator):
    images = _flat(rows, "image")
    sizes = torch.tensor([picture.size for picture in images])
    return {"pixel_values": smooth(generator, len(images), 3, 3, 42, 42), "image_sizes": sizes}


def _next_tokens(picture: Picture) -> list[int]:
    height, width = picture.size
    return [36 + (height // 7) * (width // 7 + 1)]


LLAVA = Tiny("llava", tiny_llava, lambda picture: [36], _llava_collate, (42, 42), (42, 42))
NEXT = Tiny("llava_next", tiny_llava_next, _next_tokens, _next_collate, (84, 42), (42, 84))
ONEVISION = Tiny(
    "llava_onevision", _onevision, _onevision_tokens, _onevision_collate, (84, 42), (42, 84), (3,)
)
SHRUNK = Tiny(
    "llava_onevision shrunk", lambda: _onevision("anyres_max_1"), _onevision_shrunk,
    _onevision_collate, (84, 42), (42, 84),
)  # fmt: skip
QWEN25 = Tiny("qwen2_5_vl", _qwen25, _qwen_tokens, _qwen_collate, (1, 6, 6), (1, 6, 10), (2, 4, 6))
QWEN3 = Tiny(
    "qwen3_vl", _qwen3, _qwen_tokens, _qwen_collate, (1, 6, 6), (1, 6, 10), (2, 4, 6), (START, 70, 71)
)  # fmt: skip
INTERNVL = Tiny("internvl", _internvl, _tiles, _internvl_collate, (1,), (3,))
SMOLVLM = Tiny("smolvlm", _smolvlm, _tiles, _smolvlm_collate, (1,), (3,), None, (81, 82))
IDEFICS3 = Tiny(
    "idefics3", lambda: _smolvlm(Idefics3ForConditionalGeneration, Idefics3Config), _tiles,
    _smolvlm_collate, (1,), (3,), None, (81, 82),
)  # fmt: skip

#: one a family
ALL = {tiny.name: tiny for tiny in (LLAVA, NEXT, ONEVISION, QWEN25, QWEN3, INTERNVL, SMOLVLM)}
#: other configurations of a family
MORE = {tiny.name: tiny for tiny in (SHRUNK, IDEFICS3)}
