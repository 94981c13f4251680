"""The images and what people wrote about them: reading, downloading, drawing."""

from .captions import read_coco_captions, read_karpathy
from .coco import coco_dir, download, karpathy_json
from .examples import Example, missing_images
from .http import DownloadError
from .scenes import ensure_scenes

__all__ = [
    "DownloadError",
    "Example",
    "coco_dir",
    "download",
    "ensure_scenes",
    "karpathy_json",
    "missing_images",
    "read_coco_captions",
    "read_karpathy",
]
