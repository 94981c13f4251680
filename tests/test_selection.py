"""Algorithm 1 against a plain transcription, budgets, greedy choices against brute force."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.clustering import kmeans
from lib.entropy import entropy_operator, gram, leave_one_out, matrix_entropy
from lib.rollout import importance, rollout
from lib.selection import (
    STRATEGIES,
    Selection,
    adaptive,
    coverage,
    dpp,
    greedy,
    hierarchical,
    renyi2_greedy,
    token_level,
    top_k,
)
from lib.selection.ranking import best, quantise
from tests import reference
from tests.reference import KINDS, make_tokens

F64 = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many tiny problems: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


# --- top-k ----------------------------------------------------------------------------------------


def test_top_k_sorts_by_position_and_breaks_ties_by_index():
    scores = torch.tensor([[0.3, 0.1, 0.3, 0.3, 0.2], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert top_k(scores, 2).tolist() == [[0, 2], [0, 1]]
    assert top_k(scores, 4).tolist() == [[0, 2, 3, 4], [0, 1, 2, 3]]
    assert top_k(scores, 5).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_top_k_ignores_rounding_but_not_differences():
    scores = torch.linspace(0, 1, 50, dtype=F64)
    scores[10:15] = scores[12]
    noise = 1e-9 * torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=F64)
    for k in range(1, 51):
        assert torch.equal(top_k(scores, k), top_k(scores + noise, k))
    assert top_k(torch.full((6,), 0.7) + 1e-9 * torch.rand(6), 3).tolist() == [0, 1, 2]


def test_top_k_takes_minus_infinity_last_and_refuses_nan():
    scores = torch.tensor([-torch.inf, 0.0, -torch.inf, -9.0])
    assert top_k(scores, 2).tolist() == [1, 3]
    assert top_k(scores, 3).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match=r"not be NaN, found one at \[1\] of \(2,\)"):
        top_k(torch.tensor([0.0, torch.nan]), 1)


# --- Algorithm 1 ----------------------------------------------------------------------------------


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


# --- tokens ---------------------------------------------------------------------------------------


def test_token_level_keeps_the_best_scores():
    tokens = torch.stack([make_tokens("gaussian", 40, seed) for seed in range(2)])
    for method in ("exact", "first-order", "renyi2"):
        mask = token_level(tokens, 15, method=method)
        scores = leave_one_out(tokens, method)
        assert mask.sum(-1).tolist() == [15, 15]
        for m, s in zip(mask, scores):
            assert s[m].min() >= s[~m].max() - 1e-5 * (s.max() - s.min())
    layers = list(tokens)
    merged = importance(rollout([entropy_operator(layer) for layer in layers]))
    assert torch.equal(
        token_level(None, 9, layers=layers).nonzero().flatten(),
        merged.argsort(descending=True)[:9].sort().values,
    )
    product = rollout([leave_one_out(layer) for layer in layers], "scores")
    assert torch.equal(
        token_level(None, 9, layers=layers, rollout="scores").nonzero().flatten(),
        product.argsort(descending=True)[:9].sort().values,
    )


def test_coverage():
    tokens = make_tokens("gaussian", 30)
    k = reference.gram(tokens)
    mask = torch.zeros(30, dtype=torch.bool)
    mask[[2, 5, 11]] = True
    wanted = sum(max(k[i, j].item() for j in (2, 5, 11)) for i in range(30)) / 30
    assert coverage(tokens, mask).item() == pytest.approx(wanted, abs=1e-12)
    assert coverage(gram(tokens), mask, gram=True).item() == pytest.approx(wanted, abs=1e-12)
    assert coverage(tokens, torch.ones(30, dtype=torch.bool)).item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(30,\), got torch.float32"):
        coverage(tokens, mask.float())
    with pytest.raises(ValueError, match="keeps no token"):
        coverage(tokens, torch.zeros(30, dtype=torch.bool))


# --- greedy ---------------------------------------------------------------------------------------


def naive_greedy(k_matrix, k, value):
    """Forward selection that evaluates `value` from scratch; the first token least redundant."""
    size = k_matrix.shape[0]
    chosen = [int(k_matrix.square().sum(-1).argmin())]
    while len(chosen) < k:
        rest = [i for i in range(size) if i not in chosen]
        values = [value(k_matrix[[*chosen, i]][:, [*chosen, i]]) for i in rest]
        chosen.append(rest[max(range(len(rest)), key=values.__getitem__)])
    return sorted(chosen)


@pytest.mark.parametrize("kind", ["gaussian", "clustered", "smooth", "rank-deficient"])
def test_greedy_choices_are_those_of_the_plain_algorithm(kind):
    tokens = make_tokens(kind, 24)
    k = reference.gram(tokens)
    for count in (1, 2, 7, 14):
        wanted = naive_greedy(k, count, reference.entropy)
        got = greedy(tokens, count, nodes=60)
        value = reference.entropy(k[got][:, got])
        # Near-ties may fall differently; the entropy reached does not.
        assert value == pytest.approx(reference.entropy(k[wanted][:, wanted]), rel=1e-3)
        eye = 1e-3 * torch.eye(count, dtype=F64)
        wanted = naive_greedy(k, count, lambda m: torch.logdet(m + 1e-3 * torch.eye(len(m))).item())
        got = dpp(tokens, count)
        assert torch.logdet(k[got][:, got] + eye).item() == pytest.approx(
            torch.logdet(k[wanted][:, wanted] + eye).item(), rel=1e-2, abs=1e-3
        )
        wanted = naive_greedy(k, count, lambda m: -m.square().sum().item())
        got = renyi2_greedy(tokens, count)
        assert k[got][:, got].square().sum().item() == pytest.approx(
            k[wanted][:, wanted].square().sum().item(), rel=1e-2
        )


def test_greedy_is_close_to_the_optimum_of_all_subsets():
    shares = []
    for kind, seed in itertools.product(("gaussian", "clustered", "rank-deficient"), range(3)):
        tokens = make_tokens(kind, 11, seed)
        k = reference.gram(tokens)
        for count in (3, 5, 7):
            mask = greedy(tokens, count)
            reached = reference.entropy(k[mask][:, mask])
            shares.append(reached / reference.best_subset(k, count))
    assert min(shares) > 0.95
    assert sum(shares) / len(shares) > 0.99


def test_greedy_entropy_exceeds_the_one_shot_and_the_random_choice():
    tokens = torch.stack([make_tokens("clustered", 96, seed, torch.float32) for seed in range(3)])
    entropy = {}
    for name in ("greedy", "one-shot", "random"):
        masks = STRATEGIES[name](tokens, 24)
        entropy[name] = sum(matrix_entropy(x[m]).item() for x, m in zip(tokens, masks))
    assert entropy["greedy"] > entropy["one-shot"]
    assert entropy["greedy"] > entropy["random"]


def scene(seed):
    """Tokens of one picture: a smooth ground, three small things, and noise."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.linspace(-1, 1, 12, dtype=F64)
    place = torch.stack(torch.meshgrid(place, place, indexing="ij"), -1).reshape(-1, 2)
    themes = torch.randn(4, 32, generator=generator, dtype=F64)
    tokens = themes[0] + 0.4 * place @ torch.randn(2, 32, generator=generator, dtype=F64)
    centres = torch.tensor([[-0.6, -0.6], [0.5, 0.6], [0.6, -0.5]], dtype=F64)
    for centre, theme in zip(centres, themes[1:]):
        tokens[(place - centre).norm(dim=-1) < 0.3] = theme
    return tokens + 0.3 * torch.randn(tokens.shape, generator=generator, dtype=F64)


def test_adaptive_covers_like_k_medoids_with_an_entropy_near_greedys():
    tokens = torch.stack([scene(seed) for seed in range(6)])
    for k in (9, 18, 36, 72):
        masks = {
            n: STRATEGIES[n](tokens, k) for n in ("adaptive", "k-medoids", "greedy", "one-shot")
        }
        cover = {n: coverage(tokens, m).mean().item() for n, m in masks.items()}
        assert cover["adaptive"] > cover["k-medoids"] - 0.01
        assert cover["adaptive"] > max(cover["greedy"], cover["one-shot"])
        entropy = {
            n: sum(matrix_entropy(x[kept]).item() for x, kept in zip(tokens, m))
            for n, m in masks.items()
        }
        assert entropy["k-medoids"] < entropy["adaptive"] <= entropy["greedy"]
    # Entropy takes over as tokens become plenty.
    assert entropy["adaptive"] > 0.98 * entropy["greedy"]


def test_adaptive_dials():
    tokens = scene(0)
    assert torch.equal(adaptive(tokens, 20, cover=0.0, nodes=40), greedy(tokens, 20, nodes=40))
    little, much = adaptive(tokens, 10, cover=0.01), adaptive(tokens, 10, cover=1e6)
    assert coverage(tokens, little) < coverage(tokens, much)
    previous = torch.zeros(144, dtype=torch.bool)
    for k in (1, 10, 30, 100):
        mask = adaptive(tokens, k)
        assert not (previous & ~mask).any()
        previous = mask
    # The first pick is the token most similar to all others.
    first = gram(tokens).clamp_min(0).sum(-1).argmax()
    assert adaptive(tokens, 1).nonzero().item() == first
    shifted = gram(tokens) * 7
    assert torch.equal(adaptive(shifted, 30, gram=True), adaptive(tokens, 30))
    with pytest.raises(ValueError, match=r"cover must be finite and not negative, got -1"):
        adaptive(tokens, 3, cover=-1)


# --- strategies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_exactly_k_repeats_itself_and_batches(name):
    strategy = STRATEGIES[name]
    batch = torch.stack([make_tokens("clustered", 36, seed) for seed in range(4)])
    for k in (1, 5, 18, 35, 36):
        mask = strategy(batch.reshape(2, 2, 36, 64), k, random_state=2)
        assert mask.dtype == torch.bool
        assert mask.shape == (2, 2, 36)
        assert (mask.sum(-1) == k).all()
        for i in range(4):
            assert torch.equal(mask.reshape(4, 36)[i], strategy(batch[i], k, random_state=2))
    unchecked = strategy(batch, 9, random_state=2, check=False)
    assert torch.equal(unchecked, strategy(batch, 9, random_state=2))
    assert torch.equal(unchecked, strategy(gram(batch), 9, random_state=2, gram=True))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_strategy_takes_any_float_and_degenerate_tokens(name, dtype):
    for tokens in (torch.ones(9, 3), torch.eye(3).repeat(3, 1), torch.randn(1, 5)):
        size = len(tokens)
        for k in {1, -(-size // 2), size}:
            assert STRATEGIES[name](tokens.to(dtype), k).sum() == k


# Algorithm 1 takes two tokens of a cluster by design.
SPREADING = [n for n in STRATEGIES if n not in ("random", "one-shot", "algorithm-1")]


@pytest.mark.parametrize("name", SPREADING)
def test_strategies_keep_one_of_each_before_any_copy(name):
    tokens = torch.eye(4, dtype=F64).repeat_interleave(5, 0)
    mask = STRATEGIES[name](tokens, 4)
    assert mask.reshape(4, 5).sum(-1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_refuse_bad_budgets_and_bad_tokens(name):
    for k in (0, 7, 2.5, True):
        with pytest.raises(ValueError, match=rf"between 1 and N=6, got {k}.*\(6, 3\)"):
            STRATEGIES[name](torch.randn(6, 3), k)
    if name != "random":
        bad = torch.randn(6, 3)
        bad[4] = torch.nan
        with pytest.raises(ValueError, match=r"must be finite, got nan at index \[4\]"):
            STRATEGIES[name](bad, 3)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_an_empty_batch_gives_an_empty_mask(name):
    assert STRATEGIES[name](torch.empty(0, 10, 4), 3).shape == (0, 10)


def clear(name, matrix, k):
    """Whether no step of a rule has two candidates that are as good as each other."""

    def best_are_apart(values, count):
        ordered = sorted(values.values(), reverse=True)
        span = ordered[0] - ordered[-1]
        return len(ordered) <= count or ordered[count - 1] - ordered[count] > 1e-4 * span + 1e-9

    value = {
        "greedy": lambda m: reference.entropy(m),
        "dpp": lambda m: torch.logdet(m + 1e-3 * torch.eye(len(m))).item(),
        "renyi2-greedy": lambda m: -m.square().sum().item(),
    }
    if name == "one-shot":
        return best_are_apart(dict(enumerate(reference.leave_one_out(matrix).tolist())), k)
    kept = []
    for _ in range(k):
        values = {
            i: value[name](matrix[[*kept, i]][:, [*kept, i]])
            if kept
            else -matrix[i].square().sum().item()
            for i in range(len(matrix))
            if i not in kept
        }
        if not best_are_apart(values, 1):
            return False
        kept.append(max(values, key=values.get))
    return True


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 24), st.integers(0, 999), st.data())
def test_permuting_distinct_tokens_permutes_the_choice(kind, size, seed, data):
    # Seeding draws positions, so only the deterministic rules are equivariant. Near-ties go by
    # index, and the choices after one may differ a lot.
    tokens = make_tokens("gaussian" if kind == "duplicated" else kind, size, seed)
    k = data.draw(st.integers(1, size))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    name = data.draw(st.sampled_from(["one-shot", "greedy", "dpp", "renyi2-greedy"]))
    assume(clear(name, reference.gram(tokens), k))
    a, b = STRATEGIES[name](tokens, k), STRATEGIES[name](tokens[order], k)
    assert torch.equal(torch.zeros_like(a).scatter(0, order, b), a)


def test_unchecked_calls_never_read_a_value():
    """Meta tensors have none: what runs on them cannot make a GPU wait for the host."""
    tokens = torch.empty(2, 40, 16, device="meta", dtype=torch.bfloat16)
    layers = [tokens] * 3
    assert kmeans(tokens, 8, check=False).labels.shape == (2, 40)
    for weighting, budget in itertools.product(("unit", "mass", "token-sum"), ("adaptive", 15)):
        options = {"weighting": weighting, "budget": budget, "check": False}
        assert hierarchical(tokens, 8, 4, 2, **options).mask.shape == (2, 40)
        assert hierarchical(None, 8, 4, 2, layers=layers, **options).mask.shape == (2, 40)
    for method in ("exact", "first-order", "renyi2"):
        assert token_level(tokens, 9, method=method, check=False).shape == (2, 40)
    for variant in ("scaled", "literal", "scores"):
        mask = token_level(None, 9, layers=layers, rollout=variant, check=False)
        assert mask.shape == (2, 40)
    for strategy in STRATEGIES.values():
        assert strategy(tokens, 9, check=False).shape == (2, 40)
    with pytest.raises(RuntimeError, match="meta"):
        kmeans(tokens, 8)


# --- errors ---------------------------------------------------------------------------------------


def test_errors():
    tokens = torch.eye(6)
    cases = [
        (lambda: hierarchical(tokens, 7, 2), r"n_clusters must be between 1 and N=6, got 7"),
        (lambda: hierarchical(tokens, 4, 5), r"between 1 and n_clusters=4, got 5"),
        (lambda: hierarchical(tokens, 4, 2, 0), r"tokens_per_cluster must be at least 1, got 0"),
        (lambda: hierarchical(tokens, 4, 2, budget=0), r"k must be .* between 1 and N=6, got 0"),
        (
            lambda: hierarchical(tokens, 4, 2, budget="half"),
            r'"adaptive" or an integer, got \'half',
        ),
        (lambda: hierarchical(tokens, 4, 2, weighting="max"), r"weighting must be .* got 'max'"),
        (lambda: hierarchical(tokens, 4, 2, rollout="sum"), r"rollout must be .* got 'sum'"),
        (lambda: hierarchical(None), r"got neither"),
        (lambda: hierarchical(None, layers=[]), r"at least one layer, got none"),
        (
            lambda: hierarchical(None, 2, 1, layers=[torch.eye(3), tokens]),
            r"agree in all but the last dimension, got \[\(3, 3\), \(6, 6\)\]",
        ),
        (
            lambda: hierarchical(torch.eye(3), 2, 1, layers=[tokens]),
            r"tokens \(3, 3\) and the last layer \(6, 6\)",
        ),
        (
            lambda: hierarchical(None, 2, 1, layers=[torch.zeros(6, 2), tokens]),
            r"tokens must not be zero",
        ),
        (lambda: token_level(tokens, 2, method="fast"), r"method must be one of .* got 'fast'"),
        (lambda: token_level(tokens, 2, rollout="sum"), r"rollout must be .* got 'sum'"),
        (lambda: top_k(torch.ones(3), 4), r"between 1 and N=3, got 4 for shape \(3,\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([-3.0, -1e-7, 0.0, 1.0, 1 + 1e-6, 1 + 1e-4, 7.0]), min_size=2),
    offset=st.sampled_from([0.0, 50.0, -50.0]),
    data=st.data(),
)
def test_the_greedy_pick_is_the_first_of_the_quantised_maximum(values, offset, data):
    scores = torch.tensor([values]).double() + offset
    barred = data.draw(st.sets(st.integers(0, len(values) - 1), max_size=len(values) - 1))
    taken = torch.tensor([[i in barred for i in range(len(values))]])
    penalty = torch.zeros_like(scores).masked_fill(taken, -torch.inf)
    wanted = quantise(scores.masked_fill(taken, -torch.inf)).argmax(-1)
    assert torch.equal(best(scores, penalty), wanted)
    assert penalty[0, wanted].item() == -torch.inf and (penalty < 0).sum() == taken.sum() + 1
