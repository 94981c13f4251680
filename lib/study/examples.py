"""The images of a profile: COCO's, Flickr8k's, a file's of one's own, or the generated scenes."""

from __future__ import annotations

from pathlib import Path

from .data import SOURCES, coco, download, flickr, scenes
from .profiles import Profile

__all__ = ["examples", "fetch"]


def examples(
    profile: Profile, *, limit: int | None = None, progress: bool = True
) -> list[coco.Example]:
    """The images of a profile, drawn on first use (scenes) or read from a download (the others).

    limit: fewer images than the profile's; a smaller subset lies within the larger ones.
    """
    read = flickr.read_flickr if profile.images_of == "flickr8k" else coco.read_karpathy
    listing, root = _listing(profile, progress=progress)
    return read(
        listing,
        profile.split,
        image_root=root,
        limit=limit or profile.limit,
        random_state=profile.random_state,
    )


def fetch(profile: Profile, *, progress: bool = True) -> list[coco.Example]:
    """Get the images of a profile: draw the scenes, or download a split's list and images."""
    if profile.images_of == "scenes":
        return examples(profile, progress=progress)
    return download(
        SOURCES[profile.images_of],
        profile.split,
        image_root=profile.image_root,
        json_path=profile.json_path,
        limit=profile.limit,
        random_state=profile.random_state,
        progress=progress,
    )


def _listing(profile: Profile, *, progress: bool) -> tuple[Path, Path | None]:
    """The Karpathy JSON and, where it is elsewhere, the folder of the images."""
    root = Path(profile.image_root).expanduser() if profile.image_root else None
    if profile.json_path:
        return Path(profile.json_path).expanduser(), root
    if source := SOURCES.get(profile.images_of):
        return source.listing(), root or source.folder()
    return scenes.ensure_scenes(profile.split, progress=progress), None
