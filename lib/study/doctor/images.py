"""The images of a profile, and what scoring their captions needs besides."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ..data import SOURCES, Source, coco, flickr
from ..evaluation import corenlp
from ..profiles import Profile
from .finding import Finding

#: what the list of images is called in the report
SPLIT = "split"


def check_images(profile: Profile) -> list[Finding]:
    """A data set's split and its images one by one; a file of one's own; or drawn scenes."""
    source = SOURCES.get(profile.images_of)
    if source is None and not profile.json_path:
        return [Finding("images", True, "generated scenes, drawn on first use")]
    remedy = f"make data PROFILE={profile.profile}" if source else "correct the profile"
    json_path = Path(profile.json_path or source.listing()).expanduser()
    if profile.image_root:
        image_root = Path(profile.image_root).expanduser()
    else:
        image_root = source.folder() if source else json_path.parent
    if not json_path.is_file():
        absent = Finding(SPLIT, False, f"{json_path} is absent", remedy)
        return _not_yet(profile, source, absent) if source else [absent]
    read = flickr.read_flickr if profile.images_of == "flickr8k" else coco.read_karpathy
    try:
        examples = read(
            json_path,
            profile.split,
            image_root=image_root,
            limit=profile.limit,
            check_files=False,
        )
    except ValueError as error:
        damaged = "not valid JSON" in str(error) and source
        fix = f"rm {json_path} && {remedy}" if damaged else "correct the file, or the profile"
        return [Finding(SPLIT, False, str(error), fix)]
    found = Finding(SPLIT, True, f"{profile.split}, {len(examples)} images, in {json_path}")
    missing = coco.missing_images(examples)
    if not missing:
        return [found, Finding("images", True, f"all {len(examples)} below {image_root}")]
    names = ", ".join(e.path.name for e in missing[:3]) + (", ..." if len(missing) > 3 else "")
    detail = f"{len(missing)} of {len(examples)} are missing below {image_root}: {names}"
    size = len(missing) * source.image_bytes if source else 0
    return [found, Finding("images", False, detail, remedy, size)]


def _not_yet(profile: Profile, source: Source, absent: Finding) -> list[Finding]:
    """A data set's split and images before anything was downloaded."""
    count = min(source.split_sizes.get(profile.split, 0), profile.limit or sys.maxsize)
    detail = f"up to {count} of the {profile.split} split, unknown until the split is there"
    return [
        replace(absent, download=source.archive.size, unpacked=source.archive.unpacked),
        Finding("images", False, detail, absent.remedy, count * source.image_bytes),
    ]


def check_spice() -> Finding:
    """CoreNLP for SPICE; without it the column is a dash, so no profile needs it."""
    status = corenlp.corenlp_status()
    if status.installed:
        return Finding("SPICE", True, f"CoreNLP 3.6.0 in {status.folder}", needed=False)
    return Finding(
        "SPICE",
        False,
        f"CoreNLP 3.6.0 is absent ({', '.join(status.missing)}); the column will be a dash",
        "make spice",
        corenlp.CORENLP_BYTES,
        needed=False,
    )
