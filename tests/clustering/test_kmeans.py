"""K-means in Gram space, against its definition and against scikit-learn."""

import itertools

import pytest
import sklearn.cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.clustering import centroid_gram, kmeans
from lib.clustering.seeding import uniforms as draw
from lib.entropy import gram
from tests import reference
from tests.reference import KINDS, make_tokens

F64 = torch.float64


def groups(centres=5, each=8, spread=0.05, seed=0):
    """Well separated groups and their true labels, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(centres).repeat(each)[torch.randperm(centres * each, generator=generator)]
    noise = torch.randn(len(label), 16, generator=generator, dtype=F64)
    return torch.eye(16, dtype=F64)[label] + spread * noise, label


def same_partition(a, b):
    return torch.equal(a.unsqueeze(0) == a.unsqueeze(1), b.unsqueeze(0) == b.unsqueeze(1))


def check_against_definition(tokens, result, n_clusters):
    """Every field of the result follows from its labels and the unit tokens."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    centroids = torch.zeros(n_clusters, unit.shape[-1], dtype=F64)
    for m in range(n_clusters):
        member = result.labels == m
        assert result.counts[m].item() == member.sum().item()
        if member.any():
            centroids[m] = unit[member].mean(0)
    distances = (unit - centroids[result.labels]).square().sum(-1)
    close = {"rtol": 0, "atol": 1e-12 if tokens.dtype == F64 else 2e-6}
    torch.testing.assert_close(result.distances.double(), distances, **close)
    torch.testing.assert_close(result.centroid_gram.double(), centroids @ centroids.T, **close)
    torch.testing.assert_close(result.inertia.double(), distances.sum(), rtol=1e-4, atol=1e-4)
    return centroids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_fields_follow_from_the_labels_and_lloyd_has_converged(kind, dtype):
    tokens = make_tokens(kind, 60, dtype=dtype)
    result = kmeans(tokens, 7, n_iter=100)
    assert result.labels.dtype == torch.int64
    assert result.counts.dtype == torch.int64
    assert result.distances.dtype == dtype
    centroids = check_against_definition(tokens, result, 7)
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    nearest = torch.cdist(unit, centroids).square().amin(-1)
    assert (result.distances.double() - nearest).abs().max() < 1e-4  # the comparison grid


def test_recovers_unambiguous_groups_as_scikit_learn_does():
    for seed in range(5):
        tokens, label = groups(seed=seed)
        result = kmeans(tokens, 5, random_state=seed)
        unit = torch.nn.functional.normalize(tokens, dim=-1)
        other = sklearn.cluster.KMeans(5, n_init=10, random_state=0).fit(unit.numpy())
        assert same_partition(result.labels, label)
        assert same_partition(result.labels, torch.from_numpy(other.labels_))
        assert result.inertia.item() == pytest.approx(other.inertia_, rel=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "clustered", "smooth", "rank-deficient"])
def test_inertia_within_five_percent_of_scikit_learn_on_average(kind):
    ratios = []
    for seed in range(8):
        tokens = make_tokens(kind, 256, seed, torch.float32)
        unit = torch.nn.functional.normalize(tokens, dim=-1)
        other = sklearn.cluster.KMeans(32, n_init=1, random_state=seed).fit(unit.numpy())
        ratios.append(kmeans(tokens, 32, random_state=seed).inertia.item() / other.inertia_)
    assert sum(ratios) / len(ratios) < 1.05


def test_reaches_the_optimum_of_a_small_problem():
    tokens = make_tokens("gaussian", 8)[:, :3]
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    best = min(
        sum(
            (unit[m] - unit[m].mean(0)).square().sum().item()
            for m in (torch.tensor(split), ~torch.tensor(split))
        )
        for split in itertools.product([False, True], repeat=8)
        if any(split) and not all(split)
    )
    found = min(kmeans(tokens, 2, random_state=seed).inertia.item() for seed in range(10))
    assert found == pytest.approx(best, abs=1e-12)


def test_batch_equals_single_and_any_leading_shape():
    batch = torch.stack([make_tokens("clustered", 50, seed) for seed in range(6)]).float()
    batch = batch.reshape(2, 3, 50, 64)
    together = kmeans(batch, 9, random_state=3)
    assert together.labels.shape == (2, 3, 50)
    assert together.centroid_gram.shape == (2, 3, 9, 9)
    assert together.inertia.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        alone = kmeans(batch[i, j], 9, random_state=3)
        assert torch.equal(together.labels[i, j], alone.labels)
        torch.testing.assert_close(together.distances[i, j], alone.distances, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_clusters", [1, 9, 30])
def test_labels_are_those_of_the_straightforward_loop(kind, n_clusters):
    tokens = torch.stack([make_tokens(kind, 60, seed) for seed in range(3)])
    tokens[2, :40] = tokens[2, 0]  # the third item has fewer distinct tokens than clusters
    seeds = [4, 5, 6]
    uniforms = draw(tuple(seeds), n_clusters, F64, tokens.device)
    together = kmeans(tokens, n_clusters, random_state=seeds)
    for item, seed in enumerate(seeds):
        matrix = gram(tokens[item])
        wanted = reference.kmeans(matrix, n_clusters, uniforms[item])
        assert kmeans(tokens[item], n_clusters, random_state=seed).labels.tolist() == wanted
        assert kmeans(matrix, n_clusters, random_state=seed, gram=True).labels.tolist() == wanted
        assert together.labels[item].tolist() == wanted


def test_few_iterations_are_those_of_the_straightforward_loop():
    tokens = make_tokens("gaussian", 60)
    uniforms = draw((0,), 12, F64, tokens.device)[0]
    for n_iter in range(1, 8):
        wanted = reference.kmeans(gram(tokens), 12, uniforms, n_iter)
        assert kmeans(tokens, 12, n_iter=n_iter).labels.tolist() == wanted


def test_items_that_come_to_rest_at_different_times_do_not_disturb_each_other():
    batch = torch.stack([make_tokens(k, 256, s)[:, -5:] for s in range(3) for k in KINDS]).float()
    together = kmeans(batch, 40)
    for item, tokens in enumerate(batch):
        for a, b in zip(together, kmeans(tokens, 40)):
            torch.testing.assert_close(a[item], b, rtol=1e-5, atol=1e-6)
        assert torch.equal(together.labels[item], kmeans(tokens, 40).labels)


def test_seeds():
    tokens = make_tokens("gaussian", 60)
    results = [kmeans(tokens, 8, random_state=seed).labels for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert not same_partition(results[0], results[2])
    pair = kmeans(torch.stack([tokens, tokens]), 8, random_state=[0, 1]).labels
    assert torch.equal(pair[0], results[0])
    assert torch.equal(pair[1], results[2])


def test_an_empty_batch_gives_an_empty_result():
    result = kmeans(torch.empty(0, 10, 4), 3)
    assert result.labels.shape == (0, 10) and result.centroid_gram.shape == (0, 3, 3)


def test_gram_input_and_unchecked_input_give_the_same():
    tokens = make_tokens("clustered", 40)
    wanted = kmeans(tokens, 6)
    for result in (kmeans(gram(tokens), 6, gram=True), kmeans(tokens, 6, check=False)):
        for a, b in zip(wanted, result):
            assert torch.equal(a, b)


def test_scale_of_a_gram_matrix_does_not_matter():
    matrix = gram(make_tokens("clustered", 40))
    assert torch.equal(
        kmeans(matrix, 6, gram=True).labels, kmeans(matrix * 512, 6, gram=True).labels
    )


def test_one_cluster_every_token_its_own_and_a_single_token():
    tokens = make_tokens("gaussian", 12)
    assert kmeans(tokens, 1).labels.tolist() == [0] * 12
    result = kmeans(tokens, 12)
    assert sorted(result.labels.tolist()) == list(range(12))
    assert result.inertia.item() == pytest.approx(0, abs=1e-12)
    single = kmeans(tokens[:1], 1)
    assert single.labels.tolist() == [0]
    assert single.counts.tolist() == [1]


def test_fewer_distinct_tokens_than_clusters_leaves_clusters_empty():
    tokens = torch.eye(3, dtype=F64).repeat(5, 1)
    for seed in range(5):
        result = kmeans(tokens, 6, random_state=seed)
        assert sorted(result.counts.tolist()) == [0, 0, 0, 5, 5, 5]
        assert same_partition(result.labels, torch.arange(3).repeat(5))
        check_against_definition(tokens, result, 6)
    assert kmeans(torch.ones(4, 2), 3).counts.count_nonzero().item() == 1


def test_no_cluster_is_empty_when_the_tokens_suffice():
    for seed in range(20):
        tokens = make_tokens("clustered", 40, seed, torch.float32)
        tokens[:20] = tokens[0]  # half the tokens are one
        for n_clusters in (15, 21):
            result = kmeans(tokens, n_clusters, random_state=seed)
            assert result.counts.min() >= 1, (seed, n_clusters)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.data())
def test_any_small_input(size, data):
    n_clusters = data.draw(st.integers(1, size))
    rows = st.lists(st.integers(-2, 2), min_size=2, max_size=2).filter(any)
    tokens = torch.tensor(data.draw(st.lists(rows, min_size=size, max_size=size))).double()
    result = kmeans(tokens, n_clusters, random_state=data.draw(st.integers(0, 99)))
    check_against_definition(tokens, result, n_clusters)
    assert result.counts.sum().item() == size
    assert (result.labels < n_clusters).all()
    distinct = len({tuple(row) for row in gram(tokens).mul(1e6).round().tolist()})
    assert result.counts.count_nonzero().item() <= distinct


@pytest.mark.parametrize("as_gram", [False, True])
def test_centroid_gram_is_kmeans_own_for_its_labels(as_gram):
    tokens = torch.stack([make_tokens("clustered", 30, seed) for seed in range(2)])
    result = kmeans(tokens, 6)
    source = gram(tokens) if as_gram else tokens
    got = centroid_gram(source, result.labels, 6, gram=as_gram)
    torch.testing.assert_close(got, result.centroid_gram, rtol=0, atol=1e-12)
    wider = centroid_gram(source, result.labels, 8, gram=as_gram)
    assert wider[:, 6:].abs().max() == 0


def test_errors():
    tokens = torch.eye(3)
    for n_clusters in (0, 4):
        with pytest.raises(ValueError, match=rf"between 1 and N=3, got {n_clusters} .*\(3, 3\)"):
            kmeans(tokens, n_clusters)
    with pytest.raises(ValueError, match="n_iter must be at least 1, got 0"):
        kmeans(tokens, 2, n_iter=0)
    with pytest.raises(ValueError, match=r"one seed or one per item \(1\), got 2"):
        kmeans(tokens, 2, random_state=[1, 2])
    with pytest.raises(ValueError, match=r"must not be zero.*index \[1\] of shape \(2, 2\)"):
        kmeans(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\), got \(2,\)"):
        centroid_gram(tokens, torch.tensor([0, 1]), 2)
