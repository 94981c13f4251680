"""What the tables say, in sentences computed from the stored results.

A difference is called one only if it holds after correction for its family, by the bootstrap and by
sign flips. Where nothing is stored, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..labels import BEFORE, DEEP, DIVERGENCE
from ..stored import believed, load_efficiency
from .tables import divergence
from .tables.format import nats

__all__ = ["ablated", "efficient", "placed", "table_1", "uneven"]


def table_1(profile: str) -> list[str]:
    """The criteria at each place, what FastV's layer changes, and what stays of the full model."""
    found = divergence.part(profile, "table")
    if not found:
        return [divergence.about(profile)]
    said = []
    for family in (BEFORE, DEEP):
        rows = found["comparisons"].get(family, ())
        slugs = list(dict.fromkeys(slug for one in rows for slug in (one["a"], one["b"])))
        if slugs:
            said.append(f"Criteria {family}, by divergence: {_order(found['methods'], slugs)}.")
            said += _against(found["methods"], rows)
    for one in found["comparisons"].get("place", ()):
        deep, before = (found["methods"][one[side]] for side in "ab")
        name = deep["label"].partition(", layer")[0]
        said.append(
            f"{name} before layers {deep['layer']} and {before['layer']}: {_value(deep)} and "
            f"{_value(before)} ({_holds(one)})."
        )
    return said


def _order(methods: Mapping[str, Any], slugs: Sequence[str]) -> str:
    ranked = sorted(slugs, key=lambda slug: methods[slug]["values"][DIVERGENCE])
    return ", ".join(f"{methods[slug]['label']} {_value(methods[slug])}" for slug in ranked)


def _value(row: Mapping[str, Any]) -> str:
    return nats(row["values"][DIVERGENCE])


def _holds(one: Mapping[str, Any]) -> str:
    """Whether a difference is to be believed, in words."""
    if believed(one):
        return "a difference after correction"
    return "no difference that these images show"


def _against(methods: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The pairs of a family by outcome."""
    below, above, open_ = [], [], []
    for one in rows:
        pair = f"{methods[one['a']]['label']} and {methods[one['b']]['label']}"
        if not believed(one):
            open_.append(pair)
        elif one["value"] < 0:
            below.append(f"{methods[one['a']]['label']} below {methods[one['b']]['label']}")
        else:
            above.append(f"{methods[one['a']]['label']} above {methods[one['b']]['label']}")
    if below or above:
        yield f"Of these, after correction: {', '.join([*below, *above])}."
    if open_:
        yield f"Not told apart by these images: {'; '.join(open_)}."


def ablated(profile: str) -> list[str]:
    """Which choices of Entropy-Prune differ from the default after correction."""
    found = divergence.part(profile, "ablations")
    if not found:
        return [divergence.about(profile, "ablations")]
    said = []
    for family, what in (("ablations", "Entropy-Prune"), ("strategies", "Entropy + coverage")):
        rows = found["comparisons"].get(family, ())
        if not rows:
            continue
        better, worse = [], []
        for one in rows:
            if believed(one):
                row = found["methods"][one["a"]]
                groups = {k: v for k, v in row["groups"].items() if k != "sweep"}
                name = ", ".join(f"{group}: {setting}" for group, setting in groups.items())
                (better if one["value"] < 0 else worse).append(f"{name} ({_value(row)})")
        same = len(rows) - len(better) - len(worse)
        said.append(
            f"{what} by default diverges {_value(found['methods'][rows[0]['b']])}. Of {len(rows)} "
            f"other settings {len(better)} diverge less, {len(worse)} more, and {same} are not "
            f"told apart by {found['images']} images."
        )
        said += [f"Less than {what}: {'; '.join(better)}."] if better else []
        said += [f"More than {what}: {'; '.join(worse)}."] if worse else []
    return said


def uneven(profile: str) -> list[str]:
    """Methods that diverge more with more tokens, each where it was published to prune."""
    frame, said = divergence.sweep(profile), []
    for name, rows in frame.groupby("label", sort=False) if len(frame) else ():
        ordered = rows.sort_values("keep")
        values, keeps = ordered[DIVERGENCE].tolist(), ordered["keep"].tolist()
        said += [
            f"{name} diverges more with {100 * more:g} % of the tokens ({nats(b)}) than with "
            f"{100 * fewer:g} % ({nats(a)})."
            for fewer, more, a, b in zip(keeps, keeps[1:], values, values[1:])
            if b > a
        ]
    return said


def placed(profile: str) -> list[str]:
    """The best criterion at each place and budget, and whether it is told apart from attention."""
    found = divergence.part(profile, "places")
    if not found:
        return [divergence.about(profile, "places")]
    groups: dict[tuple[str, str], list[str]] = {}
    for slug, row in found["methods"].items():
        if "place" in row["groups"]:
            key = row["groups"]["budget"], row["groups"]["place"]
            groups.setdefault(key, []).append(slug)
    against = {one["a"]: one for one in found["comparisons"].get("places", ())}
    said = []
    for (budget, layer), slugs in sorted(
        groups.items(), key=lambda g: (-float(g[0][0]), int(g[0][1]))
    ):
        best = min(slugs, key=lambda slug: found["methods"][slug]["values"][DIVERGENCE])
        row, one = found["methods"][best], against.get(best)
        rival = ""
        if one is not None:
            other = found["methods"][one["b"]]
            rival = f", {other['label']} {_value(other)}: {_holds(one)}"
        said.append(f"{budget} % before layer {layer}: {row['label']} {_value(row)}{rival}.")
    return said


def efficient(profile: str) -> list[str]:
    """Whole captions and the time to the first token against the unpruned model's."""
    try:
        document = load_efficiency(profile)
    except FileNotFoundError as error:
        return [f"{error}."]
    rows = [row for row in document["rows"] if row["batch"] == 1 and row["table"]]
    timed = [row for row in rows if row.get("ratio", {}).get("end_to_end", {}).get("low")]
    if not timed:
        return ["No ratio with an interval is stored: too few rounds, or an older record."]
    said = []
    for what, words in (("end_to_end", "a whole caption"), ("prefill", "the first token")):
        faster, slower, same = [], [], []
        for row in timed:
            ratio = row["ratio"][what]
            if row["slug"] == "unpruned":
                continue
            text = f"{row['label']} {100 * ratio['median']:.0f} %"
            kind = faster if ratio["high"] < 1 else slower if ratio["low"] > 1 else same
            kind.append(text)
        parts = [("sooner", faster), ("later", slower), ("not told apart", same)]
        told = "; ".join(f"{name}: {', '.join(found)}" for name, found in parts if found)
        said.append(f"Time to {words} against the unpruned model's: {told}.")
    shares = sorted(
        ((row["scorer"]["median"] / row["prefill"]["median"], row["label"]) for row in timed
         if row["slug"] != "unpruned"), reverse=True,
    )  # fmt: skip
    told = ", ".join(f"{label} {100 * share:.1f} %" for share, label in shares)
    return [*said, f"The scorer's share of the time to the first token: {told}."]
