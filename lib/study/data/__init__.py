"""The images and what people wrote about them: reading, downloading, drawing."""

from .captions import read_coco_captions, read_karpathy
from .coco import coco_dir, download, karpathy_json
from .examples import Example, missing_images
from .flickr import flickr_dir, flickr_json, read_flickr
from .http import DownloadError
from .scenes import ensure_scenes

__all__ = [
    "DownloadError",
    "Example",
    "coco_dir",
    "download",
    "ensure_scenes",
    "flickr_dir",
    "flickr_json",
    "karpathy_json",
    "missing_images",
    "read_coco_captions",
    "read_flickr",
    "read_karpathy",
]
