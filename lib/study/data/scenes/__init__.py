"""The embedded data set: scenes drawn from a seed, described in the Karpathy JSON format.

Every pixel is integer arithmetic on raw generator bits (no antialiasing of a drawing library, no
transcendental function), so a seed gives the same bytes on every machine. A scene holds one to six
objects, many of them small enough to fit in one to four 14-pixel patches, on a background with the
redundancy of a photograph: quiet areas, repeated texture, clutter that nobody mentions, or a crop
of one of the two photographs that scikit-learn ships.

Splits are disjoint ranges of seeds; ``test`` has 1,000 images. Nothing drawn is committed.

    layout -> grounds, shapes -> drawing     what is there, and how it looks
    words  -> grammar, reading               captions, and what a caption names
    files                                    the split on disk; ensure_scenes
    rendering, pool                          for training; not imported from here, pool needs torch
"""

from .drawing import PATCH, draw, patch_labels
from .files import VERSION, ensure_scenes, karpathy
from .grammar import CAPTIONS, captions, compose_caption
from .layout import SIZE, SPLITS, Scene, SceneObject, image_id, sample_scene, scene_seed
from .reading import ObjectScore, caption_tokens, named_objects, object_f1
from .words import BACKGROUNDS, COLOURS, SHAPES, SIZES

__all__ = [
    "BACKGROUNDS",
    "CAPTIONS",
    "COLOURS",
    "PATCH",
    "SHAPES",
    "SIZE",
    "SIZES",
    "SPLITS",
    "VERSION",
    "ObjectScore",
    "Scene",
    "SceneObject",
    "caption_tokens",
    "captions",
    "compose_caption",
    "draw",
    "ensure_scenes",
    "image_id",
    "karpathy",
    "named_objects",
    "object_f1",
    "patch_labels",
    "sample_scene",
    "scene_seed",
]
