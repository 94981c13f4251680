"""Processors that prepare images and text, but no videos.

Those of newer families hold a video processor, which needs torchvision; a study captions images.
"""

from __future__ import annotations

from typing import Any

from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

PART = "video_processor"


class NoVideos:
    """Stands where a processor looks for its video part."""

    num_frames = fps = None

    def __call__(self, *videos: Any, **options: Any) -> Any:
        raise ValueError("this processor prepares images only, it got a video")


def stills(config: Any) -> type | None:
    """The processor class of a configuration without its video part; None if it has none."""
    kind = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or PART not in kind.get_attributes():
        return None

    def attributes(cls: type) -> list[str]:
        return [name for name in kind.get_attributes() if name != PART]

    def parts(cls: type, *args: Any, **kwargs: Any) -> list[Any]:
        # the video part comes third in every class, and some have no default for it
        return [*super(own, cls)._get_arguments_from_pretrained(*args, **kwargs), None]

    body = {
        "get_attributes": classmethod(attributes),
        PART: NoVideos(),
        "_get_arguments_from_pretrained": classmethod(parts),
    }
    own = type(kind.__name__, (kind,), body)
    return own
