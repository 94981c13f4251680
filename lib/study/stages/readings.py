"""What the recorded divergences say: `divergence.json`, with the comparisons declared of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...geometry import average_tokens
from .. import comparisons
from ..dependencies import scores_code
from ..evaluation import Comparison, Family, Scores, compare_families, mean_interval
from ..files import entry, write_json
from ..labels import DIVERGENCE, LOSS
from ..methods import Method
from ..models import read_config
from ..profiles import Profile
from ..records import MANIFEST, canonical, digest, method_places, read_records
from .divergence import PARTS, REFERENCES, tables
from .study import Study

__all__ = ["budget_of", "compared", "make_readings", "readings", "with_intervals"]

#: bootstrap samples and sign flips of a comparison
SAMPLES = 5000


def make_readings(study: Study) -> bool:
    """Summarise what was measured; False: neither records nor settings nor code changed."""
    folder = study.folder / "divergence"
    found = {name: folder / name for name in PARTS if (folder / name / MANIFEST).is_file()}
    if study.profile.random_weights or not found:
        return False
    profile = study.profile
    config = read_config(profile.model, revision=profile.revision)
    declared = {name: table for name, (table, _) in tables(study, config).items() if name in found}
    key = digest({
        "code": scores_code(),
        "records": {name: canonical(read_records(path)) for name, path in found.items()},
        "methods": {
            name: {slug: [m.label, m.settings, dict(m.groups)] for slug, m in table.items()}
            for name, table in declared.items()
        },
        "n_bootstrap": profile.n_bootstrap,
        "random_state": profile.random_state,
    })  # fmt: skip
    path = study.folder / "divergence.json"
    if entry(path, "key") == key:
        return False
    document: dict[str, Any] = {"key": key, "references": REFERENCES}
    families = {
        "table": lambda table: comparisons.divergences(profile, table),
        "ablations": lambda table: comparisons.ablated(profile, table),
        "places": comparisons.placed,
    }
    for name, table in declared.items():
        scores, kept = readings(found[name])
        document[name] = {
            "images": len(next(iter(scores.values())).image_ids),
            "methods": {
                slug: summary(method, scores[slug], kept[slug], profile, config)
                for slug, method in table.items()
            },
            "comparisons": compared(scores, families[name](table), profile),
        }
    write_json(path, document)
    return True


def readings(folder: Path) -> tuple[dict[str, Scores], dict[str, tuple[float, float]]]:
    """The recorded numbers of a part, by slug: both measures, and mean tokens (kept, of).

    Raises `FileNotFoundError` where there are none.
    """
    rows = read_records(folder)
    ids = [row["image_id"] for row in rows]
    of = float(np.mean([row["visual_tokens"] for row in rows]))
    scores, kept = {}, {}
    for slug, place in method_places(folder).items():
        measured = {DIVERGENCE: "kl", LOSS: "nll"}
        scores[slug] = Scores.of_means(
            ids, {name: [row[key][place] for row in rows] for name, key in measured.items()}
        )
        kept[slug] = float(np.mean([row["kept"][place] for row in rows])), of
    return scores, kept


def summary(
    method: Method, scores: Scores, kept: tuple[float, float], profile: Profile, config: Any
) -> dict[str, Any]:
    """One method of a part: what it is, what it keeps, and both measures with intervals."""
    return {**method.about, **budget_of(method, *kept, config), **with_intervals(scores, profile)}


def with_intervals(scores: Scores, profile: Profile) -> dict[str, Any]:
    """The mean of each measure over the images, with its interval if the profile asks for one."""
    intervals: dict[str, list[float] | None] = dict.fromkeys(scores.per_image)
    if profile.n_bootstrap:
        how = {"n_bootstrap": profile.n_bootstrap, "random_state": profile.random_state}
        intervals = {k: list(mean_interval(v, **how)) for k, v in scores.per_image.items()}
    return {"values": dict(scores.values), "intervals": intervals}


def budget_of(method: Method, kept: float, of: float, config: Any) -> dict[str, Any]:
    """The layer before which a method prunes, mean tokens kept behind it, and over all layers.

    config: of the model, for the number of its language layers.
    """
    pruner, depth = method.create(), config.get_text_config().num_hidden_layers
    layer = 0 if pruner is None else min(pruner.layer, depth - 1)
    average = average_tokens(kept, tokens=of, layer=layer, layers=depth)
    return {"layer": layer, "kept": kept, "of": of, "average": average}


def compared(
    scores: Mapping[str, Scores], families: Sequence[Family], profile: Profile
) -> dict[str, list[dict[str, Any]]]:
    """`{family: comparisons}` as plain values."""
    found = compare_families(scores, families, n_samples=SAMPLES, random_state=profile.random_state)
    return {name: [plain(one) for one in rows] for name, rows in found.items()}


def plain(comparison: Comparison) -> dict[str, Any]:
    """A comparison without its family's name, which is its key."""
    return {name: value for name, value in comparison._asdict().items() if name != "family"}
