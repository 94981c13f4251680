"""Resampled scores are scores of resampled corpora; intervals and p-values agree with scipy."""

import math

import numpy as np
import pytest
import scipy.stats
from pycocoevalcap.bleu.bleu import Bleu

from lib.study.evaluation import (
    METRICS,
    Scores,
    bootstrap,
    compare,
    mean_interval,
    score,
    score_many,
)
from tests.study.evaluation.corpora import corpus, tokens_of

WITHOUT_JAVA = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


def test_bootstrap_samples_are_scores_of_resampled_corpora(meteor, scored):
    references, records, _ = scored
    shorter = [r | {"caption": r["caption"].rsplit(" ", 2)[0]} for r in records["good"]]
    result = score(shorter, references, meteor=meteor, n_bootstrap=0)
    said, truth = tokens_of(references, shorter)
    weights = next(bootstrap._resamples(len(said), 5, 7))
    assert weights.shape == (5, 40) and (weights.sum(1) == 40).all()
    samples = bootstrap.weighted(result, weights)
    for row, drawn in enumerate(np.repeat(np.arange(40), w.astype(int)) for w in weights):
        gts = {n: truth[i] for n, i in enumerate(drawn)}
        res = {n: [said[i]] for n, i in enumerate(drawn)}
        bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
        for k in range(4):
            assert samples[f"BLEU-{k + 1}"][row] == pytest.approx(bleu[k], abs=1e-9)
        *_, value = meteor.score([said[i] for i in drawn], [truth[i] for i in drawn])
        assert samples["METEOR"][row] == pytest.approx(value, abs=1e-6)
        for name in ("CIDEr", "ROUGE-L"):
            assert samples[name][row] == pytest.approx(result.per_image[name][drawn].mean())


def test_chunked_resampling_draws_the_same(monkeypatch):
    whole = np.concatenate(list(bootstrap._resamples(7, 10, 3)))
    monkeypatch.setattr(bootstrap, "CHUNK", 21)
    chunks = list(bootstrap._resamples(7, 10, 3))
    assert [len(c) for c in chunks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_intervals_agree_with_scipy():
    references, records = corpus(80, seed=1)
    result = score(records["good"], references, metrics=["CIDEr", "ROUGE-L"], n_bootstrap=10_000)
    for name, values in result.per_image.items():
        low, high = result.intervals[name]
        expected = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        width = expected.high - expected.low
        assert (low, high) == pytest.approx(tuple(expected), abs=0.04 * width)
        assert low < result.values[name] < high


def test_intervals_are_reproducible_and_optional():
    references, records = corpus(12)
    options = {"metrics": WITHOUT_JAVA, "n_bootstrap": 100}
    one, two, other = (
        score(records["good"], references, random_state=s, **options) for s in (0, 0, 1)
    )
    assert one.intervals == two.intervals != other.intervals
    none = score(records["good"], references, metrics=["CIDEr"], n_bootstrap=0)
    assert none.intervals == {"CIDEr": None} and none.values["CIDEr"] == one.values["CIDEr"]


def test_paired_differences_agree_with_scipy_and_the_normal_approximation(scored):
    references, records = corpus(80, seed=2)
    results = score_many(records, references, metrics=["CIDEr", "BLEU-4"], n_bootstrap=0)
    good, poor = results["good"], results["poor"]
    gap = compare(good, poor, n_bootstrap=10_000)["CIDEr"]
    differences = good.per_image["CIDEr"] - poor.per_image["CIDEr"]
    expected = scipy.stats.bootstrap(
        (differences,), np.mean, n_resamples=10_000, method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert gap.value == pytest.approx(differences.mean())
    assert (gap.low, gap.high) == pytest.approx(tuple(expected), abs=0.04 * width)
    # a small difference, where the p-value is neither 0 nor 1
    near = Scores.from_dict(
        good.to_dict()
        | {
            "per_image": {
                "CIDEr": (
                    poor.per_image["CIDEr"] + 0.25 * differences - 0.15 * differences.mean()
                ).tolist()
            },
            "statistics": {},
            "values": {"CIDEr": 0.0},
        }
    )
    shift = near.per_image["CIDEr"] - poor.per_image["CIDEr"]
    error = shift.std() / math.sqrt(len(shift))
    normal = 2 * scipy.stats.norm.sf(abs(shift.mean()) / error)
    p_value = compare(near, poor, n_bootstrap=20_000)["CIDEr"].p_value
    assert 0.01 < normal < 0.5
    assert p_value == pytest.approx(normal, abs=0.03)


def test_a_method_does_not_differ_from_itself_and_order_only_changes_the_sign(scored):
    *_, results = scored
    good, poor = results["good"], results["poor"]
    assert all(
        (d.value, d.low, d.high, d.p_value) == (0, 0, 0, 1) for d in compare(good, good).values()
    )
    there, back = compare(good, poor), compare(poor, good)
    assert list(there) == [name for name in METRICS if name != "SPICE"]
    for name in there:
        assert there[name].value == -back[name].value
        assert there[name].low == pytest.approx(-back[name].high)
        assert there[name].p_value == back[name].p_value < 0.05
    clear = compare(good, poor, n_bootstrap=99)["CIDEr"]
    assert clear.p_value == 2 / 100  # never 0: nothing is certain after 99 samples
    assert there["CIDEr"].p_value >= 2 / 10_001
    for name in there:
        assert there[name].low > 0


def test_pairing_narrows_the_interval(scored):
    *_, results = scored
    good = results["good"]
    rounded = Scores.from_dict(good.to_dict())
    rounded.per_image["CIDEr"] = rounded.per_image["CIDEr"] * 0.99
    rounded.values["CIDEr"] *= 0.99
    gap = compare(good, rounded)["CIDEr"]
    low, high = good.intervals["CIDEr"]
    assert gap.high - gap.low < 0.02 * (high - low)


def test_the_interval_of_a_mean_is_scipy_s_and_that_of_scores():
    values = np.random.default_rng(0).gamma(2.0, size=120)
    low, high = mean_interval(values, n_bootstrap=10_000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert (low, high) == pytest.approx(tuple(expected), abs=0.04 * width)
    references, records = corpus(12)
    one = score(records["good"], references, metrics=["CIDEr"], n_bootstrap=100, random_state=3)
    again = mean_interval(one.per_image["CIDEr"], n_bootstrap=100, random_state=3)
    assert again == pytest.approx(one.intervals["CIDEr"], rel=1e-12)


@pytest.mark.parametrize("values, options", [([], {}), ([[1.0]], {}), ([1.0], {"n_bootstrap": 0})])
def test_an_interval_of_nothing_is_refused(values, options):
    with pytest.raises(ValueError, match=r"values must be one a image|n_bootstrap must be"):
        mean_interval(values, **options)


def test_another_order_of_images_is_not_paired():
    references, records = corpus(6)
    one = score(records["good"], references, metrics=["CIDEr"], n_bootstrap=0)
    turned = Scores.from_dict(one.to_dict() | {"image_ids": one.image_ids[::-1].tolist()})
    with pytest.raises(ValueError, match="another order"):
        compare(one, turned)
