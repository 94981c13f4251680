"""A run beside the committed reference of its profile: what is the same, and what is not.

The comparison is data, `build/reproduce/<profile>/comparison.json`, which a page of the report
shows, and a summary for the terminal. Captions depend on rounding, so another processor, or another
version of PyTorch, may change a few; scores should lie within the reference's intervals anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import paths
from .files import write_json
from .records import MANIFEST, RECORDS, canonical, read_records

__all__ = ["COMPARISON", "by_image", "compare_run", "load_comparison", "summary"]

COMPARISON = "comparison.json"
PICTURE = "*.png"


def compare_run(profile: str) -> dict[str, Any]:
    """Compare a run with the reference; returns the document and writes it beside the run.

    - `made`: environment of both: versions, platform, processor, device (None where not noted).
    - `captions`: `same` captions with kept counts `of` those that both have, and for each folder
      of records, such as "captions/entropy-50", the ids of images that `differ` in their caption
      or in what was `kept`, that are `missing` from the run, or `new` in it.
      Images that a smaller run did not ask for are not missing.
    - `images`: how many of Table 1 the `reference` and the `run` have, None where unknown.
    - `scores`: where both are of as many images, one row a method and metric, divergences among
      them: `reference` with its `interval`, `run`, and whether that is `inside`; counted in
      `inside` and `of`. Metrics without an interval must be equal.
    - `figures`: pairs of pictures by name, paths from the root, and whether they are the `same`
      file; None where one lacks the picture.

    Raises `FileNotFoundError` if there is no run.
    """
    reference, run = paths.reference(profile), paths.run(profile)
    if not (run.results / "study.json").is_file():
        raise FileNotFoundError(
            f"{run.results} holds no study: 'make reproduce PROFILE={profile}' makes one"
        )
    document = {
        "profile": profile,
        "made": {"reference": _made(reference.results), "run": _made(run.results)},
        "images": {"reference": _count(reference.results), "run": _count(run.results)},
        "captions": _captions(reference.results, run.results),
        "scores": _scores(reference.results, run.results),
        "figures": _figures(reference.figures, run.figures),
    }
    write_json(paths.run_folder(profile) / COMPARISON, document)
    return document


def load_comparison(profile: str) -> dict[str, Any] | None:
    """What `compare_run` last found, None if nobody has compared."""
    path = paths.run_folder(profile) / COMPARISON
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def summary(document: Mapping[str, Any]) -> str:
    """The comparison in a few lines."""
    profile, captions, scores = document["profile"], document["captions"], document["scores"]
    if document["made"]["reference"] is None:
        return f"{profile}: nothing is committed of this profile that the run could differ from"
    lines = [f"{profile}: {captions['same']} of {captions['of']} captions equal the reference's"]
    for folder, found in captions["folders"].items():
        counts = [f"{len(ids)} {what}" for what, ids in found.items() if ids]
        lines += [f"  {folder}: {', '.join(counts)}"] if counts else []
    counts = document["images"]
    if None not in counts.values() and counts["reference"] != counts["run"]:
        lines.append(
            f"the run took {counts['run']} images, the reference {counts['reference']}: "
            "scores of different images are not compared"
        )
    if scores["of"]:
        lines.append(
            f"{scores['inside']} of {scores['of']} scores lie within the reference's intervals"
        )
    for row in scores["rows"]:
        if not row["inside"]:
            interval = row["interval"] and "[{:.4g}, {:.4g}]".format(*row["interval"])
            shown = interval or f"exactly {row['reference']}"
            lines.append(f"  {row['slug']}, {row['metric']}: {row['run']:.4g} is not {shown}")
    drawn = [pair["same"] for pair in document["figures"] if pair["reference"] and pair["run"]]
    if drawn:
        lines.append(f"{sum(drawn)} of {len(drawn)} figures are the same picture")
    lines += [f"{place}: {_words(made)}" for place, made in document["made"].items()]
    return "\n".join(lines)


def _words(made: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    where = made.get("device") if made.get("device") not in (None, "cpu") else None
    return f"{where or made.get('processor') or made['platform']}; {versions}"


def _made(results: Path) -> dict[str, Any] | None:
    path = results / "study.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8")).get("environment")


def _captions(reference: Path, run: Path) -> dict[str, Any]:
    folders, same, of = {}, 0, 0
    for part in ("captions", "ablations"):
        names = {path.parent.name for path in reference.glob(f"{part}/*/{RECORDS}*")}
        names |= {path.parent.name for path in run.glob(f"{part}/*/{RECORDS}*")}
        for name in sorted(names):
            old, new = by_image(reference / part / name), by_image(run / part / name)
            shared = sorted(old.keys() & new.keys())
            smaller = len(new) == _asked(run / part / name) < len(old)
            found = {
                "differ": [i for i in shared if old[i]["caption"] != new[i]["caption"]],
                "kept": [i for i in shared if old[i]["kept"] != new[i]["kept"]],
                "missing": [] if smaller else sorted(old.keys() - new.keys()),
                "new": sorted(new.keys() - old.keys()),
            }
            folders[f"{part}/{name}"] = found
            of += len(shared)
            same += len(shared) - len({*found["differ"], *found["kept"]})
    return {"same": same, "of": of, "folders": folders}


def _asked(folder: Path) -> int | None:
    """Number of images that records were asked of."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["parameters"].get("images", {}).get("count")


def _count(results: Path) -> int | None:
    return _load(results / "scores.json").get("images")


def by_image(folder: Path) -> dict[int, Any]:
    """The records of a folder without what differs from run to run; empty where there are none."""
    if not folder.is_dir():
        return {}
    return {record["image_id"]: record for record in canonical(read_records(folder))}


def _scores(reference: Path, run: Path) -> dict[str, Any]:
    old, new = (_parts(place) for place in (reference, run))
    rows = []
    for part, (images, methods) in old.items():
        count, mine = new.get(part, (images, {}))
        if count != images:
            continue  # scores of other images
        for slug, before in methods.items():
            after = mine.get(slug, {"values": {}})
            for metric, value in before["values"].items():
                found = after["values"].get(metric)
                if value is None or found is None:
                    continue  # a dash on either side says nothing
                interval = before["intervals"].get(metric)
                low, high = interval or (value, value)
                rows.append({
                    "part": part, "slug": slug, "metric": metric, "reference": value,
                    "interval": interval, "run": found, "inside": low <= found <= high,
                })  # fmt: skip
    return {"inside": sum(row["inside"] for row in rows), "of": len(rows), "rows": rows}


def _parts(results: Path) -> dict[str, tuple[int | None, Any]]:
    """`{part: (number of images, methods)}` of the captions' scores, and of the divergences."""
    scores = _load(results / "scores.json")
    found = {
        part: (scores.get(count), scores.get(part, {}))
        for part, count in (("methods", "images"), ("ablations", "ablation_images"))
    }
    read = _load(results / "divergence.json")
    return found | {
        f"divergence, {part}": (one.get("images"), one["methods"])
        for part, one in read.items()
        if isinstance(one, dict)
    }


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _figures(reference: Path, run: Path) -> list[dict[str, Any]]:
    names = sorted({p.name for folder in (reference, run) for p in folder.glob(PICTURE)})
    return [_pair(reference / name, run / name) for name in names]


def _pair(old: Path, new: Path) -> dict[str, Any]:
    there = old.is_file(), new.is_file()
    shown = [p.relative_to(paths.ROOT).as_posix() if t else None for p, t in zip((old, new), there)]
    same = all(there) and old.read_bytes() == new.read_bytes()
    return {"name": old.stem, "reference": shown[0], "run": shown[1], "same": same}
