"""Tiny random models of every family and prompts for them; nothing is downloaded.

A `Tiny` builds a model of the real classes and lays out prompts: a row of a batch is a list of word
ids and of pictures, `Picture(kind, size)`, whose size means what the family's images differ in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """An image or a video of a prompt; size as the family counts it, seed of its pixels."""

    kind: str
    size: tuple[int, ...]
    seed: int = 0

    def pixels(self, *shape: int) -> torch.Tensor:
        """`(..., channels, height, width)` random images whose neighbouring pixels are alike."""
        generator = torch.Generator().manual_seed(self.seed)
        *lead, channels, height, width = shape
        coarse = torch.randn(math.prod(lead), channels, 4, 4, generator=generator)
        image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        return (image + 0.1 * torch.randn(image.shape, generator=generator)).view(*shape)


@dataclass
class Tiny:
    """A family in tiny.

    tokens: visual tokens of each part of a picture that has a budget of its own. before, between:
    words in front of a picture, and between these parts. collate: the model's other inputs.
    small, large: sizes of two images; video: of a video, None if there are none.
    """

    name: str
    build: Callable[[], Any]
    tokens: Callable[[Picture], list[int]]
    collate: Callable[[list[list[Picture]], torch.Tensor], dict[str, Any]]
    small: tuple[int, ...]
    large: tuple[int, ...]
    video: tuple[int, ...] | None = None
    before: Sequence[int] = ()
    between: Sequence[int] = ()

    def model(self) -> Any:
        """A new model; the same weights every time."""
        with torch.no_grad():
            return self.build()

    def batch(self, rows: list[list[int | Picture]]) -> dict[str, Any]:
        """Left-padded inputs."""
        prompts = [self._ids(row) for row in rows]
        longest = max(map(len, prompts))
        ids = torch.full((len(rows), longest), PAD)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        pictures = [[part for part in row if isinstance(part, Picture)] for row in rows]
        return {"input_ids": ids, "attention_mask": mask} | self.collate(pictures, ids)

    def _ids(self, row: list[int | Picture]) -> list[int]:
        ids: list[int] = []
        for part in row:
            if not isinstance(part, Picture):
                ids.append(part)
                continue
            marker = IMAGE if part.kind == "image" else VIDEO
            for number, count in enumerate(self.tokens(part)):
                ids += [*(self.between if number else self.before), *[marker] * count]
        return ids

    def rows(self, kind: str) -> list[list[int | Picture]]:
        """Prompts: "one" image, a "ragged" batch, or a "video"."""
        a, b = Picture("image", self.large, 1), Picture("image", self.small, 2)
        c, d = Picture("image", self.large, 3), Picture("image", self.small, 4)
        if kind == "one":
            return [[1, 11, 12, a, 13, 14, 15]]
        if kind == "ragged":
            return [
                [1, 41, a, 42, 43, 44],
                [1, 45, 46, b, 47, 48, c, 49, 50, 51, 52],
                [1, 53, 54, 55],
                [1, 56, 57, 58, 59, d, 60, 61],
            ]
        films = [Picture("video", self.video, seed) for seed in (5, 6, 7)]
        if kind == "video":
            return [[1, 21, films[0], 22, 23], [1, 24, 25, 26, films[1], 27, films[2], 28]]
        if kind == "mixed":
            return [[1, 31, films[0], 32, b, 33], [1, a, 34, films[1], 35, 36]]
        raise ValueError(f"kind must be one, ragged, video or mixed, got {kind!r}")

    def inputs(self, kind: str) -> dict[str, Any]:
        """The prompts of a kind as the model takes them."""
        return self.batch(self.rows(kind))

    def lengths(self, kind: str) -> list[int]:
        """Tokens of each part with a budget, in reading order."""
        rows = self.rows(kind)
        return [n for row in rows for p in row if isinstance(p, Picture) for n in self.tokens(p)]


def _flat(rows: list[list[Picture]], kind: str) -> list[Picture]:
    return [picture for row in rows for picture in row if picture.kind == kind]


TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 512,
}  # fmt: skip

# ---- LLaVA-OneVision ----------------------------------------------------------------------------

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
    return _next_tokens(picture)


def _onevision_shrunk(picture: Picture) -> list[int]:
    high = picture.size[0] > picture.size[1]  # two tiles become as many patches as one has
    return [36 + (8 * 5 if high else 4 * 9)]


def _onevision_collate(rows, ids):
    images, videos = _flat(rows, "image"), _flat(rows, "video")
    made = {}
    if images:
        made["pixel_values"] = torch.stack([one.pixels(3, 3, 42, 42) for one in images])
        made["image_sizes"] = torch.tensor([picture.size for picture in images])
    if videos:
        made["pixel_values_videos"] = torch.stack(
            [one.pixels(one.size[0], 3, 42, 42) for one in videos]
        )
    return made


# ---- Qwen ---------------------------------------------------------------------------------------


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


def _qwen_collate(rows, ids):
    made = {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}
    for kind, pixels, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        pictures = _flat(rows, kind)
        if pictures:
            made[grid] = torch.tensor([picture.size for picture in pictures])
            made[pixels] = torch.cat([_patches(picture) for picture in pictures])
    return made


def _patches(picture):
    """`(patches, 3 * 2 * 4 * 4)`, squares of two by two patches one after another."""
    frames, height, width = picture.size
    image = picture.pixels(frames, 6, height * 4, width * 4)
    image = image.view(frames, 6, height // 2, 2, 4, width // 2, 2, 4)
    return image.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(frames * height * width, -1)


# ---- InternVL, SmolVLM --------------------------------------------------------------------------


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


def _internvl_collate(rows, ids):
    images = _flat(rows, "image")
    return {"pixel_values": torch.cat([one.pixels(one.size[0], 3, 32, 32) for one in images])}


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


def _smolvlm_collate(rows, ids):
    tiles = [[tile for one in row for tile in one.pixels(one.size[0], 3, 32, 32)] for row in rows]
    pixels = torch.zeros(len(rows), max(map(len, tiles)), 3, 32, 32)
    for row, own in enumerate(tiles):
        if own:
            pixels[row, : len(own)] = torch.stack(own)
    return {"pixel_values": pixels}


# ---- LLaVA --------------------------------------------------------------------------------------


def _llava_collate(rows, ids):
    images = _flat(rows, "image")
    return {"pixel_values": torch.stack([one.pixels(3, 42, 42) for one in images])}


def _next_collate(rows, ids):
    images = _flat(rows, "image")
    sizes = torch.tensor([picture.size for picture in images])
    pixels = torch.stack([one.pixels(3, 3, 42, 42) for one in images])
    return {"pixel_values": pixels, "image_sizes": sizes}


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
QWEN25 = Tiny(
    "qwen2_5_vl", _qwen25, _qwen_tokens, _qwen_collate, (1, 6, 6), (1, 6, 10), (2, 4, 6), (START,)
)  # fmt: skip
QWEN3 = Tiny(
    "qwen3_vl", _qwen3, _qwen_tokens, _qwen_collate, (1, 6, 6), (1, 6, 10), (2, 4, 6),
    (START,), (END, 70, 71, START),
)  # fmt: skip
INTERNVL = Tiny("internvl", _internvl, _tiles, _internvl_collate, (1,), (3,))
SMOLVLM = Tiny("smolvlm", _smolvlm, _tiles, _smolvlm_collate, (1,), (3,), None, (83,), (81, 82))
IDEFICS3 = Tiny(
    "idefics3", lambda: _smolvlm(Idefics3ForConditionalGeneration, Idefics3Config), _tiles,
    _smolvlm_collate, (1,), (3,), None, (83,), (81, 82),
)  # fmt: skip

#: one a family
ALL = {tiny.name: tiny for tiny in (LLAVA, NEXT, ONEVISION, QWEN25, QWEN3, INTERNVL, SMOLVLM)}
#: other configurations of a family
MORE = {tiny.name: tiny for tiny in (SHRUNK, IDEFICS3)}
