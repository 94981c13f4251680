"""K-means and its empty clusters, by the interpreter."""

from __future__ import annotations

import importlib

import pytest
import torch

from lib.clustering import centroid_gram, kmeans
from lib.clustering import lloyd as reference
from lib.clustering.kmeans import clusters_of
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


def iterated(matrix, labels, clusters, *, unit=True, n_iter=1, every=5):
    """What one launch makes of first labels (B, N): labels, counts and distances."""
    from lib.kernels import lloyd as module

    items, size = labels.shape
    kind = torch.int32 if unit else torch.int64
    keys = torch.empty(items, 2, size, dtype=kind)
    keys[:, 0] = labels
    norms = matrix.diagonal(dim1=-2, dim2=-1).contiguous()
    options = {"n_iter": n_iter, "refill_every": every, "unit": unit}
    return module.lloyd(matrix, norms, keys, clusters, **options)


def test_an_empty_cluster_attracts_no_token():
    # A centroid of length 1/2, with four of its tokens farther from it than from the origin, where
    # the mean of an empty cluster would lie.
    tokens = torch.zeros(1, 32, 4)
    tokens[0, :12, 0], tokens[0, 12:16, 0], tokens[0, 16:, 1] = 1, -1, 1
    labels = torch.tensor([[0] * 16 + [1] * 16])
    found, counts, distances = iterated(gram(tokens), labels, 3, n_iter=2)
    # they move to the other centroid, at distance 2 - but for the first, which the empty one takes
    assert found.tolist() == [[0] * 12 + [2] * 4 + [1] * 16]
    assert counts.tolist() == [[12, 16, 4]]
    assert distances.abs().max() < 1e-6


@pytest.mark.parametrize("n_iter, every", [(1, 5), (3, 5), (4, 2), (7, 5)])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_iterations_from_labels_with_empty_clusters(unit, n_iter, every, seed, monkeypatch):
    # in powers of two every product, sum and mean of a cluster of 1, 2, 4 ... tokens is exact;
    # of others the grid is far coarser than the error
    size, clusters = 40, 11
    generator = torch.Generator().manual_seed(seed)
    tokens = signs(size, 16)
    tokens[1] = torch.randn(size, 16, generator=generator)
    matrix = gram(tokens) if unit else of_mean_one(tokens).float()
    labels = torch.randint(0, 4, (2, size), generator=generator) * 2  # seven clusters are empty
    ours, counts, distances = iterated(
        matrix, labels, clusters, unit=unit, n_iter=n_iter, every=every
    )
    monkeypatch.setattr(reference, "REFILL_EVERY", every)
    wanted = reference.lloyd(matrix.double(), labels, clusters, n_iter=n_iter, unit=unit)
    assert torch.equal(ours, wanted)
    assert torch.equal(counts, reference.cluster_sizes(wanted, clusters))
    means = reference.membership(wanted, clusters, torch.float64) / counts.clamp_min(1).unsqueeze(
        -1
    )
    inner = means @ matrix.double() @ means.mT
    own = (means @ matrix.double()).gather(1, wanted.unsqueeze(1)).squeeze(1)
    length = inner.diagonal(dim1=-2, dim2=-1).gather(1, wanted)
    naive = matrix.double().diagonal(dim1=-2, dim2=-1) - 2 * own + length
    assert (distances - naive).abs().max() < 1e-5


def test_the_nearest_token_stays_when_many_clusters_are_empty():
    # of 16 pairs each token is as far from its centroid: the first of a pair represents it
    labels = torch.arange(32).expand(1, 32) // 2
    found, counts, _ = iterated(torch.eye(32).expand(1, 32, 32).contiguous(), labels, 32)
    assert found[0, ::2].tolist() == list(range(16))
    assert found[0, 1::2].tolist() == list(range(16, 32))
    assert bool((counts == 1).all())


@pytest.mark.parametrize("n_iter", [4, 7])
def test_rest_with_an_empty_cluster_may_end(n_iter):
    # found by search: labels that rest between two searches for empty clusters, with one
    tokens = torch.randn(40, 24, 3, generator=(generator := torch.Generator().manual_seed(8)))
    labels = torch.randint(0, 3, (40, 24), generator=generator)
    matrix, labels = gram(tokens)[1:2], labels[1:2]
    ours, *_ = iterated(matrix, labels, 9, n_iter=n_iter)
    assert torch.equal(ours, reference.lloyd(matrix.double(), labels, 9, n_iter=n_iter, unit=True))


def test_items_and_tiles_that_take_turns(monkeypatch):
    from lib.kernels import lloyd as module

    tokens, many = make("themes", 70, items=3), []
    for rows in (16, 32, 128):
        monkeypatch.setattr(module, "_ROWS", rows)
        many.append(kmeans(tokens, 16))
    one = kmeans(tokens[2], 16)
    for found in many:
        assert torch.equal(found.labels, many[0].labels)
        assert torch.equal(found.labels[2], one.labels)
        torch.testing.assert_close(found.distances, many[0].distances)


@pytest.mark.parametrize("kind", ["themes", "duplicates", "gaussian"])
def test_more_tokens_than_are_looked_at_together(kind, monkeypatch):
    """In parts, the first centres and all that follows are those of one look."""
    import triton.language as tl

    names = "kmeans", "lloyd", "seeding"
    whole, lloyd, seeding = (importlib.import_module(f"lib.kernels.{name}") for name in names)
    if kind == "gaussian":  # so coarse that what is left of the distances is counted anew
        monkeypatch.setattr(seeding, "_SUM", tl.constexpr(2.0**9))
        monkeypatch.setattr(seeding, "_FEW", tl.constexpr(2**8))
    tokens = make(kind, 70, items=2)
    tokens[:, 64:] = 5 * tokens[:, 64:65]  # the last part rests while the others move
    matrix = of_mean_one(tokens).float()
    backend, found = backend_for(matrix), []
    assert backend
    for most in (4096, 64):
        monkeypatch.setattr(whole, "MAX_TOKENS", most)
        options = {"random_state": 0, "n_iter": 20, "unit": False, "backend": backend}
        found.append([clusters_of(matrix, count, **options) for count in (40, 7)])
        monkeypatch.setattr(whole, "_COLS", 32)
        monkeypatch.setattr(lloyd, "_BLOCK", 32)
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other))


@pytest.mark.parametrize("mass", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_unit_centroids_of_several_layers_under_one_clustering(mass, seed, monkeypatch):
    from lib.kernels import centroids, operations

    # rows and columns that do not fill a tile, clusters of one token and of many, some empty
    size, clusters = 70, 21
    monkeypatch.setattr(centroids, "_COLS", (32, 1024)[seed])
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(2, size, generator=generator).square() * (clusters - 2)).long()
    matrix = torch.stack([of_mean_one(make(kind, size)) for kind in ("gaussian", "themes")])
    members = reference.membership(labels, clusters, torch.float64)
    counts = members.sum(-1)
    means = members / counts.clamp_min(1).unsqueeze(-1)
    inner = means @ matrix @ means.mT
    found = operations.centroid_gram(matrix.float(), labels.expand(2, 2, size), clusters)
    torch.testing.assert_close(found.double(), inner, rtol=1e-6, atol=1e-6)
    assert torch.equal(found, found.mT)
    length = inner.diagonal(dim1=-2, dim2=-1).sqrt()
    weight = torch.where(counts > 0, 1 / length, 0) * (counts.sqrt() if mass else 1)
    wanted = inner * weight.unsqueeze(-1) * weight.unsqueeze(-2)
    found = operations.unit_centroids(matrix.float(), labels, clusters, mass=mass)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-6)
    assert torch.equal(found, found.mT)
    one = operations.unit_centroids(matrix[1:, 1:].float(), labels[1:], clusters, mass=mass)
    assert torch.equal(found[1, 1], one[0, 0])


def test_centroids_of_length_zero_have_no_direction():
    from lib.kernels import operations

    tokens = (
        torch.eye(16).repeat(1, 2, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(16)[:, None]
    )
    labels = torch.arange(16).repeat(1, 2)
    found = operations.unit_centroids(tokens @ tokens.mT, labels, 17, mass=False)
    assert not found.any()
