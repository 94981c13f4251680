"""What is compared, declared before anything is looked at.

Every question of the study is a family of paired comparisons, corrected together after Holm
(`lib.study.evaluation.compare_families`). Captions and divergence are families of their own, since
they may be measured on different numbers of images. Criteria are compared at one place only, places
by one criterion only. "Equal" needs a margin stated beforehand: the profile's `margin`, a share of
the unpruned model's score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .evaluation import Family
from .labels import BEFORE, DEEP, DIVERGENCE, LABELS, percent
from .methods import FASTV_LAYER, Method, own_layer
from .profiles import Profile

__all__ = ["QUESTIONS", "ablated", "captions", "divergences", "equal", "placed"]

#: `{family: what it asks}`
QUESTIONS = {
    "pruning": "what does each method cost against the unpruned model?",
    "paper": "how do the paper's methods rank, each where it was published to prune?",
    "printed": "does Algorithm 1 as printed beat as many random tokens?",
    BEFORE: "which criterion is best before the language model?",
    DEEP: "which criterion is best at FastV's layer?",
    "place": "does the place matter, the criterion being the same?",
    "ablations": "does any choice of Entropy-Prune matter?",
    "strategies": "does any other choice of tokens do better than entropy + coverage?",
    "places": "does a criterion beat attention (before the language model: chance) at one place?",
    "even": "at equal average tokens a layer, is FastV's layer better than none before it?",
}


def captions(
    profile: Profile, table: Mapping[str, Method], metrics: tuple[str, ...]
) -> list[Family]:
    """The families of Table 1's captions, by these metrics."""
    pruned = [(slug, "unpruned") for slug in table if slug != "unpruned"]
    return _families({"pruning": pruned} | _questions(profile, table), metrics)


def divergences(profile: Profile, table: Mapping[str, Method]) -> list[Family]:
    """The families of Table 1's divergences; that of the unpruned model is 0 by definition."""
    return _families(_questions(profile, table), (DIVERGENCE,))


def ablated(profile: Profile, table: Mapping[str, Method]) -> list[Family]:
    """Every ablation against the default it varies."""
    tail = percent(profile.ablation_keep)
    found: dict[str, list[tuple[str, str]]] = {"ablations": [], "strategies": []}
    for slug, method in table.items():
        groups = method.groups.keys() - {"sweep"}
        strategy = "strategy" in groups
        default = f"{'selection' if strategy else 'entropy'}-{tail}"
        if groups and slug != default:
            found["strategies" if strategy else "ablations"].append((slug, default))
    return _families(found, (DIVERGENCE,))


def placed(table: Mapping[str, Method]) -> list[Family]:
    """Every criterion against attention at each place and budget; before the model, chance.

    And each at FastV's layer against itself before the language model at equal average tokens.
    """
    pairs, even = [], []
    for slug, method in table.items():
        if (budget := method.groups.get("even")) is not None:
            even.append((f"{method.name}-at{FASTV_LAYER}-{budget}", slug))
            continue
        layer, budget = method.groups["place"], method.groups["budget"]
        rival = "random" if f"fastv-at{layer}-{budget}" not in table else "fastv"
        other = f"{rival}-at{layer}-{budget}"
        if slug != other:
            pairs.append((slug, other))
    return _families({"places": pairs, "even": even}, (DIVERGENCE,))


def equal(profile: Profile) -> list[tuple[str, str]]:
    """Pairs that are said to be equal: tested for equivalence, not for a difference."""
    tail = percent(profile.keep)
    fastv = f"fastv-{tail}"
    return [(fastv, "unpruned"), (f"fastv-mask-{tail}", fastv), (f"entropy-{tail}", fastv)]


def _questions(profile: Profile, table: Mapping[str, Method]) -> dict[str, list[tuple[str, str]]]:
    tail = percent(profile.keep)
    entropy, fastv = f"entropy-{tail}", f"fastv-{tail}"
    random, tome = f"random-{tail}", f"tome-{tail}"
    rows = [(entropy, random), (entropy, tome), (entropy, fastv), (tome, random), (fastv, random)]
    found = {
        "paper": [(a, b) for a, b in rows if a in table and b in table],
        "printed": [("entropy-printed", "random-printed")] if "entropy-printed" in table else [],
        BEFORE: list(_against(table, BEFORE, f"random-{tail}", entropy)),
        DEEP: list(_against(table, DEEP, fastv, f"random-layer{FASTV_LAYER}-{tail}")),
        "place": [],
    }
    for name in LABELS:
        for layer in (0, FASTV_LAYER):
            one, other = f"{name}-layer{layer}-{tail}", f"{name}-{tail}"
            if one in table and layer != own_layer(name):
                found["place"].append((one, other) if layer else (other, one))
    return {name: _there(pairs, table) for name, pairs in found.items()}


def _there(pairs: list[tuple[str, str]], table: Mapping[str, Method]) -> list[tuple[str, str]]:
    """The pairs whose methods run on the model: one that refuses it is in no table."""
    return [pair for pair in pairs if set(pair) <= table.keys()]


def _against(
    table: Mapping[str, Method], part: str, first: str, second: str
) -> Iterator[tuple[str, str]]:
    """Every row of a part against two others."""
    rows = [slug for slug, method in table.items() if method.groups["table"] == part]
    rows += [slug for slug in (first, second) if slug not in rows]
    yield from ((slug, first) for slug in rows if slug != first)
    yield from ((slug, second) for slug in rows if slug not in (first, second))


def _families(found: Mapping[str, list[tuple[str, str]]], metrics: tuple[str, ...]) -> list[Family]:
    """The families with pairs; what is not in the table was left out by whoever made them."""
    return [Family(name, tuple(pairs), metrics) for name, pairs in found.items() if pairs]
