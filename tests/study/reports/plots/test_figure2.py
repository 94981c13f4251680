"""Similar clusters are neighbours in the order of Figure 2."""

import numpy as np

from lib.study.reports.plots.figure2 import similarity_order


def test_similar_clusters_are_neighbours_in_the_order():
    a, b = np.random.default_rng(0).normal(size=(2, 16))
    near = np.stack([a, b, a + 0.1 * b, b + 0.1 * a, a - 0.1 * b, b - 0.1 * a])
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    groups = similarity_order(near @ near.T) % 2
    assert groups.tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
