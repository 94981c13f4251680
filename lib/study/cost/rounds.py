"""Methods timed in turn, so that a machine that slows down slows all of them.

In every round each method captions the batch once; what matters is the ratio of a method's time to
the unpruned model's in the same round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tqdm.auto import tqdm

from .parts import Parts
from .probe import Probe
from .timing import Stopwatch, Timing, free_peak, paired_ratio, peak_bytes

#: parts of a caption whose ratios to the unpruned model are kept
COMPARED = ("end_to_end", "prefill", "decode")


def in_rounds(
    probes: Mapping[str, Probe],
    *,
    rounds: Mapping[str, int],
    baseline: str = "unpruned",
    warmup: int = 1,
    bar: tqdm | None = None,
) -> dict[str, dict[str, Any]]:
    """Times of several methods on the same prompts, one caption of each in turn.

    Parameters
    ----------
    probes : `{slug: Probe}`, `baseline` among them.
    rounds : `{slug: rounds}` in which a method takes part; the baseline is in all of them.
    warmup : captions of each before the first round.
    bar : moved on by one a caption.

    Returns
    -------
    `{slug: row}` with what `Probe.counts` gives; `peak_bytes` of a caption (GPU only); `vision`,
    `scorer`, `prefill` and `end_to_end` as `Timing` dictionaries of seconds, `decode` per token
    behind the first; and `ratio`: for `COMPARED` the median of the rounds' ratios to the baseline,
    with the `low` and `high` bounds of its 95 % interval (None for fewer than six rounds).
    """
    seconds: dict[str, list[dict[str, float]]] = {slug: [] for slug in probes}
    rows = {}
    for slug, probe in probes.items():
        with probe.active():
            rows[slug] = probe.counts()
        free_peak(probe.device)
        for _ in range(warmup):
            _caption(probe)
        rows[slug]["peak_bytes"] = peak_bytes(probe.device)
    for probe in probes.values():
        for _ in range(2 if probe.device.type == "cuda" else 0):
            _caption(probe)  # what the others' turn at the peak forgot is captured again
    for number in range(max(rounds.values())):
        turns = [slug for slug in probes if slug == baseline or number < rounds[slug]]
        # there and back again: nobody always runs behind the same neighbour
        for slug in turns if number % 2 == 0 else reversed(turns):
            seconds[slug].append(_caption(probes[slug]))
            if bar is not None:
                bar.update()
    return {
        slug: row | _timings(seconds[slug]) | {"ratio": _ratios(seconds[slug], seconds[baseline])}
        for slug, row in rows.items()
    }


def _caption(probe: Probe) -> dict[str, float]:
    """Seconds of one caption of the batch and of its parts."""
    whole, parts = Stopwatch(probe.device), Parts(probe.device)
    with probe.active(), parts.watching(probe.model, probe.pruner):
        with whole:
            probe.generate()
        (total,) = whole.seconds()
        found = parts.seconds() | {"end_to_end": total}
    if probe.new_tokens > 1:
        found["decode"] = (total - found["prefill"]) / (probe.new_tokens - 1)
    return found


def _timings(found: list[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: asdict(Timing.of([one[name] for one in found])) for name in found[0]
    }
    if "decode" in row:
        row["decode"]["per"] = "token"
    return row


def _ratios(
    found: list[dict[str, float]], baseline: list[dict[str, float]]
) -> dict[str, dict[str, Any]]:
    return {
        name: paired_ratio([one[name] for one in found], [one[name] for one in baseline])
        for name in COMPARED
        if name in baseline[0]
    }
