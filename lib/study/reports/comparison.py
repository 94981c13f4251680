"""The page that holds a run beside the committed reference (`lib.study.compare`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import paths
from ..compare import load_comparison
from ..labels import DIVERGENCE, LOSS
from .pages import page
from .tables.format import nats

__all__ = ["comparison_page"]

#: ids of images that are listed before the rest is only counted
_SHOWN = 12


def comparison_page(profile: str, folder: Path) -> str | None:
    """`comparison.html` of a run, to lie in `folder`; None where nothing was compared."""
    document = load_comparison(profile)
    if document is None or paths.current(profile) != paths.run(profile):
        return None
    figures = [_figure(pair, folder) for pair in document["figures"]]
    rows = [_score(row) for row in document["scores"]["rows"]]
    return page(
        "comparison.html.j2",
        title=f"A run of {profile} beside the published one",
        published=document["made"]["reference"] is not None,
        captions=document["captions"],
        differing=_differing(document["captions"]["folders"]),
        scores=document["scores"],
        outside=[row for row in rows if not row["inside"]],
        rows=rows,
        differ=[pair for pair in figures if pair["reference"] and pair["run"] and not pair["same"]],
        alone=[pair["name"] for pair in figures if not (pair["reference"] and pair["run"])],
        same=[pair["name"] for pair in figures if pair["same"]],
        made=_made(document["made"]),
    )


def _differing(folders: Mapping[str, Any]) -> list[dict[str, str]]:
    """The folders of records with a difference, and the images concerned."""
    kinds = ("differ", "kept", "missing", "new")
    return [
        {"folder": folder, **{kind: _ids(found[kind]) for kind in kinds}}
        for folder, found in folders.items()
        if any(found[kind] for kind in kinds)
    ]


def _ids(ids: list[int]) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"{len(ids)}: {', '.join(map(str, ids[:_SHOWN]))}{more}"


def _score(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = row["interval"]
    if row["metric"] in (DIVERGENCE, LOSS):  # nats, not shares
        return {**row, "reference": nats(row["reference"], interval), "run": nats(row["run"])}
    shown = f"{100 * row['reference']:.1f}"
    if interval:
        shown += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return {**row, "reference": shown, "run": f"{100 * row['run']:.1f}"}


def _figure(pair: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    links = {
        place: os.path.relpath(paths.ROOT / pair[place], folder) if pair[place] else ""
        for place in ("reference", "run")
    }
    return {**pair, **links}


def _made(made: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, str, str]]:
    """(what, published, this run) of the versions and machines."""
    both = [_flat(made[place] or {}) for place in ("reference", "run")]
    names = dict.fromkeys([*both[0], *both[1]])
    return [(name, both[0].get(name, "–"), both[1].get(name, "–")) for name in names]


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    found = {
        name: str(environment[name])
        for name in ("platform", "processor", "device")
        if environment.get(name)
    }
    return found | {name: str(version) for name, version in environment.get("versions", {}).items()}
