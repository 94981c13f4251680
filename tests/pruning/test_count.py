"""Methods whose images may say how many tokens stay: what they promise, and at most."""

import pytest

from lib.pruning import create

ADAPTIVE = {"count": "adaptive"}


@pytest.mark.parametrize("name", ["entropy", "weighted", "prumerge", "tokencorr"])
def test_an_exact_count_is_the_budget(name):
    pruner = create(name, keep=0.25, **({"layer": 2} if name == "weighted" else {}))
    assert pruner.exact and pruner.bounded
    assert [pruner.most(tokens) for tokens in (4, 256, 576)] == [1, 64, 144]


@pytest.mark.parametrize(
    "name, options, most",
    [
        ("prumerge", {}, 576),
        ("tokencorr", {}, 576),
        # k_c · t_pc tokens, and no more than there are
        ("entropy", {"n_clusters": 64, "core_clusters": 32, "tokens_per_cluster": 4}, 128),
        ("entropy", {"n_clusters": 64, "core_clusters": 32, "tokens_per_cluster": 40}, 576),
        # `bound` times the budget of 144
        ("weighted", {"layer": 2, "typical": 50.0, "bound": 2.0}, 288),
    ],
)
def test_an_adaptive_count_has_an_upper_bound(name, options, most):
    pruner = create(name, keep=0.25, **ADAPTIVE, **options)
    assert not pruner.exact and pruner.bounded
    assert pruner.most(576) == most
