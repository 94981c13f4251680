"""Claims about the quality of captions: the order of methods, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..labels import DEEP, DIVERGENCE, LABELS
from ..methods import FASTV_LAYER
from ..reports.tables.format import nats, p_value, p_values
from ..stored import believed
from .evidence import Evidence
from .verdicts import Claim, Verdict, decide, untestable

__all__ = ["CLAIMS"]

METRICS = ("BLEU-4", "METEOR", "ROUGE-L")
#: the paper's random pruning keeps 77 % of BLEU-4, every other method 96 % and more
FAR = 0.9


def told(gap: Mapping[str, Any]) -> str:
    """A difference in words."""
    if gap["metric"] == DIVERGENCE:
        value = nats(gap["value"], (gap["low"], gap["high"]), sign=True)
    else:
        low, high = 100 * gap["low"], 100 * gap["high"]
        value = f"{100 * gap['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{gap['metric']} {value}, {p_values(gap)}"


def _found(evidence: Evidence, family: str, a: str, b: str, names: Sequence[str]) -> list[Any]:
    rows = [evidence.gap(family, a, b, name) for name in names]
    return [row for row in rows if row is not None]


def _record(family: str, a: str, b: str, gaps: Sequence[Mapping[str, Any]]) -> str:
    files = {gap["metric"] == DIVERGENCE: gap["images"] for gap in gaps}
    names = {False: "scores.json", True: "divergence.json"}
    where = ", ".join(f"{names[kind]} ({images} images)" for kind, images in files.items())
    return f"{where}: {family}, {a} − {b}"


def _above(rival: str, lower: Sequence[str] = ()) -> Callable[[Evidence], Verdict]:
    """Entropy-Prune above a rival in `METRICS`, and below it in `lower`."""

    def judge(evidence: Evidence) -> Verdict:
        ours, other = f"entropy-{evidence.tail}", f"{rival}-{evidence.tail}"
        gaps = _found(evidence, "paper", ours, other, (*METRICS, "CIDEr", DIVERGENCE))
        scored = [gap for gap in gaps if gap["metric"] in (*METRICS, *lower)]
        if not scored:
            return untestable("no scored captions of both methods are stored")
        wanted = {name: -1 if name in lower else 1 for name in (*METRICS, *lower)}
        holds = all(believed(g) and g["value"] * wanted[g["metric"]] > 0 for g in scored)
        text = "; ".join(told(gap) for gap in gaps)
        return decide(holds, text, _record("paper", ours, other, gaps))

    return judge


def _random_far_behind(evidence: Evidence) -> Verdict:
    tail = evidence.tail
    random, whole = (evidence.method(slug) for slug in (f"random-{tail}", "unpruned"))
    names = [f"{name}-{tail}" for name in ("tome", "fastv", "entropy")]
    gaps = [evidence.gap("paper", name, f"random-{tail}", "BLEU-4") for name in names]
    if random is None or whole is None or not all(gaps) or not whole["values"].get("BLEU-4"):
        return untestable("no scored captions of all methods are stored")
    left = random["values"]["BLEU-4"] / whole["values"]["BLEU-4"]
    holds = left < FAR and all(believed(gap) and gap["value"] > 0 for gap in gaps if gap)
    said = "; ".join(
        f"{LABELS[gap['a'].split('-')[0]]} − RandomPrune: {told(gap)}" for gap in gaps if gap
    )
    text = f"RandomPrune keeps {100 * left:.0f} % of BLEU-4 (the paper: 77 %); {said}"
    record = f"scores.json ({gaps[0]['images']} images): paper, each − random-{tail}"
    return decide(holds, text, record)


def _fastv_improves(evidence: Evidence) -> Verdict:
    a = f"fastv-{evidence.tail}"
    gap = evidence.gap("pruning", a, "unpruned", "CIDEr")
    if gap is None:
        return untestable("no scored captions of both are stored")
    same = [
        one
        for one in evidence.document("scores.json").get("equivalence", ())
        if (one["a"], one["b"], one["metric"]) == (a, "unpruned", "CIDEr")
    ]
    text = told(gap)
    for one in same:
        word = "equal" if one["equivalent"] else "equality not shown"
        text += f"; {word} within ±{100 * one['margin']:.1f} (p {p_value(one['p_value'])})"
    return decide(
        believed(gap) and gap["value"] > 0, text, _record("pruning", a, "unpruned", [gap])
    )


def _rollout_helps(evidence: Evidence) -> Verdict:
    """A single layer against the four merged ones: positive where merging diverges less."""
    tail = evidence.ablation_tail
    default = f"entropy-{tail}"
    rows = evidence.document("divergence.json").get("ablations", {}).get("methods", {})
    single = [
        slug
        for slug, row in rows.items()
        if row["method"] == "entropy"
        and len(set(row["options"].get("layers", (0, 1)))) == 1
        and slug.endswith(f"-{tail}")
    ]
    gap = evidence.gap("ablations", single[0], default, DIVERGENCE) if single else None
    if gap is None:
        return untestable("no divergence of a single layer is stored")
    text = f"one layer − four merged: {told(gap)}"
    record = _record("ablations", single[0], default, [gap])
    return decide(believed(gap) and gap["value"] > 0, text, record)


def _printed_beats_chance(evidence: Evidence) -> Verdict:
    gaps = _found(
        evidence, "printed", "entropy-printed", "random-printed", ("CIDEr", *METRICS, DIVERGENCE)
    )
    if not gaps:
        return untestable("no captions or divergences of both are stored")
    signs = [-1 if gap["metric"] == DIVERGENCE else 1 for gap in gaps]
    holds = all(believed(gap) and sign * gap["value"] > 0 for gap, sign in zip(gaps, signs))
    text = "; ".join(told(gap) for gap in gaps)
    return decide(holds, text, _record("printed", "entropy-printed", "random-printed", gaps))


def _at_one_place(evidence: Evidence) -> Verdict:
    ours, fastv = f"entropy-layer{FASTV_LAYER}-{evidence.tail}", f"fastv-{evidence.tail}"
    family = DEEP
    gaps = _found(evidence, family, ours, fastv, (DIVERGENCE, "CIDEr"))
    if not any(gap["metric"] == DIVERGENCE for gap in gaps):
        return untestable("no divergence of both at one layer is stored")
    holds = believed(gaps[0]) and gaps[0]["value"] < 0
    return decide(holds, "; ".join(map(told, gaps)), _record(family, ours, fastv, gaps))


def _spice(evidence: Evidence) -> Verdict:
    row = evidence.method(f"entropy-{evidence.tail}")
    value = None if row is None else row["values"].get("SPICE")
    if value is None or evidence.profile != "paper":
        return untestable(
            "needs LLaVA-1.5-7B on COCO with SPICE (profile paper, CoreNLP installed)"
        )
    return decide(True, f"SPICE {100 * value:.1f}", "scores.json")


_CORRECTED = "after Holm's correction"
CLAIMS = (
    Claim(
        "Entropy-Prune captions better than random pruning",
        "Table 1",
        f"higher BLEU-4, METEOR and ROUGE-L {_CORRECTED}",
        _above("random"),
    ),
    Claim(
        "Entropy-Prune captions better than ToMe",
        "Table 1",
        f"higher BLEU-4, METEOR and ROUGE-L {_CORRECTED}",
        _above("tome"),
    ),
    Claim(
        "Entropy-Prune is above FastV in BLEU-4, METEOR and ROUGE-L, below it in CIDEr",
        "Table 1",
        f"all four differences have that sign {_CORRECTED}",
        _above("fastv", ("CIDEr",)),
    ),
    Claim(
        "Entropy is a better criterion than attention",
        "abstract, section 4",
        f"lower divergence than FastV at FastV's own layer {_CORRECTED}",
        _at_one_place,
    ),
    Claim(
        "Random pruning falls far behind every other method",
        "Table 1",
        f"it keeps less than 90 % of BLEU-4, and ToMe, FastV and Entropy-Prune are above it "
        f"{_CORRECTED}",
        _random_far_behind,
    ),
    Claim(
        "FastV raises CIDEr above the unpruned model's",
        "Table 1",
        f"a positive difference {_CORRECTED}",
        _fastv_improves,
    ),
    Claim(
        "Algorithm 1 as printed keeps what matters",
        "Algorithm 1, Figure 5",
        f"better captions and lower divergence than as many random tokens {_CORRECTED}",
        _printed_beats_chance,
    ),
    Claim(
        "Merging layers by rollout helps",
        "section 3, eq. 6",
        f"lower divergence than with the last layer alone {_CORRECTED}",
        _rollout_helps,
    ),
    Claim("SPICE 22.14 for LLaVA-1.5-7B", "Table 1", "measured on that model", _spice),
)
