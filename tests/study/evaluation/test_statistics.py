"""Corrections by definition, sign flips by enumeration and by scipy, equivalence by t-tests."""

import doctest
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.study.evaluation import (
    Family,
    Scores,
    compare,
    compare_families,
    equivalence,
    holm,
    score_many,
    sign_flip,
    statistics,
)
from lib.study.evaluation.bleu import bleu_score
from tests.study.evaluation.corpora import corpus


def means(values, ids=None, name="CIDEr"):
    return Scores.of_means(range(len(values)) if ids is None else ids, {name: values})


def pair(n=40, shift=0.0, seed=0):
    """Two methods whose per-image scores are alike but for a shift."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    return means(hard + rng.normal(size=n) * 0.3 + shift), means(hard + rng.normal(size=n) * 0.3)


# ------------------------------------------------------------------------------------------- Holm


def rejected_step_by_step(p_values, alpha):
    """Holm 1979: reject the smallest while it is at most alpha over the number that is left."""
    rejected = set()
    for left, i in zip(range(len(p_values), 0, -1), np.argsort(p_values, kind="stable")):
        if p_values[i] * left > alpha:
            break
        rejected.add(int(i))
    return rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_procedure_rejects(p_values, alpha):
    corrected = holm(p_values)
    assert {int(i) for i in np.flatnonzero(corrected <= alpha)} == rejected_step_by_step(
        p_values, alpha
    )
    assert (corrected >= p_values).all() and (corrected <= 1).all()


def test_holm_of_one_and_of_none():
    assert holm([0.2]).tolist() == [0.2] and holm([]).tolist() == []
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        holm([0.5, float("nan")])


# -------------------------------------------------------------------------------------- sign flips


def test_few_images_are_enumerated():
    """Against every assignment of signs, one after the other."""
    values = np.array([0.5, -0.1, 0.7, 0.2, 0.4, -0.3, 0.9])
    p_value = sign_flip(means(values), means(np.zeros(7)))["CIDEr"]
    seen = abs(values.sum())
    flips = [abs(np.dot(s, values)) >= seen - 1e-12 for s in itertools.product((1, -1), repeat=7)]
    assert p_value == pytest.approx(np.mean(flips), abs=1e-15)
    expected = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert p_value == pytest.approx(expected)


def test_many_images_are_sampled_as_scipy_does():
    for seed in range(4):
        a, b = pair(60, shift=0.1, seed=seed)
        gaps = a.per_image["CIDEr"] - b.per_image["CIDEr"]
        expected = scipy.stats.permutation_test(
            (gaps,), np.mean, permutation_type="samples", n_resamples=9999, rng=seed
        ).pvalue
        p_value = sign_flip(a, b)["CIDEr"]
        error = math.sqrt(expected * (1 - expected) / 10_000)
        assert p_value == pytest.approx(expected, abs=6 * error + 3e-4)
        assert p_value == sign_flip(b, a)["CIDEr"]


def test_equal_methods_do_not_differ_and_nothing_is_certain():
    a, _ = pair()
    assert sign_flip(a, a) == {"CIDEr": 1.0}
    far = means(a.per_image["CIDEr"] + 9)
    assert sign_flip(far, a, n_samples=99) == {"CIDEr": 1 / 100}


def test_a_score_that_is_no_mean_is_exchanged_image_by_image():
    """BLEU of every exchange of 6 images, from the sums of its statistics."""
    references, records = corpus(6, seed=3)
    two = score_many(records, references, metrics=["BLEU-2", "CIDEr"], n_bootstrap=0)
    a, b = two["good"], two["poor"]

    def bleu(kept):
        rows = np.where(np.array(kept)[:, None], a.statistics["BLEU"], b.statistics["BLEU"])
        guesses = np.maximum(0, rows[:, 4:5] - np.arange(4))
        return bleu_score(rows.sum(0), guesses.sum(0))[1]

    gaps = [
        bleu(kept) - bleu([not k for k in kept])
        for kept in itertools.product((True, False), repeat=6)
    ]
    expected = np.mean(np.abs(gaps) >= abs(gaps[0]) - 1e-12)
    found = sign_flip(a, b)
    assert list(found) == ["BLEU-2", "CIDEr"]
    assert found["BLEU-2"] == pytest.approx(expected, abs=1e-15)
    assert gaps[0] == pytest.approx(a.values["BLEU-2"] - b.values["BLEU-2"], abs=1e-9)


def test_sign_flips_are_calibrated():
    """Under no difference, p-values below .1 come in a tenth of cases."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a, b = means(rng.standard_t(4, size=25)), means(rng.standard_t(4, size=25))
        found.append(sign_flip(a, b, n_samples=400)["CIDEr"])
    assert 0.1 - 3.5 * math.sqrt(0.09 / 300) < np.mean(np.array(found) <= 0.1) < 0.1 + 0.061


def test_chunks_change_nothing(monkeypatch):
    a, b = pair()
    whole = sign_flip(a, b, n_samples=500)
    monkeypatch.setattr(statistics, "CHUNK", 4 * 40 * 7)
    assert sign_flip(a, b, n_samples=500) == whole


# ---------------------------------------------------------------------------------------- families


def methods():
    rng = np.random.default_rng(5)
    hard = rng.normal(size=50)
    return {
        name: Scores.of_means(
            range(50),
            {m: hard + shift + rng.normal(size=50) * 0.4 for m in ("CIDEr", "ROUGE-L")},
        )
        for name, shift in {"one": 0.0, "two": 0.08, "three": 0.3}.items()
    }


def test_a_family_s_values_are_those_of_each_comparison():
    scores = methods()
    quality = Family("quality", (("two", "one"), ("three", "one")), ("CIDEr", "ROUGE-L"))
    place = Family("place", (("three", "two"),), ("CIDEr",))
    found = compare_families(scores, [quality, place], n_samples=2000)
    assert list(found) == ["quality", "place"] and [len(rows) for rows in found.values()] == [4, 1]
    for row in [*found["quality"], *found["place"]]:
        alone = compare(scores[row.a], scores[row.b], n_bootstrap=2000)[row.metric]
        assert (row.value, row.low, row.high, row.p_value) == alone
        flips = sign_flip(scores[row.a], scores[row.b], n_samples=2000)[row.metric]
        assert row.flip_p == flips and row.images == 50
    rows = found["quality"]
    assert [row.p_holm for row in rows] == pytest.approx(holm([row.p_value for row in rows]))
    assert [row.flip_holm for row in rows] == pytest.approx(holm([row.flip_p for row in rows]))
    assert {row.tests for row in rows} == {4}
    (alone,) = found["place"]
    assert alone.p_holm == alone.p_value and alone.tests == 1


def test_what_has_no_value_is_not_counted():
    scores = methods()
    lacking = Scores.of_means(range(50), {"CIDEr": scores["one"].per_image["CIDEr"] + 0.1})
    family = Family("f", (("lacking", "one"), ("two", "one")), ("CIDEr", "ROUGE-L", "SPICE"))
    rows = compare_families(scores | {"lacking": lacking}, [family], n_samples=200)["f"]
    assert [(row.a, row.metric) for row in rows] == [
        ("lacking", "CIDEr"),
        ("two", "CIDEr"),
        ("two", "ROUGE-L"),
    ]
    assert {row.tests for row in rows} == {3}


def test_a_family_that_cannot_be_compared_is_named():
    scores = methods()
    with pytest.raises(ValueError, match="no scores of 'four'; there are one, two, three"):
        compare_families(scores, [Family("f", (("four", "one"),), ("CIDEr",))])
    with pytest.raises(ValueError, match="family 'f' compares nothing"):
        compare_families(scores, [Family("f", (("two", "one"),), ("SPICE",))], n_samples=9)
    with pytest.raises(ValueError, match="a name of its own"):
        compare_families(scores, [Family("f", (("two", "one"),), ("CIDEr",))] * 2)
    with pytest.raises(ValueError, match="different images: image_id 50"):
        other = means(np.zeros(51))
        compare_families(scores | {"x": other}, [Family("f", (("x", "one"),), ("CIDEr",))])
    for call in (sign_flip, equivalence):
        with pytest.raises(ValueError, match="different images"):
            call(
                scores["one"], means(np.zeros(51)), *([{"CIDEr": 1}] if call is equivalence else [])
            )
    assert compare_families({}, []) == {}


def test_correction_takes_back_what_chance_gave():
    """Twenty comparisons of equal methods: now and then one is below .05, corrected hardly ever."""
    rng = np.random.default_rng(1)
    plain = corrected = 0
    for _ in range(30):
        scores = {str(i): means(rng.normal(size=30)) for i in range(21)}
        pairs = tuple((str(i), "0") for i in range(1, 21))
        rows = compare_families(scores, [Family("f", pairs, ("CIDEr",))], n_samples=400)["f"]
        plain += any(row.flip_p < 0.05 for row in rows)
        corrected += any(row.flip_holm < 0.05 for row in rows)
    assert plain > 10 and corrected <= 4


# ------------------------------------------------------------------------------------- equivalence


def test_equivalence_agrees_with_two_t_tests():
    for seed, margin in itertools.product(range(4), (0.05, 0.12, 0.25)):
        a, b = pair(120, shift=0.03, seed=seed)
        gaps = a.per_image["CIDEr"] - b.per_image["CIDEr"]
        sides = [
            scipy.stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue,
            scipy.stats.ttest_1samp(gaps, margin, alternative="less").pvalue,
        ]
        found = equivalence(a, b, {"CIDEr": margin})["CIDEr"]
        assert found.p_value == pytest.approx(max(sides), abs=0.02)
        assert found.equivalent == (-margin < found.low and found.high < margin)
        expected = scipy.stats.ttest_1samp(gaps, 0).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.006)
        assert found.value == pytest.approx(gaps.mean()) and found.images == 120


def test_no_difference_found_is_not_equality():
    a, b = pair(12, shift=0.0, seed=2)
    assert compare(a, b)["CIDEr"].p_value > 0.05
    assert not equivalence(a, b, {"CIDEr": 0.02})["CIDEr"].equivalent
    assert equivalence(a, a, {"CIDEr": 1e-9})["CIDEr"].equivalent


@pytest.mark.parametrize("margin", [0, -0.1, float("nan")])
def test_a_margin_must_be_stated(margin):
    a, b = pair(5)
    with pytest.raises(ValueError, match="margins must be positive"):
        equivalence(a, b, {"CIDEr": margin})
    assert equivalence(a, b, {"SPICE": 1.0}, n_bootstrap=9) == {}


# ------------------------------------------------------------------------------------ scores alone


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(8)))
def test_means_are_sorted_by_image(order):
    values = np.arange(8.0) ** 2
    one = Scores.of_means(order, {"kl": values[list(order)]})
    assert one.image_ids.tolist() == list(range(8))
    assert one.per_image["kl"].tolist() == values.tolist() and one.values["kl"] == values.mean()
    assert Scores.from_dict(one.to_dict()).to_dict() == one.to_dict()


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]]])
def test_means_need_a_value_for_every_image(values):
    with pytest.raises(ValueError, match="kl needs one value for each of 2 images"):
        Scores.of_means([1, 2], {"kl": values})


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(statistics).failed == 0
