"""A finished run becomes the committed reference of its profile: for maintainers.

Only what scores, claims and pages need is copied: records without their timings, compressed,
manifests with their latest run, the summaries, figures (as PNG) and tables. What figures were drawn
from goes along for the profile whose notebooks CI runs; for others a run computes it again. The
scores of every image, executed notebooks and logs stay in `build/`. Pages link their pictures, so
they are written anew where they will lie (`lib.study.reports.report.refresh`). Records that other
commands measure (`MEASURED`) replace the reference's only where the run has some.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from . import paths
from .files import write_atomically, write_json
from .profiles import OWN, load_profile
from .records import MANIFEST, PUBLISHED, canonical, packed_records, read_records

__all__ = ["MEASURED", "lean_manifest", "lean_numbers", "lean_records", "publish_run"]

#: significant digits that published records keep of one image's divergences and likelihoods
DIGITS = {"kl": 3, "nll": 4}

#: those of every number of a summary, far more than is shown of any, and of what was measured
SUMMARY_DIGITS, MEASURED_DIGITS = 10, 6

#: measured by `lib bench`, `lib benchmark`, `lib choices` and `lib scaling`
MEASURED = ("bench.json", "benchmark.json", "choices.json", "scaling.json", "captioning.json")
SUMMARIES = ("study.json", "scores.json", "efficiency.json")
#: what not every profile has: random weights have no divergence, other models no population
SOME = ("divergence.json", "population.json", "catalogue.json")


def publish_run(profile: str) -> list[str]:
    """Copy a run to the reference's places; returns a line for each place.

    Raises `FileNotFoundError` or `ValueError`, before anything changes, if the run is unfinished.
    """
    reference, run = paths.reference(profile), paths.run(profile)
    _check_finished(profile, run)
    _publish_results(run.results, reference.results, arrays=profile == OWN)
    _replace(run.figures, reference.figures)
    return [
        f"{place.relative_to(paths.ROOT)}: {_size(place) / 1e6:.2f} MB"
        for place in (reference.results, reference.figures)
    ]


def lean_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder without their timings, with as many digits as are published."""
    rows = canonical(read_records(folder))
    for row in rows:
        for name in DIGITS.keys() & row.keys():
            row[name] = [float(f"{value:.{DIGITS[name]}g}") for value in row[name]]
    return rows


def lean_manifest(document: dict[str, Any]) -> dict[str, Any]:
    """The parameters and where the latest run made them, without its times."""
    last = [
        {k: v for k, v in run.items() if k not in ("started", "throughput", "processes")}
        for run in document["runs"][-1:]
    ]
    return {"parameters": document["parameters"], "runs": last}


def lean_numbers(document: Any, digits: int = SUMMARY_DIGITS) -> Any:
    """A JSON document with as many significant digits as are published.

    >>> lean_numbers({"mean": [1 / 3, 2]})
    {'mean': [0.3333333333, 2]}
    """
    if isinstance(document, float):
        return float(f"{document:.{digits}g}")
    if isinstance(document, dict):
        return {name: lean_numbers(value, digits) for name, value in document.items()}
    if isinstance(document, list):
        return [lean_numbers(value, digits) for value in document]
    return document


def _check_finished(profile: str, run: paths.Place) -> None:
    load_profile(profile)  # an unknown one is refused
    wanted = [run.results / name for name in SUMMARIES] + [run.reports / "index.html"]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing: finish the run with 'make reproduce PROFILE={profile}'"
        )
    for manifest in sorted(run.results.glob(f"*/*/{MANIFEST}")):
        asked = json.loads(manifest.read_text(encoding="utf-8"))["parameters"]["images"]["count"]
        if (count := len(read_records(manifest.parent))) != asked:
            raise ValueError(
                f"{manifest.parent} holds {count} of {asked} records: finish the run first"
            )


def _publish_results(run: Path, reference: Path, *, arrays: bool) -> None:
    for part in ("captions", "ablations", "divergence", "catalogue", "scores", "figures"):
        shutil.rmtree(reference / part, ignore_errors=True)
    for manifest in sorted(run.glob(f"*/*/{MANIFEST}")):
        source = manifest.parent
        target = reference / source.relative_to(run)
        write_atomically(target / PUBLISHED, packed_records(lean_records(source)))
        document = json.loads(manifest.read_text(encoding="utf-8"))
        write_json(target / MANIFEST, lean_manifest(document))
    for name in SOME:
        (reference / name).unlink(missing_ok=True)
    for name in (*SUMMARIES, *SOME, *MEASURED):
        if (run / name).is_file():
            document = json.loads((run / name).read_text(encoding="utf-8"))
            digits = MEASURED_DIGITS if name in MEASURED else SUMMARY_DIGITS
            write_json(reference / name, lean_numbers(document, digits))
    if arrays and (run / "figures").is_dir():
        shutil.copytree(run / "figures", reference / "figures")


def _replace(source: Path, target: Path) -> None:
    """The files of one folder in another, one picture each; nothing from before stays."""
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix not in (".partial", ".svg"):
            write_atomically(target / path.relative_to(source), path.read_bytes())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
