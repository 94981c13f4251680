"""The estimators against known mutual information, and where each must fail."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from lib.entropy import joint_entropy
from lib.study.dependence import (
    Gaussians,
    binned,
    gaussian_pair,
    matrix_based,
    mine,
    pairing,
    sweep,
)
from lib.study.dependence.estimators import _cells, gaussian_gram


def test_the_truth_of_a_gaussian_pair_by_its_covariance():
    """log det of the blocks against the whole, another formula for the same number."""
    case = Gaussians(10, 3, -0.7)
    block = np.kron(np.array([[1, -0.7], [-0.7, 1]]), np.eye(3))
    determinant = np.linalg.slogdet(block)[1]
    assert case.information == pytest.approx(-0.5 * determinant)
    x, y = gaussian_pair(Gaussians(40_000, 1, -0.7), random_state=1)
    assert np.corrcoef(x[:, 0], y[:, 0])[0, 1] == pytest.approx(-0.7, abs=0.01)
    with pytest.raises(ValueError, match="between -1 and 1, got 1"):
        gaussian_pair(Gaussians(3, 1, 1.0))
    with pytest.raises(ValueError, match="at least 1"):
        gaussian_pair(Gaussians(0, 1, 0.1))


def test_binning_is_scikit_learns_score_of_the_cells():
    x, y = gaussian_pair(Gaussians(500, 1, 0.8))
    cells = [_cells(side.numpy(), 8)[:, 0] for side in (x, y)]
    assert binned(x, y) == pytest.approx(mutual_info_score(*cells))


def test_binning_works_in_one_dimension_and_fails_in_many():
    near = Gaussians(4000, 1, 0.8)
    assert binned(*gaussian_pair(near)) == pytest.approx(near.information, rel=0.15)
    independent = gaussian_pair(Gaussians(500, 8, 0.0))
    assert binned(*independent) > 0.95 * math.log(500)  # of a truth of 0


def test_mine_is_a_lower_bound_that_comes_close_and_needs_samples():
    easy = Gaussians(2000, 1, 0.9)
    estimate = mine(*gaussian_pair(easy))
    assert 0.7 * easy.information < estimate < 1.1 * easy.information
    assert abs(mine(*gaussian_pair(Gaussians(2000, 1, 0.0)))) < 0.1
    few = Gaussians(60, 10, 0.9)
    assert mine(*gaussian_pair(few)) < 0.5 * few.information
    with pytest.raises(ValueError, match="at least 10 pairs, got 5 and 5"):
        mine(torch.zeros(5, 1), torch.zeros(5, 1))


def test_mine_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    x, y = gaussian_pair(Gaussians(50, 1, 0.5))
    assert mine(x, y, steps=5) == mine(x, y, steps=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_matrix_based_quantities_grow_with_the_dependence():
    found = [matrix_based(*gaussian_pair(Gaussians(200, 3, rho))) for rho in (0.0, 0.3, 0.6, 0.9)]
    for name in ("matrix MI", "DiME"):
        values = [row[name] for row in found]
        assert values == sorted(values)
    assert abs(found[0]["DiME"]) < 0.05 and found[0]["matrix MI"] > 0.1  # only DiME starts at 0
    assert found[-1]["DiME"] > 10 * abs(found[0]["DiME"])


def test_the_kernel_is_that_of_a_plain_loop():
    x = torch.randn(6, 2, dtype=torch.float64)
    squared = [[float(((a - b) ** 2).sum()) for b in x] for a in x]
    off = sorted(squared[i][j] for i in range(6) for j in range(6) if i != j)
    width = off[(len(off) - 1) // 2]
    want = [[math.exp(-value / (2 * width)) for value in row] for row in squared]
    torch.testing.assert_close(gaussian_gram(x), torch.tensor(want, dtype=torch.float64))


def test_a_sweep_has_the_truth_in_every_row():
    rows = sweep([Gaussians(60, 1, 0.5)], seeds=(0, 1))
    assert {row["estimator"] for row in rows} == {"binning", "MINE", "matrix MI", "DiME"}
    assert len(rows) == 8 and all(row["truth"] == pytest.approx(0.1438, abs=1e-4) for row in rows)


def test_pairing_tells_true_pairs_from_shuffled_ones():
    x, y = gaussian_pair(Gaussians(80, 4, 0.8))
    found = pairing(x, y, nulls=20)
    assert found["p"] == pytest.approx(1 / 21) and found["paired"] > max(found["shuffled"])
    kx, ky = gaussian_gram(x), gaussian_gram(y)
    joint = float(joint_entropy(kx, ky, gram=True))
    assert found["paired"] + joint > joint  # a random pairing has the higher joint entropy
    none = pairing(*gaussian_pair(Gaussians(80, 4, 0.0)), nulls=20)
    assert none["p"] > 0.05
    with pytest.raises(ValueError, match="one caption, got 80 and 79"):
        pairing(x, y[1:])


def test_pairs_of_a_wanted_information_have_it_in_any_dimension():
    for dimensions in (1, 4, 25):
        case = Gaussians.of_information(0.7, samples=9, dimensions=dimensions)
        assert case.information == pytest.approx(0.7) and case.samples == 9
    nothing = Gaussians.of_information(0.0, samples=9, dimensions=2)
    assert nothing.information == 0 and math.copysign(1, nothing.information) == 1


def test_the_interval_of_a_pairing_is_as_wide_as_other_samples_vary():
    """The delete-half jackknife against the spread over fresh samples."""
    case = Gaussians(60, 2, 0.8)
    found = [pairing(*gaussian_pair(case, random_state=seed), nulls=1) for seed in range(12)]
    spread = np.std([one["paired"] for one in found], ddof=1)
    widths = [(one["high"] - one["low"]) / 2 / 1.96 for one in found]
    assert 0.5 * spread < np.median(widths) < 2 * spread
    assert all(one["low"] < one["paired"] < one["high"] for one in found)
    with pytest.raises(ValueError, match="got 3 pairs"):
        pairing(torch.randn(3, 2), torch.randn(3, 2))
