"""What a reader must know of a profile's model before its numbers: computed where it can be.

How it was trained decides which selections are familiar to it; where its attention goes, whether it
stands for a large model; and how well the criteria find what was drawn, whether a ranking of
methods carries anything.
"""

from __future__ import annotations

from ..claims import Evidence
from ..profiles import load_profile
from ..stored import mark

__all__ = ["grounds"]

#: trained with visual tokens dropped at random, see `lib.study.training`
DROPPED = {"embedded", "photos-dropout"}
#: trained with all of them, by the same code
WHOLE = {"photos"}
#: the first token's share of attention from which it counts as a sink
SINK = 0.1
#: area under the ROC curve from which a criterion finds what was drawn
ORACLE = 0.95


def grounds(profile: str) -> list[str]:
    """Sentences on training, attention and criteria; of attention only what is stored."""
    if said := mark(profile):
        return [f"{said[0].upper()}{said[1:]}: nothing here speaks of quality."]
    model = load_profile(profile).model
    evidence = Evidence.of(profile)
    found = []
    if model in DROPPED:
        found.append(
            "The model was trained with visual tokens dropped uniformly at random before the "
            "language model. That is random pruning's own distribution: random choices are "
            "familiar to it, merged tokens and removal at a later layer are not. The paper's model "
            "was not trained so."
        )
    elif model in WHOLE:
        found.append("The model was trained with all visual tokens, as the paper's was.")
    return [*found, *_attention(evidence), *_criteria(evidence)]


def _attention(evidence: Evidence) -> list[str]:
    image = evidence.measure("attention", "image share")
    first = evidence.measure("attention", "first token's share")
    if image is None or first is None:
        return ["Its attention over many images is not stored (population.json)."]
    shares = ", ".join(f"{100 * share:.0f}" for share in image["mean"])
    early = sum(image["mean"][:2]) / len(image["mean"][:2])
    later = sorted(image["mean"][2:] or image["mean"])
    middle, most = later[len(later) // 2], max(first["mean"])
    decay = "It decays" if middle < early / 2 else "It does not decay"
    sink = "is a sink" if most >= SINK else "is no sink"
    return [
        f"The answer's attention to the image, layer by layer: {shares} % ({image['n']} images). "
        f"{decay} as a large model's does, and the first token {sink} (at most "
        f"{100 * most:.1f} % of a layer's attention)."
    ]


def _criteria(evidence: Evidence) -> list[str]:
    by = [evidence.measure("criteria", f"objects found by {name}") for name in _NAMES]
    if any(one is None for one in by):
        return []
    attention, entropy = (one["mean"] for one in by if one)
    found = (
        f"FastV's attention finds the patches of the drawn objects with an AUC of {attention:.3f}, "
        f"leave-one-out entropy with {entropy:.3f}"
    )
    if min(attention, entropy) < ORACLE:
        return [f"{found}."]
    return [f"{found}: both are near-oracles, so that a ranking of methods carries little."]


_NAMES = ("attention", "entropy")
