"""Every registered method at equal average tokens, from `catalogue.json`.

Where a profile compares no catalogue the frames are empty, and `about` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...labels import DIVERGENCE
from ...stored import believed, load_catalogue, mark
from . import benchmark
from .cost import machine_name
from .format import DASH, interval, nats

__all__ = [
    "RIVALS",
    "about",
    "averages",
    "findings",
    "frontier",
    "numbers",
    "said",
    "stored",
    "table",
    "times",
    "verdicts",
    "where",
]

#: what everything is compared with
RIVALS = {"random": "chance", "fastv": "FastV"}
METRIC = "CIDEr"


def stored(profile: str) -> Mapping[str, Any]:
    """`catalogue.json`, empty if there is none."""
    try:
        return load_catalogue(profile)
    except FileNotFoundError:
        return {}


def about(profile: str) -> str:
    """What was measured on what, or why there is nothing, in one sentence."""
    found = stored(profile)
    if found:
        runs = len(found["methods"]) - 1
        return (
            f"{runs} runs on {found['images']} images ({found['captioned']} of them captioned); "
            f"{found['tokens']} visual tokens, {found['depth']} language layers."
        )
    if said := mark(profile):
        return f"There is no catalogue ({said}): predictions of random weights mean nothing."
    return "There is no catalogue: the profile's catalogue_limit is 0, or nothing is computed yet."


def averages(profile: str) -> dict[str, float]:
    """`{name of an average: tokens}`, the largest first."""
    found = stored(profile)
    shares = {
        row["groups"]["average"]: row["options"]["average"] * found["tokens"]
        for row in found.get("methods", {}).values()
        if row["groups"]
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def where(profile: str) -> str:
    """The machine that the times belong to."""
    found = stored(profile)
    return machine_name(found["machine"]) if found else DASH


def numbers(profile: str) -> pd.DataFrame:
    """A row a run: label, average (its name), divergence and CIDEr with bounds, coverage, times.

    In milliseconds: `ms` to the first token of one image, `choosing` within it.
    """
    rows = {}
    for slug, row in stored(profile).get("methods", {}).items():
        if not row["groups"]:
            continue
        line = {"label": row["label"], "average": row["groups"]["average"]}
        for name, value in row["values"].items():
            low, high = row["intervals"].get(name) or (float("nan"),) * 2
            line |= {name: value, f"{name} low": low, f"{name} high": high}
        for column, part in (("ms", "prefill"), ("choosing", "scorer")):
            line[column] = 1e3 * row[part]["median"] if part in row else float("nan")
        line["coverage"] = row.get("coverage", float("nan"))
        rows[slug] = line
    return pd.DataFrame.from_dict(rows, orient="index")


def table(profile: str, average: str) -> pd.DataFrame:
    """All methods at one average, the smallest divergence first.

    A star marks a difference that survives the correction for its family (Holm), by the bootstrap
    and by sign flips. A column without any value is left out.
    """
    found, rows = stored(profile), []
    against = {
        (rival, one["metric"], one["a"]): one
        for rival in RIVALS
        for one in _family(found, rival, average, DIVERGENCE)
    }
    for slug, row in found.get("methods", {}).items():
        if row["groups"].get("average") != average:
            continue
        cells = _budget(row) | {
            "average": f"{row['average']:.1f}",
            "divergence": nats(row["values"][DIVERGENCE], row["intervals"][DIVERGENCE]),
        }
        for rival, name in RIVALS.items():
            gap = against.get((rival, DIVERGENCE, slug))
            cells[f"minus {name}"] = DASH if gap is None else _starred(gap)
        cells[METRIC] = interval(row["values"].get(METRIC), row["intervals"].get(METRIC))
        rows.append((row["values"][DIVERGENCE], cells))
    return _sorted(rows)


def times(profile: str) -> pd.DataFrame:
    """What was timed, at the middle average, the earliest first token first; coverage beside it.

    Beside the profile's own times the first token on LLaVA-1.5-7B's shape, over the unpruned
    model's, in turn with it on a GPU. A column without any value is left out.
    """
    rows, large = [], _on_the_shape()
    for slug, row in stored(profile).get("methods", {}).items():
        if "prefill" not in row:
            continue
        cells = _budget(row) | {"divergence": nats(row["values"][DIVERGENCE])}
        cells["coverage"] = f"{row['coverage']:.3f}" if "coverage" in row else DASH
        for heading, part in (("choosing, ms", "scorer"), ("first token, ms", "prefill")):
            cells[heading] = f"{1e3 * row[part]['median']:.2f}"
        cells["7B on a GPU, % of unpruned"] = large.get(slug, DASH)
        rows.append((row["prefill"]["median"], cells))
    return _sorted(rows)


def _on_the_shape() -> dict[str, str]:
    """`{run: ratio of first tokens}` with its interval; what no graph replays is marked."""
    found = benchmark.read("shape").get("first_token", ())
    return {
        row["method"]: interval(row["ratio"]["median"], (row["ratio"]["low"], row["ratio"]["high"]))
        + ("" if row["replayed"] else " (plainly)")
        for row in found
        if row.get("catalogue")
    }


def _budget(row: Mapping[str, Any]) -> dict[str, str]:
    layers = ", ".join(map(str, row["layers"]))
    return {"method": row["label"], "before layer": layers, "left": f"{row['kept']:.4g}"}


def _sorted(rows: Sequence[tuple[float, Mapping[str, str]]]) -> pd.DataFrame:
    """Cells by the number beside them, without columns that are empty."""
    if not rows:
        return pd.DataFrame()
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
    frame = pd.DataFrame(ordered).set_index("method").rename_axis(None)
    return frame.loc[:, (frame != DASH).any()]


def _family(
    found: Mapping[str, Any], rival: str, average: str, metric: str
) -> Sequence[Mapping[str, Any]]:
    return found.get("comparisons", {}).get(f"{rival}-a{average} {metric}", ())


def _starred(gap: Mapping[str, Any]) -> str:
    shown = nats(gap["value"], (gap["low"], gap["high"]), sign=True)
    return f"{shown} *" if believed(gap) else shown


def verdicts(profile: str) -> pd.DataFrame:
    """How many methods are better, worse or undecided in each family, after correction."""
    found, rows = stored(profile), {}
    for average, tokens in averages(profile).items():
        for rival, name in RIVALS.items():
            for metric in (DIVERGENCE, METRIC):
                gaps = _family(found, rival, average, metric)
                if gaps:
                    counts = {"better": 0, "worse": 0, "undecided": 0}
                    for gap in gaps:
                        counts[_verdict(gap)] += 1
                    rows[f"{metric} against {name}, {tokens:.3g} tokens"] = counts
    return pd.DataFrame.from_dict(rows, orient="index")


def _verdict(gap: Mapping[str, Any]) -> str:
    if not believed(gap):
        return "undecided"
    smaller = gap["value"] < 0
    return "better" if smaller == (gap["metric"] == DIVERGENCE) else "worse"


def findings(profile: str) -> list[str]:
    """Sentences: who is better than each rival at each average, by divergence, corrected."""
    found, sentences = stored(profile), []
    for average, tokens in averages(profile).items():
        for rival, name in RIVALS.items():
            gaps = _family(found, rival, average, DIVERGENCE)
            if not gaps:
                continue
            better = sorted((g for g in gaps if _verdict(g) == "better"), key=lambda g: g["value"])
            worse = sum(_verdict(gap) == "worse" for gap in gaps)
            names = [found["methods"][gap["a"]]["label"] for gap in better]
            listed = f": {', '.join(names)}" if names else ""
            sentences.append(
                f"At {tokens:.3g} tokens on average {len(better)} of {len(gaps)} runs move the "
                f"predictions less than {name} does, {worse} move them more{listed}."
            )
    return sentences


def frontier(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other beats in both divergence and time, by time.

    >>> rows = [("a", 0.2, 1.0), ("b", 0.1, 2.0), ("c", 0.3, 3.0)]
    >>> frontier(pd.DataFrame(rows, columns=["label", "divergence", "ms"]))["label"].tolist()
    ['a', 'b']
    """
    timed = frame.dropna(subset=["ms"]).sort_values(["ms", DIVERGENCE])
    return timed[timed[DIVERGENCE] < timed[DIVERGENCE].cummin().shift(fill_value=float("inf"))]


def said(frame: pd.DataFrame) -> str:
    """Labels with their divergences, for text alternatives."""
    shown = (f"{row['label']} {nats(row[DIVERGENCE])}" for _, row in frame.iterrows())
    return ", ".join(shown) or DASH
