"""Claims about FLOPs, memory and time; only whole captions stand for the paper's latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..methods import FASTV_LAYER
from .evidence import Evidence
from .verdicts import Claim, Verdict, decide, untestable

__all__ = ["CLAIMS"]

#: "an order of magnitude"
MAGNITUDE = 0.1
#: an exact method must be so many times faster than the definition to refute "impractical"
FASTER = 10


def _leave_one_out(evidence: Evidence) -> Verdict:
    """Exact scores of all tokens, beside their definition, from whatever was measured."""
    large = evidence.document("benchmark.json").get("leave_one_out", ())
    for row in large:
        exact, naive = 1e3 * row["exact"]["median"], row["naive"]["median"]
        text = (
            f"{row['tokens']} tokens: {exact:.2f} ms, by the definition {naive:.1f} s "
            f"({row['ratio']:,.0f} times), the same values within "
            f"{row['largest_error_over_spread']:.0e} of their spread"
        )
        return decide(row["ratio"] < FASTER, text, "benchmark.json: leave_one_out")
    for row in evidence.document("bench.json").get("rows", ()):
        if row["what"].startswith("leave-one-out"):
            text = (
                f"{row['what']}: {1e3 * row['ours']:.1f} ms, by the definition {row['plain']:.2f} "
                f"s ({row['ratio']:.0f} times), {row['remark']}"
            )
            return decide(row["ratio"] < FASTER, text, "bench.json")
    return untestable("not timed: 'python -m lib bench', or 'python -m lib benchmark'")


def _order_of_magnitude(evidence: Evidence) -> Verdict:
    whole = evidence.cost("unpruned")
    found = []
    for slug in (f"entropy-{evidence.tail}", "entropy-printed"):
        row = evidence.cost(slug)
        if row is None or whole is None:
            continue
        work = _work(row) / _work(whole)
        memory = row["cache_bytes"] / whole["cache_bytes"]
        share = 100 * row["kept"]
        found.append((work, memory, f"{share:.0f} % of the tokens kept: {100 * work:.0f} % of the "
                      f"FLOPs to the first token, {100 * memory:.0f} % of the cache"))  # fmt: skip
    if not found:
        return untestable("no costs are stored (efficiency.json)")
    holds = any(work <= MAGNITUDE and memory <= MAGNITUDE for work, memory, _ in found)
    return decide(holds, "; ".join(text for *_, text in found), "efficiency.json")


def _work(row: Mapping[str, Any]) -> float:
    """FLOPs of vision tower, scorer and prefill."""
    return sum(row["flops"][name] for name in ("exact", "vision", "scorer"))


def _saves_time(evidence: Evidence) -> Verdict:
    found = evidence.ratio(f"entropy-{evidence.tail}")
    if found is None:
        return untestable("no ratio of whole captions with an interval is stored")
    return decide(found["high"] < 1, f"a whole caption takes {_told(found)}", _record(found))


def _slower_than_fastv(where: str) -> Callable[[Evidence], Verdict]:
    """Whole captions of both; where: Entropy-Prune's slug without the keep rate."""

    def judge(evidence: Evidence) -> Verdict:
        tail = evidence.tail
        ours, fastv = evidence.ratio(f"{where}-{tail}"), evidence.ratio(f"fastv-{tail}")
        if ours is None or fastv is None:
            return untestable("no ratios of whole captions with intervals are stored")
        text = f"Entropy-Prune {_told(ours)}; FastV {_told(fastv)} (the paper: 82 and 67 %)"
        return decide(ours["low"] > fastv["high"], text, _record(ours))

    return judge


def _told(ratio: Mapping[str, Any]) -> str:
    low, high = 100 * ratio["low"], 100 * ratio["high"]
    return f"{100 * ratio['median']:.0f} % [{low:.0f}, {high:.0f}] of the unpruned model's time"


def _record(ratio: Mapping[str, Any]) -> str:
    return f"efficiency.json: ratio, end_to_end ({ratio['rounds']} rounds)"


def _encoder(evidence: Evidence) -> Verdict:
    whole, ours = (evidence.cost(s) for s in ("unpruned", f"entropy-{evidence.tail}"))
    if whole is None or ours is None or "encoder" not in whole["flops"]:
        return untestable("no FLOPs of the visual encoder are stored (efficiency.json)")
    share = ours["flops"]["encoder"] / whole["flops"]["encoder"]
    text = (
        f"{100 * share:.0f} % of {whole['flops']['encoder'] / 1e9:.2f} G multiply-adds of the "
        "encoder are left (the paper: 86 %, 51.63 of 60.02 G): what is pruned behind the encoder "
        "saves nothing inside it"
    )
    return decide(share < 0.95, text, "efficiency.json: flops, encoder")


CLAIMS = (
    Claim(
        "Exact leave-one-out entropy is impractical for 256 tokens and more",
        "section 3",
        f"no exact method is {FASTER} times faster than one decomposition a token",
        _leave_one_out,
    ),
    Claim(
        "Pruning saves compute and memory by an order of magnitude",
        "abstract",
        "FLOPs to the first token and the cache both fall to a tenth",
        _order_of_magnitude,
    ),
    Claim(
        "Entropy-Prune saves the visual encoder's FLOPs",
        "Table 1",
        "less than 95 % of the encoder's multiply-adds are left",
        _encoder,
    ),
    Claim(
        "Entropy-Prune shortens a whole caption",
        "Table 1",
        "the interval of its ratio to the unpruned model's time lies below 1",
        _saves_time,
    ),
    Claim(
        "Entropy-Prune takes longer than FastV, each where it prunes here",
        "Table 1",
        "the intervals of their ratios to the unpruned model's time do not meet",
        _slower_than_fastv("entropy"),
    ),
    Claim(
        "Entropy-Prune takes longer than FastV at FastV's layer",
        "Table 1",
        "the intervals of their ratios to the unpruned model's time do not meet",
        _slower_than_fastv(f"entropy-layer{FASTV_LAYER}"),
    ),
)
