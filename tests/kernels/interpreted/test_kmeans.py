"""K-means and its empty clusters, by the interpreter."""

from __future__ import annotations

import pytest
import torch

from lib.clustering import centroid_gram, kmeans
from lib.clustering.kmeans import clusters_of
from lib.clustering.lloyd import refilled
from lib.entropy import gram
from lib.kernels import backend_for
from tests.kernels.interpreted.kit import interpreted, make, of_mean_one, plainly, signs

pytestmark = interpreted


@pytest.mark.parametrize("width", [4, 16, 64])
@pytest.mark.parametrize("size, clusters", [(33, 20), (70, 16)])
def test_kmeans_of_exact_distances_and_many_ties(width, size, clusters):
    tokens = signs(size, width)
    ours = kmeans(tokens, clusters)
    plain = plainly(lambda: kmeans(tokens, clusters))
    assert torch.equal(ours.labels, plain.labels) and torch.equal(ours.counts, plain.counts)
    assert (ours.centroid_gram - plain.centroid_gram).abs().max() < 1e-5
    assert (ours.distances - plain.distances).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["gaussian", "themes", "duplicates"])
@pytest.mark.parametrize("size, clusters", [(33, 20), (70, 16)])
def test_kmeans(kind, size, clusters):
    tokens = make(kind, size)
    ours = kmeans(tokens, clusters)
    plain = plainly(lambda: kmeans(tokens, clusters))
    # the kernels draw on a coarser grid: where a draw nearly hits a boundary, another centre
    torch.testing.assert_close(ours.inertia, plain.inertia, rtol=0.1, atol=1e-4)
    own = centroid_gram(tokens, ours.labels, clusters)
    assert (ours.centroid_gram - own).abs().max() < 1e-5
    assert torch.equal(ours.counts, torch.stack([x.bincount(minlength=clusters) for x in ours[0]]))


@pytest.mark.parametrize("size, clusters", [(32, 20), (70, 16)])
def test_kmeans_of_tokens_as_they_are_and_many_ties(size, clusters):
    # squared lengths 4 and 12, of mean 8: every product, sum and distance is exact
    tokens = signs(size, 4)
    tokens[:, ::2, 0] *= 3
    matrix = of_mean_one(tokens)
    options = {"random_state": 0, "n_iter": 20, "unit": False}
    ours = clusters_of(matrix.float(), clusters, backend=backend_for(matrix.float()), **options)
    plain = clusters_of(matrix, clusters, **options)
    assert torch.equal(ours.labels, plain.labels) and torch.equal(ours.counts, plain.counts)
    assert (ours.distances - plain.distances).abs().max() < 1e-5


@pytest.mark.parametrize("longest", [1, 40, 1000])
@pytest.mark.parametrize("kind", ["gaussian", "themes", "duplicates"])
def test_kmeans_of_tokens_as_they_are(kind, longest):
    # one token outweighs the others; two copies of it stay together whatever their products err
    tokens = make(kind, 70)
    tokens *= torch.linspace(0.5, 2, 70)[:, None]
    tokens[:, 7] *= longest
    tokens[:, 60] = tokens[:, 7]
    matrix = of_mean_one(tokens)
    options = {"random_state": 0, "n_iter": 20, "unit": False}
    ours = clusters_of(matrix.float(), 16, backend=backend_for(matrix.float()), **options)
    plain = clusters_of(matrix, 16, **options)
    if longest < 1000:  # else the others differ by less than the grid
        assert torch.equal(ours.labels, plain.labels)
    assert torch.equal(ours.labels[:, 7], ours.labels[:, 60])
    assert torch.equal(ours.counts, torch.stack([x.bincount(minlength=16) for x in ours.labels]))
    assert (ours.distances.sum(-1) - plain.distances.sum(-1)).abs().max() < 1e-4 * 70


def test_an_empty_cluster_attracts_no_token():
    from lib.kernels import kmeans as module

    # A centroid of length 1/2, with four of its tokens farther from it than from the origin, where
    # the mean of an empty cluster would lie.
    tokens = torch.zeros(1, 32, 4)
    tokens[0, :12, 0], tokens[0, 12:16, 0], tokens[0, 16:, 1] = 1, -1, 1
    labels = torch.tensor([[0] * 16 + [1] * 16], dtype=torch.int32)
    matrix = gram(tokens)
    following, done = torch.empty_like(labels), torch.zeros(1, dtype=torch.int32)
    own = torch.empty(1, 32)
    module._own_kernel[(2, 1)](matrix, labels, following, own, done, 32, ROWS=16, COLS=128)
    module._assign_kernel[(1, 1, 1)](
        matrix, matrix, labels, following, own, done, 32, 3,
        UNIT=True, ROWS=64, COLS=16, DEPTH=128,
    )  # fmt: skip
    assert (following & 4095).tolist() == [[0] * 12 + [1] * 4 + [1] * 16]
    distances = (following >> 12).float() / 2**16
    assert distances.tolist() == [[0.25] * 12 + [2.0] * 4 + [0.0] * 16]


@pytest.mark.parametrize("seed", range(4))
def test_empty_clusters_get_the_farthest_spare_tokens(seed):
    from lib.kernels import kmeans as module

    size, clusters = 24, 7
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (1, size), generator=generator) * 2  # three clusters are empty
    labels[0, :4] = torch.tensor([0, 2, 4, 6])
    far = torch.randint(0, 6, (1, size), generator=generator)  # with ties and zeros
    following = (far.int() << 12) | labels.int()
    packed, done, missing = torch.zeros_like(following), torch.zeros(1).int(), torch.zeros(1).int()
    vacant = torch.empty(1, clusters, dtype=torch.int32)
    module._empty_kernel[(1,)](
        packed, following, done, missing, vacant, size, clusters, BLOCK=32, BINS=16
    )
    assert missing.item() == 3 and vacant[0, :3].tolist() == [1, 3, 5]
    grid = (2, 1)
    module._spare_kernel[grid](packed, following, missing, size, BLOCK=32, ROWS=16)
    module._move_kernel[grid](packed, following, missing, vacant, size, clusters, BLOCK=32, ROWS=16)
    counts = labels[0].bincount(minlength=clusters).unsqueeze(0)
    wanted = refilled(labels, far, counts)
    assert not torch.equal(wanted, labels)
    assert torch.equal(torch.where(wanted != labels, following, following & 4095), wanted)
