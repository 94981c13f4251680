"""Sentences follow from stored numbers, and say so where there are none."""

import json

import pytest

from lib.study import paths
from lib.study.reports import grounds, sentences


def row(label, value, layer=0, **groups):
    return {
        "label": label, "method": "entropy", "layer": layer, "groups": groups,
        "kept": 64, "of": 256, "average": 64, "options": {},
        "values": {"divergence": value, "loss of the references": 1.0},
        "intervals": {"divergence": [value / 2, 2 * value], "loss of the references": None},
    }  # fmt: skip


def one(a, b, value, p):
    tests = dict.fromkeys(("p_value", "p_holm", "flip_p", "flip_holm"), p)
    return {"a": a, "b": b, "metric": "divergence", "value": value, "low": 0, "high": 0} | tests


@pytest.fixture
def stored(bare):
    """Writes a document of results of the profile "tiny"."""

    def write(name, document):
        path = paths.results_dir("tiny") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))

    return write


def divergence(p):
    methods = {
        "a": row("A", 0.01), "b": row("B", 0.02), "c": row("A, layer 2", 0.001, 2),
    }  # fmt: skip
    found = {
        "before the language model": [one("b", "a", 0.01, p)],
        "place": [one("c", "a", -0.009, p)],
    }
    ablations = {
        "entropy-25": row("E", 0.03, rollout="x", sweep="0.25"),
        "y": row("E", 0.02, rollout="y", sweep="0.5"),
        "z": row("E", 0.04, level="z", sweep="0.75"),
    }
    versus = [one("y", "entropy-25", -0.01, p), one("z", "entropy-25", 0.01, p)]
    grid = {
        "random-at2-25": row("R", 0.05, 2, place="2", budget="25"),
        "fastv-at2-25": row("F", 0.04, 2, place="2", budget="25"),
        "entropy-at2-25": row("E", 0.03, 2, place="2", budget="25"),
    }
    places = [one(f"{n}-at2-25", "fastv-at2-25", -0.01, p) for n in ("random", "entropy")]
    part = {"images": 9}
    return {
        "references": 2,
        "table": part | {"methods": methods, "comparisons": found},
        "ablations": part | {"methods": ablations, "comparisons": {"ablations": versus}},
        "places": part | {"methods": grid, "comparisons": {"places": places}},
    }


def test_a_difference_is_one_only_after_correction(stored):
    stored("divergence.json", divergence(0.01))
    said = " ".join(sentences.table_1("tiny"))
    assert "by divergence: A .010, B .020." in said and "after correction: B above A." in said
    assert "A before layers 2 and 0: .0010 and .010 (a difference after correction)." in said
    stored("divergence.json", divergence(0.06))
    said = " ".join(sentences.table_1("tiny"))
    assert "Not told apart by these images: B and A." in said and "above" not in said


def test_ablations_that_hold_are_named(stored):
    stored("divergence.json", divergence(0.01))
    first, less, more = sentences.ablated("tiny")
    assert "Of 2 other settings 1 diverge less, 1 more, and 0 are not told apart by 9" in first
    assert less == "Less than Entropy-Prune: rollout: y (.020)."
    assert more == "More than Entropy-Prune: level: z (.040)."
    stored("divergence.json", divergence(0.5))
    (only,) = sentences.ablated("tiny")
    assert "0 diverge less, 0 more, and 2 are not told apart" in only


def test_the_best_criterion_of_a_place_is_held_against_attention(stored):
    stored("divergence.json", divergence(0.01))
    assert sentences.placed("tiny") == [
        "25 % before layer 2: E .030, F .040: a difference after correction."
    ]


def test_more_tokens_that_diverge_more_are_named(stored):
    stored("divergence.json", divergence(0.01))
    (said,) = sentences.uneven("tiny")
    assert said == "E diverges more with 75 % of the tokens (.040) than with 50 % (.020)."


def test_times_are_told_apart_by_their_intervals_alone(stored):
    def timed(slug, low, high):
        ratio = {"median": (low + high) / 2, "low": low, "high": high}
        seconds = {"median": 1.0}
        return {
            "slug": slug, "label": slug.upper(), "batch": 1, "table": True,
            "ratio": {"end_to_end": ratio, "prefill": ratio},
            "prefill": seconds, "scorer": {"median": 0.25},
        }  # fmt: skip

    rows = [timed("unpruned", 1, 1), timed("a", 0.7, 0.9), timed("b", 0.9, 1.1), timed("c", 2, 4)]
    stored("efficiency.json", {"rows": rows})
    whole, first, scorer = sentences.efficient("tiny")
    assert whole.endswith("sooner: A 80 %; later: C 300 %; not told apart: B 100 %.")
    assert "the first token" in first and "A 25.0 %" in scorer


def test_nothing_stored_is_said(bare):
    for say in (sentences.table_1, sentences.ablated, sentences.placed):
        (said,) = say("tiny")
        assert "make reproduce PROFILE=tiny" in said
    assert sentences.uneven("tiny") == []
    assert "is missing" in sentences.efficient("tiny")[0]
    assert any("not stored" in said for said in grounds.grounds("tiny"))


def test_grounds_are_measured(stored):
    def measures(shares, first, auc):
        found = {
            "attention": {"image share": {"mean": shares, "n": 5},
                          "first token's share": {"mean": first, "n": 5}},
            "criteria": {f"objects found by {name}": {"mean": auc, "n": 5}
                         for name in ("attention", "entropy")},
        }  # fmt: skip
        stored("population.json", {"measures": found})
        return " ".join(grounds.grounds("tiny"))

    said = measures([0.4, 0.7, 0.6, 0.5], [0.01, 0.02, 0.03, 0.02], 0.99)
    assert "dropped uniformly at random" in said, "the embedded model, by default"
    assert "layer by layer: 40, 70, 60, 50 % (5 images)" in said and "does not decay" in said
    assert "is no sink (at most 3.0 %" in said and "near-oracles" in said
    said = measures([0.4, 0.5, 0.01, 0.02], [0.01, 0.02, 0.9, 0.9], 0.6)
    assert "It decays" in said and "is a sink" in said and "near-oracles" not in said
