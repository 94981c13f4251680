"""The images and what people wrote about them: reading, downloading, drawing."""

from .captions import read_coco_captions, read_karpathy
from .coco import COCO, coco_dir, karpathy_json
from .examples import Example, missing_images
from .fetching import Source, download
from .flickr import FLICKR8K, flickr_dir, flickr_json, read_flickr
from .http import DownloadError
from .scenes import ensure_scenes

#: what can be downloaded, by the names that profiles use
SOURCES = {"coco": COCO, "flickr8k": FLICKR8K}

__all__ = [
    "COCO",
    "FLICKR8K",
    "SOURCES",
    "DownloadError",
    "Example",
    "Source",
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
