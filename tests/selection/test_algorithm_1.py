"""Algorithm 1 against a plain transcription, and its exact budgets."""

import functools
import itertools

import pytest
import sklearn.cluster
import torch

from lib import selection
from lib.clustering import kmeans
from lib.entropy import gram, leave_one_out
from lib.rollout import rollout
from lib.selection import Selection
from tests import reference
from tests.reference import KINDS, make_tokens

#: on the angles of the tokens, which most of the references below look at, too
hierarchical = functools.partial(selection.hierarchical, cluster_on="unit")

F64 = torch.float64


def unit(tokens):
    return torch.nn.functional.normalize(tokens.double(), dim=-1)


def centroids_of(tokens, labels, n_clusters):
    x = unit(tokens)
    return torch.stack([x[labels == m].mean(0) for m in range(n_clusters)])


def algorithm_1(tokens, labels, n_clusters, core_clusters, tokens_per_cluster):
    """The paper's Algorithm 1 in plain Python, given the cluster assignment."""
    x = unit(tokens)
    centroids = centroids_of(tokens, labels, n_clusters)
    scores = reference.leave_one_out(reference.gram(centroids))
    core = sorted(range(n_clusters), key=lambda m: -scores[m])[:core_clusters]
    kept = []
    for m in core:
        members = (labels == m).nonzero().flatten().tolist()
        members.sort(key=lambda i: (x[i] - centroids[m]).square().sum().item())
        kept += members[:tokens_per_cluster]
    return sorted(kept), sorted(core), scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_clusters", "core", "per"), [(32, 16, 2), (10, 3, 4), (8, 8, 1)])
def test_hierarchical_is_algorithm_1(kind, n_clusters, core, per):
    tokens = make_tokens(kind, 96)
    result = hierarchical(tokens, n_clusters, core, per)
    assert isinstance(result, Selection)
    assert torch.equal(result.labels, kmeans(tokens, n_clusters).labels)
    kept, best, scores = algorithm_1(tokens, result.labels, n_clusters, core, per)
    torch.testing.assert_close(result.cluster_scores, scores, rtol=0, atol=1e-9)
    distance = kmeans(tokens, n_clusters).distances
    got = distance[result.mask].sort().values
    torch.testing.assert_close(got, distance[kept].sort().values, rtol=0, atol=1e-4)
    if kind not in ("duplicated", "smooth"):  # where tokens are equally near, index decides
        assert result.mask.nonzero().flatten().tolist() == kept
        assert result.core.nonzero().flatten().tolist() == best
    assert result.mask.sum() <= core * per


def test_a_small_core_cluster_keeps_all_its_members_and_nothing_is_filled_up():
    # The paper's figure 5: singletons count one, other core clusters two.
    tokens = torch.eye(8, dtype=F64)[[0, 1, 2, 3, 3, 3, 4, 4, 4]]
    result = hierarchical(tokens, 5, 5, 2)
    assert result.mask.tolist() == [True] * 5 + [False] + [True] * 2 + [False]
    assert result.mask.sum() == 3 * 1 + 2 * 2


def test_empty_clusters_are_never_core():
    tokens = torch.eye(3, dtype=F64).repeat(4, 1)
    result = hierarchical(tokens, 6, 5, 2)
    assert result.core.sum() == 3
    assert result.mask.sum() == 6
    assert result.cluster_scores.isinf().sum() == 3
    assert hierarchical(tokens, 6, 5, 2, budget=11).mask.sum() == 11


def test_batch_equals_single_and_half_precision_runs():
    batch = torch.stack([make_tokens("clustered", 60, seed) for seed in range(4)])
    for dtype in (F64, torch.float32, torch.bfloat16):
        together = hierarchical(batch.to(dtype).reshape(2, 2, 60, 64), 12, 6, 2)
        assert together.mask.shape == (2, 2, 60)
        for i in range(4):
            alone = hierarchical(batch[i].to(dtype), 12, 6, 2)
            assert torch.equal(together.mask.reshape(4, 60)[i], alone.mask)


@pytest.mark.parametrize("variant", ["scaled", "literal"])
def test_several_layers_use_one_clustering_and_the_rollouts_diagonal(variant):
    layers = [make_tokens("clustered", 60, seed) for seed in (0, 1, 2)]
    result = hierarchical(None, 10, 4, 2, layers=layers, rollout=variant)
    assert torch.equal(result.labels, kmeans(layers[-1], 10).labels)
    operators = [
        reference.operator(reference.gram(centroids_of(layer, result.labels, 10)))
        for layer in layers
    ]
    wanted = rollout(operators, variant).diagonal()
    torch.testing.assert_close(result.cluster_scores, wanted, rtol=0, atol=1e-9)
    best = wanted.argsort(descending=True)[:4].sort().values
    assert torch.equal(result.core.nonzero().flatten(), best)
    same = hierarchical(layers[-1], 10, 4, 2, layers=layers, rollout=variant)
    assert torch.equal(same.mask, result.mask)


def test_scores_variant_and_a_single_layer():
    layers = [make_tokens("clustered", 40, seed) for seed in (0, 1)]
    result = hierarchical(None, 8, 4, 2, layers=layers, rollout="scores")
    scores = [
        reference.leave_one_out(reference.gram(centroids_of(layer, result.labels, 8)))
        for layer in layers
    ]
    wanted = rollout(scores, "scores")
    torch.testing.assert_close(result.cluster_scores, wanted, rtol=0, atol=1e-9)
    one = hierarchical(None, 8, 4, 2, layers=layers[-1:])
    assert torch.equal(one.mask, hierarchical(layers[-1], 8, 4, 2).mask)


def test_weightings():
    tokens = make_tokens("clustered", 60)
    unit_weight = hierarchical(tokens, 8, 4, 2)
    labels = unit_weight.labels
    counts = labels.bincount(minlength=8).double()
    k = reference.gram(centroids_of(tokens, labels, 8))
    mass = hierarchical(tokens, 8, 4, 2, weighting="mass").cluster_scores
    weighted = k * (counts.unsqueeze(-1) * counts).sqrt()
    torch.testing.assert_close(mass, reference.leave_one_out(weighted), rtol=0, atol=1e-9)
    total = hierarchical(tokens, 8, 4, 2, weighting="token-sum").cluster_scores
    scores = leave_one_out(tokens)
    wanted = torch.stack([scores[labels == m].sum() for m in range(8)])
    torch.testing.assert_close(total, wanted, rtol=0, atol=1e-12)
    layers = [tokens, tokens + 0.1]
    for weighting in ("mass", "token-sum"):
        several = hierarchical(None, 8, 4, 2, layers=layers, weighting=weighting)
        assert torch.isfinite(several.cluster_scores).all()


def test_mass_tracks_the_removal_of_a_cluster_better_than_unit_centroids():
    correlations = {"unit": 0.0, "mass": 0.0, "token-sum": 0.0}
    for seed in range(4):
        tokens = make_tokens("clustered", 96, seed)
        k = reference.gram(tokens)
        for weighting in correlations:
            result = hierarchical(tokens, 12, 6, 2, weighting=weighting, random_state=seed)
            loss = []
            for m in range(12):
                rest = result.labels != m
                loss.append(reference.entropy(k) - reference.entropy(k[rest][:, rest]))
            loss = torch.tensor(loss, dtype=F64)
            correlations[weighting] += reference.spearman(result.cluster_scores, loss) / 4
    assert correlations["mass"] > correlations["unit"] + 0.2
    assert correlations["token-sum"] > 0.5


@pytest.mark.parametrize("weighting", ["unit", "mass", "token-sum"])
@pytest.mark.parametrize("kind", ["clustered", "duplicated", "smooth"])
def test_exact_budget_extends_or_cuts_algorithm_1(kind, weighting):
    tokens = make_tokens(kind, 60)
    base = hierarchical(tokens, 12, 6, 2, weighting=weighting)
    count = int(base.mask.sum())
    previous = torch.zeros(60, dtype=torch.bool)
    for k in range(1, 61):
        mask = hierarchical(tokens, 12, 6, 2, weighting=weighting, budget=k).mask
        assert mask.sum() == k
        assert (mask | previous).sum() == k, "a larger budget keeps what a smaller one kept"
        previous = mask
        if k <= count:
            assert not (mask & ~base.mask).any()
        else:
            assert not (base.mask & ~mask).any()
            in_core = base.core[base.labels]
            # Other clusters only once the core is used up.
            assert in_core[mask].all() or mask[in_core].all()
    assert torch.equal(
        hierarchical(tokens, 12, 6, 2, weighting=weighting, budget=count).mask, base.mask
    )


def test_the_order_of_the_exact_budget():
    tokens = make_tokens("clustered", 60)
    base = hierarchical(tokens, 12, 5, 2)
    x, labels = unit(tokens), base.labels
    centroids = centroids_of(tokens, labels, 12)
    distance = (x - centroids[labels]).square().sum(-1)
    rank = base.cluster_scores.argsort(descending=True).argsort()
    place = torch.tensor(
        [int((distance[labels == labels[i]] < distance[i]).sum()) for i in range(60)]
    )

    def key(i):
        if base.mask[i]:
            return (0, int(place[i]), int(rank[labels[i]]))
        if base.core[labels[i]]:
            return (1, distance[i].item(), 0)
        return (2, int(rank[labels[i]]), distance[i].item())

    order = sorted(range(60), key=key)
    for k in (3, 9, 20, 40, 55):
        mask = hierarchical(tokens, 12, 5, 2, budget=k).mask
        assert mask.nonzero().flatten().tolist() == sorted(order[:k])


def test_hierarchical_takes_gram_matrices():
    layers = [make_tokens("clustered", 40, seed) for seed in (0, 1)]
    grams = [gram(layer) for layer in layers]
    a = hierarchical(None, 8, 4, 2, layers=layers)
    b = hierarchical(None, 8, 4, 2, layers=grams, gram=True)
    assert torch.equal(a.mask, b.mask)
    torch.testing.assert_close(a.cluster_scores, b.cluster_scores, rtol=0, atol=1e-9)


def test_eigh_and_cholesky_choose_the_same():
    layers = [make_tokens("clustered", 60, seed) for seed in (0, 1)]
    for tokens in (None, layers[0]):
        given_layers = layers if tokens is None else None
        a, b = (
            hierarchical(tokens, 12, 6, 2, layers=given_layers, solver=solver).mask
            for solver in ("eigh", "cholesky")
        )
        assert torch.equal(a, b)


# --- clusters on the tokens themselves ------------------------------------------------------------


def rings(seed=0):
    """Tokens in four groups: two directions, each at two lengths."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(4).repeat_interleave(10)[torch.randperm(40, generator=generator)]
    centres = torch.tensor([[1.0, 0, 0, 0], [6, 0, 0, 0], [0, 1, 0, 0], [0, 6, 0, 0]], dtype=F64)
    noise = 0.05 * torch.randn(40, 4, generator=generator, dtype=F64)
    noise[:, 3] = 0  # an entry that is zero throughout
    return centres[label] + noise, label


def same_partition(a, b):
    return torch.equal(a.unsqueeze(0) == a.unsqueeze(1), b.unsqueeze(0) == b.unsqueeze(1))


def test_raw_clusters_see_lengths_and_unit_ones_do_not():
    for seed in range(5):
        tokens, label = rings(seed)
        raw = hierarchical(tokens, 4, 2, 2, cluster_on="raw", random_state=seed)
        assert same_partition(raw.labels, label)
        other = sklearn.cluster.KMeans(4, n_init=10, random_state=0).fit(tokens.numpy())
        assert same_partition(raw.labels, torch.from_numpy(other.labels_))
        flat = hierarchical(tokens, 2, 1, 2, random_state=seed)
        assert same_partition(flat.labels, label // 2)
        assert same_partition(hierarchical(tokens, 2, 1, 2, cluster_on="unit").labels, label // 2)


def test_raw_clusters_are_as_tight_as_scikit_learns():
    ratios = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.rand(128, 1, generator=generator) * 3 + 0.2
        tokens = make_tokens("clustered", 128, seed).float() * lengths
        labels = hierarchical(tokens, 16, 8, 2, cluster_on="raw", random_state=seed).labels
        inertia = sum(
            (tokens[labels == m] - tokens[labels == m].mean(0)).square().sum().item()
            for m in labels.unique()
        )
        other = sklearn.cluster.KMeans(16, n_init=1, random_state=seed).fit(tokens.numpy())
        ratios.append(inertia / other.inertia_)
    assert sum(ratios) / len(ratios) < 1.05


@pytest.mark.parametrize("variant", ["scaled", "scores"])
def test_raw_is_algorithm_1_on_the_means_of_the_tokens(variant):
    layers = [make_tokens("clustered", 60, s) * torch.linspace(0.5, 4, 60)[:, None] for s in (0, 1)]
    for views in (layers, layers[:1]):
        result = hierarchical(None, 10, 4, 2, layers=views, rollout=variant, cluster_on="raw")
        x, labels = views[-1], result.labels
        again = kmeans(x @ x.mT, 10, gram=True)
        assert torch.equal(labels, again.labels)
        means = [torch.stack([v[labels == m].mean(0) for m in range(10)]) for v in views]
        score = reference.leave_one_out if variant == "scores" or len(views) == 1 else None
        each = [(score or reference.operator)(reference.gram(m)) for m in means]
        wanted = rollout(each, variant) if len(views) > 1 else each[0]
        wanted = wanted if wanted.ndim == 1 else wanted.diagonal()
        torch.testing.assert_close(result.cluster_scores, wanted, rtol=0, atol=1e-9)
        distances = (x - means[-1][labels]).square().sum(-1)
        for m in result.core.nonzero().flatten().tolist():
            member = (labels == m).nonzero().flatten()
            near = member[distances[member].argsort()[:2]]
            assert result.mask[member].nonzero().flatten().tolist() == sorted(
                (member[:, None] == near).any(1).nonzero().flatten().tolist()
            )


def test_raw_clustering_does_not_depend_on_a_common_scale():
    tokens, _ = rings()
    wanted = hierarchical(tokens, 6, 3, 2, cluster_on="raw")
    for scale in (1e-120, 1e120):
        scaled = hierarchical(tokens * scale, 6, 3, 2, cluster_on="raw")
        assert torch.equal(scaled.labels, wanted.labels)
        assert torch.equal(scaled.mask, wanted.mask)
    single = hierarchical(tokens.float() * 1e30, 6, 3, 2, cluster_on="raw")
    assert (
        torch.equal(single.labels, wanted.labels) and single.cluster_scores.dtype == torch.float32
    )


def test_raw_token_sums_are_those_of_unit_tokens():
    tokens = make_tokens("clustered", 40) * torch.linspace(0.5, 4, 40)[:, None]
    result = hierarchical(tokens, 6, 3, 2, cluster_on="raw", weighting="token-sum")
    scores = leave_one_out(tokens)
    wanted = torch.stack([scores[result.labels == m].sum() for m in range(6)])
    torch.testing.assert_close(result.cluster_scores, wanted, rtol=0, atol=1e-12)


def test_a_batch_of_raw_tokens_is_its_items():
    batch = torch.stack([rings(seed)[0] for seed in range(6)]).reshape(2, 3, 40, 4)
    together = hierarchical(batch, 5, 3, 2, cluster_on="raw", budget=9)
    for i, j in itertools.product(range(2), range(3)):
        alone = hierarchical(batch[i, j], 5, 3, 2, cluster_on="raw", budget=9)
        assert torch.equal(together.mask[i, j], alone.mask)


def test_a_gram_matrix_is_clustered_as_it_is():
    tokens, _ = rings()
    options = {"gram": True, "budget": 11}
    a = hierarchical(tokens @ tokens.mT, 4, 2, 2, cluster_on="raw", **options)
    b = hierarchical(tokens @ tokens.mT, 4, 2, 2, cluster_on="unit", **options)
    assert torch.equal(a.mask, b.mask)
    c = hierarchical(tokens, 4, 2, 2, cluster_on="raw", budget=11)
    assert torch.equal(a.mask, c.mask)
