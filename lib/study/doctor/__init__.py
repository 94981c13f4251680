"""What is here, what is missing, and which command gets it: `make doctor`, and every dry run.

Looks at this machine only and never touches the network. Nothing is guessed that can be tried:
folders are written to, Java scores a caption under this machine's locale, the kernel of the
notebooks is looked up. Sizes of downloads are those of `lib.study.data.coco`,
`lib.study.evaluation.corenlp` and `lib.study.doctor.models`, with their sources there.
"""

from __future__ import annotations

from pathlib import Path

from ..profiles import Profile, load_profile, profile_names
from . import images, machine, models, packages
from .finding import Finding
from .report import overview, ready, report

__all__ = ["Finding", "examine", "examine_all", "overview", "ready", "report"]


def examine(profile: Profile, *, cache_dir: Path | None = None) -> list[Finding]:
    """Everything `profile` depends on, in the order in which one would fix it.

    Args:
        cache_dir: the hub's cache, by default the one huggingface_hub uses.
    """
    findings = [
        packages.check_python(),
        packages.check_packages(),
        machine.check_checkout(),
        machine.check_temporary(),
        machine.check_terminal(),
        machine.check_java(),
        machine.check_meteor(),
        images.check_spice(),
        models.check_model(profile, cache_dir),
        *images.check_images(profile),
        models.check_gpu(profile),
        machine.check_kernel(),
    ]
    return [*findings, machine.check_disk(findings, cache_dir)]


def examine_all() -> dict[str, list[Finding]]:
    """The findings of every profile, the embedded one first and those that read COCO last.

    Raises:
        ValueError: naming the file, if a profile is unusable.
    """
    profiles = [load_profile(name) for name in profile_names()]
    profiles.sort(key=lambda profile: (profile.on_coco, profile.profile != "embedded"))
    return {profile.profile: examine(profile) for profile in profiles}
