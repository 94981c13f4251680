"""The pieces of Lloyd's iteration, each against a loop."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.clustering.lloyd import nearest_cluster, own_sums, refilled, row_sums
from tests.reference import gram, make_tokens


def naive_refill(labels, own, n_clusters):
    """Empty clusters take the farthest tokens that are not the nearest of theirs, in order."""
    labels = list(labels)
    nearest = {
        min((i for i, other in enumerate(labels) if other == m), key=lambda i: (own[i], i))
        for m in set(labels)
    }
    spare = [i for i in range(len(labels)) if i not in nearest and own[i] > 0]
    spare.sort(key=lambda i: (-own[i], i))
    vacant = [m for m in range(n_clusters) if m not in labels]
    for m, i in zip(vacant, spare):
        labels[i] = m
    return labels


@settings(max_examples=200, deadline=None)
@example(tokens=[(0, 1), (0, 9), (0, 4), (0, 4)], n_clusters=4)
@example(tokens=[(0, 1), (0, 9)], n_clusters=2)
@given(
    tokens=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=12),
    n_clusters=st.integers(5, 9),
)
def test_refill_is_the_loop(tokens, n_clusters):
    n_clusters = min(n_clusters, max(len(tokens), 5))
    labels, own = (torch.tensor([part]) for part in zip(*tokens))
    counts = labels[0].bincount(minlength=n_clusters).unsqueeze(0)
    wanted = naive_refill(labels[0].tolist(), own[0].tolist(), n_clusters)
    assert refilled(labels, own, counts)[0].tolist() == wanted


def test_an_empty_cluster_is_nearest_to_nothing_and_of_equals_the_first_counts():
    distance = torch.tensor([[[5.0, 1, 3], [0.0, 0, 0], [5.0, 0.4, 3]]])
    for unit in (True, False):
        far, label = nearest_cluster(distance, torch.tensor([[False, True, False]]), unit)
        assert far.tolist() == [[5, 0, 3]] and label.tolist() == [[0, 2, 0]]
        assert nearest_cluster(distance, None, unit)[1].tolist() == [[1, 1, 1]]


def test_own_sums_are_sums_over_the_own_cluster():
    matrix = torch.stack([gram(make_tokens("clustered", 9, seed)) for seed in range(2)])
    labels = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0, 2], [3, 3, 3, 3, 1, 1, 0, 0, 0]])
    own, within = own_sums(row_sums(matrix, labels, 4), labels)
    for item in range(2):
        same = (labels[item][:, None] == labels[item]).double()
        torch.testing.assert_close(own[item], (matrix[item] * same).sum(-1))
        for m in range(4):
            mask = labels[item] == m
            torch.testing.assert_close(within[item, m], matrix[item][mask][:, mask].sum())
