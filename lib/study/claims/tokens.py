"""Claims about the kept tokens: near-orthogonal, a faithful summary, as many as an image needs."""

from __future__ import annotations

from .evidence import Evidence
from .verdicts import Claim, Verdict, decide, untestable

__all__ = ["CLAIMS"]

#: mean absolute cosine of two kept tokens up to which they count as nearly orthogonal
NEARLY = 0.1
NOTHING = "no kept tokens of many images are stored (population.json)"


def _orthogonal(evidence: Evidence) -> Verdict:
    names = ("redundancy, kept", "kept cosines above .5", "effective rank, kept", "kept tokens")
    found = [evidence.measure("clusters", name) for name in names]
    if any(one is None for one in found):
        return untestable(NOTHING)
    cosine, above, rank, kept = (one["mean"] for one in found if one)
    text = (
        f"mean absolute cosine of two kept tokens {cosine:.2f}; {100 * above:.0f} % of the pairs "
        f"above .5; {kept:.1f} kept tokens span {rank:.1f} directions"
    )
    return decide(cosine <= NEARLY, text, _record(found[0]))


def _faithful(evidence: Evidence) -> Verdict:
    found = [evidence.measure("clusters", f"coverage, {name}") for name in ("kept", "random")]
    gap = evidence.paired("clusters", "coverage, kept", "coverage, random")
    if gap is None or found[0] is None or found[1] is None:
        return untestable(NOTHING)
    value, low, high = gap
    text = (
        f"coverage (mean largest cosine of any token to a kept one) {found[0]['mean']:.2f}, of as "
        f"many random tokens {found[1]['mean']:.2f}: {value:+.2f} [{low:+.2f}, {high:+.2f}]"
    )
    return decide(low > 0, text, _record(found[0]))


def _half(evidence: Evidence) -> Verdict:
    row = evidence.document("scores.json").get("methods", {}).get("entropy-printed")
    if row is None:
        return untestable("no captions of Algorithm 1 as printed are stored")
    kept = row["kept"]
    most = row["options"]["core_clusters"] * row["options"]["tokens_per_cluster"]
    text = (
        f"at most {most} of {kept['of']:.0f} tokens ({100 * most / kept['of']:.1f} %) can stay; "
        f"measured {100 * kept['mean']:.1f} %"
    )
    return decide(abs(kept["mean"] - 0.5) < 0.05, text, _captions(evidence))


def _adapts(evidence: Evidence) -> Verdict:
    row = evidence.document("scores.json").get("methods", {}).get("entropy-printed")
    if row is None:
        return untestable("no captions of Algorithm 1 as printed are stored")
    kept = row["kept"]
    low, high = (100 * kept[name] for name in ("low", "high"))
    text = f"{low:.1f} to {high:.1f} % of the tokens, {100 * kept['mean']:.1f} % on average"
    return decide(high > low, text, _captions(evidence))


def _captions(evidence: Evidence) -> str:
    return f"scores.json: entropy-printed ({evidence.images()} images)"


def _record(found: dict | None) -> str:
    return f"population.json: clusters ({found['n'] if found else 0} images)"


CLAIMS = (
    Claim(
        "The kept tokens are nearly orthogonal",
        "Figure 5",
        f"mean absolute cosine of two kept tokens at most {NEARLY}",
        _orthogonal,
    ),
    Claim(
        "The kept tokens are a more faithful summary of the image",
        "section 3",
        "they cover all tokens better than as many random ones, image by image",
        _faithful,
    ),
    Claim(
        "M = 32, k_c = 16 and t_pc = 2 prune half of the tokens",
        "section 4, Table 1",
        "Algorithm 1 with these numbers keeps 45 to 55 %",
        _half,
    ),
    Claim(
        "The number of kept tokens adapts to the image",
        "Algorithm 1",
        "it differs between images",
        _adapts,
    ),
)
