"""Reading what a study has stored, in the place that is looked at (see `lib.study.paths`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import paths
from .labels import RANDOM
from .profiles import load_profile

__all__ = [
    "LEVEL",
    "believed",
    "corrected",
    "load_catalogue",
    "load_divergence",
    "load_efficiency",
    "load_population",
    "load_scores",
    "load_study",
    "mark",
]

#: error that a family of comparisons may make, in all
LEVEL = 0.05


def corrected(comparison: Mapping[str, Any]) -> float:
    """The p-value corrected for its family: the larger of bootstrap's and sign flips'."""
    return max(comparison["p_holm"], comparison["flip_holm"])


def believed(comparison: Mapping[str, Any]) -> bool:
    """Whether a difference holds after correction, by both tests."""
    return corrected(comparison) < LEVEL


def load_scores(profile: str) -> dict[str, Any]:
    """`scores.json` of a profile.

    Raises `FileNotFoundError` with the command that computes it.
    """
    return _load(profile, "scores.json")


def load_study(profile: str) -> dict[str, Any]:
    """`study.json` of a profile: its parameters, environment and timings."""
    return _load(profile, "study.json")


def load_divergence(profile: str) -> dict[str, Any]:
    """`divergence.json` of a profile; empty where its weights are random, so that it has none.

    Raises `FileNotFoundError` with the command that computes it.
    """
    if mark(profile):
        return {}
    return _load(profile, "divergence.json")


def load_catalogue(profile: str) -> dict[str, Any]:
    """`catalogue.json` of a profile; empty where it compares no catalogue, as its profile says.

    Raises `FileNotFoundError` with the command that computes it.
    """
    if mark(profile) or not load_profile(profile).catalogue_limit:
        return {}
    return _load(profile, "catalogue.json")


def load_efficiency(profile: str) -> dict[str, Any]:
    """`efficiency.json` of a profile."""
    return _load(profile, "efficiency.json")


def load_population(profile: str) -> dict[str, Any]:
    """`population.json` of a profile: what the figures show of one image, of many."""
    return _load(profile, "population.json")


def _load(profile: str, name: str) -> dict[str, Any]:
    path = paths.results_dir(profile) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: compute it with 'make reproduce PROFILE={profile}', or "
            f"'python -m lib study --profile {profile}'"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def mark(profile: str) -> str:
    """What everything shown of a profile says first; empty unless its weights are random.

    The machine is the one that computed the profile.
    """
    try:
        if not load_profile(profile).random_weights:
            return ""
    except ValueError:  # not one of `notebooks/profiles`
        return ""
    path = paths.results_dir(profile) / "study.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    device = made.get("environment", {}).get("device")
    return f"random weights, {'a CPU' if device == 'cpu' else device}" if device else RANDOM
