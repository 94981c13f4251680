"""On a GPU the kernels compute what the plain code computes."""

import pytest
import torch

from lib.clustering import kmeans
from lib.clustering.kmeans import clusters_of
from lib.clustering.lloyd import membership
from lib.entropy import entropy_operator, gram, leave_one_out, matrix_entropy
from lib.entropy.quadrature import kernel_quadrature, quadrature
from lib.kernels import backend_for, use_kernels
from lib.rollout import rolled_importance, rollout
from lib.selection import (
    STRATEGIES,
    Worth,
    conditional_dpp,
    facility_location,
    farthest_points,
    hierarchical,
    token_level,
    weighted,
)
from lib.selection.greedy import _FEW, _forward
from lib.selection.terms import Entropy, Volume
from lib.selection.weighted import _parts
from tests.kernels.kinds import KINDS, make, needs_gpu, regret


def plainly(function):
    with use_kernels(False):
        return function()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size, width", [(16, 8), (70, 100), (576, 1024)])
def test_gram_on_a_gpu(dtype, size, width):
    tokens = make("biased", size, width, items=2).to("cuda", dtype)
    ours = gram(tokens)
    assert (ours - gram(tokens.double())).abs().max() < 1e-5
    assert torch.equal(ours, ours.mT) and bool((ours.diagonal(dim1=-2, dim2=-1) == 1).all())
    if dtype != torch.float16:
        for scale in (2.0**-90, 2.0**90):
            assert torch.equal(gram(tokens * scale), ours)


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 64, 100, 576])
def test_scores_and_operator_on_a_gpu(kind, size):
    exact = gram(make(kind, size)).cuda()
    matrix = exact.float()
    scores = leave_one_out(matrix, gram=True)
    reference = leave_one_out(exact, gram=True, solver="eigh")
    assert (scores - reference).abs().max() < 5e-5 / size
    operator = entropy_operator(matrix, gram=True)
    reference = entropy_operator(exact, gram=True, solver="eigh")
    assert (operator - reference).abs().max() < 2e-4 / size


@needs_gpu
def test_any_diagonal_on_a_gpu():
    weights = torch.linspace(0, 3, 80, dtype=torch.float64)
    exact = (gram(make("themes", 80)[0]) * weights.outer(weights)).cuda()
    scores = leave_one_out(exact.float(), gram=True)
    reference = leave_one_out(exact, gram=True, solver="eigh")
    assert (scores - reference).abs().max() < 1e-4 / 80
    assert scores[0] == 0


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size, clusters", [(40, 1), (100, 40), (576, 32), (576, 288)])
def test_kmeans_on_a_gpu(kind, size, clusters):
    tokens = make(kind, size, items=3).float().cuda()
    ours = kmeans(tokens, clusters)
    # From the same Gram matrix: another rounding may draw another centre.
    plain = kmeans(gram(tokens), clusters, gram=True)
    assert bool((ours.counts.sum(-1) == size).all())
    assert torch.equal(ours.counts > 0, plain.counts > 0)
    torch.testing.assert_close(ours.inertia, plain.inertia, rtol=2e-3, atol=1e-3)
    assert (ours.labels == plain.labels).float().mean() > 0.99
    single = kmeans(tokens[1], clusters)
    assert all(torch.equal(a[1], b) for a, b in zip(ours, single))


@needs_gpu
@pytest.mark.parametrize("longest", [1, 30])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size, clusters", [(100, 40), (576, 32), (576, 288), (2304, 96)])
def test_kmeans_of_tokens_as_they_are_on_a_gpu(kind, size, clusters, longest):
    tokens = make(kind, size, items=2).cuda() * torch.linspace(0.5, 2, size).cuda()[:, None]
    tokens[:, 7] *= longest
    matrix = tokens @ tokens.mT
    matrix = (matrix / matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]).float()
    options = {"random_state": 0, "n_iter": 20, "unit": False}
    ours = clusters_of(matrix, clusters, backend=backend_for(matrix), **options)
    plain = clusters_of(matrix, clusters, **options)
    assert bool((ours.counts.sum(-1) == size).all())
    assert torch.equal(ours.counts > 0, plain.counts > 0)
    inertia = ours.distances.sum(-1), plain.distances.sum(-1).float()
    torch.testing.assert_close(*inertia, rtol=2e-3, atol=1e-3)
    assert (ours.labels == plain.labels).float().mean() > 0.99
    single = clusters_of(matrix[1], clusters, backend=backend_for(matrix), **options)
    assert all(torch.equal(a[1], b) for a, b in zip(ours, single))


@needs_gpu
@pytest.mark.parametrize("size, clusters", [(70, 20), (576, 144), (2304, 400), (4096, 32)])
def test_centroids_and_their_rollout_on_a_gpu(size, clusters):
    views = [make(kind, size, 64, items=2).cuda() for kind in ("themes", "biased", "gaussian")]
    rows = torch.stack([*views, views[0] + views[2]])
    matrix = rows @ rows.mT / rows.square().sum(-1).mean(-1)[..., None, None]
    # most clusters are small, one is large, and the last is empty
    labels = torch.rand(2, size, generator=torch.Generator().manual_seed(1)).pow(3)
    labels = (labels * (clusters - 1)).long().cuda()
    means = membership(labels, clusters, torch.float64)
    means = means / means.sum(-1, keepdim=True).clamp_min(1)
    inner = means @ matrix @ means.mT
    length = inner.diagonal(dim1=-2, dim2=-1).sqrt()
    weight = torch.where(length > 0, 1 / length, 0)
    kernels = backend_for(matrix.float()).kernels
    given = matrix.float(), labels
    found = kernels.unit_centroids(*given, clusters, mass=False)
    wanted = inner * weight.unsqueeze(-1) * weight.unsqueeze(-2)
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    for _ in range(5):  # what one program writes for all is there when another reads it
        assert torch.equal(kernels.unit_centroids(*given, clusters, mass=False), found)
    operators = entropy_operator(found, gram=True, check=False)
    for variant in ("literal", "scaled"):
        wanted = rollout(operators.double(), variant).diagonal(dim1=-2, dim2=-1)
        importance = rolled_importance(operators, variant)
        torch.testing.assert_close(importance.double(), wanted, rtol=1e-5, atol=1e-7)
        assert torch.equal(rolled_importance(operators[:, 1].contiguous(), variant), importance[1])


@needs_gpu
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("budget", ["adaptive", 100])
@pytest.mark.parametrize("weighting", ["unit", "mass", "token-sum"])
@pytest.mark.parametrize("cluster_on", ["raw", "unit"])
def test_algorithm_1_on_a_gpu(layers, budget, weighting, cluster_on):
    lengths = torch.linspace(1, 3, 200)[:, None]
    views = [(lengths * make("themes", 200, items=2, seed=s)).to("cuda", torch.bfloat16)
             for s in range(layers)]  # fmt: skip
    options = {"layers": views, "budget": budget, "weighting": weighting, "cluster_on": cluster_on}
    ours = hierarchical(None, 100, 50, 2, **options)
    plain = plainly(lambda: hierarchical(None, 100, 50, 2, **options))
    assert (ours.mask != plain.mask).sum() <= 4  # a swap where two scores nearly tie
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)
    if budget != "adaptive":
        assert bool((ours.mask.sum(-1) == budget).all())
    single = hierarchical(None, 100, 50, 2, **options | {"layers": [v[1] for v in views]})
    assert torch.equal(single.mask, ours.mask[1])


@needs_gpu
@pytest.mark.parametrize("size", [4097, 9216, 16384])
def test_algorithm_1_of_many_tokens_on_a_gpu(size):
    lengths = torch.linspace(1, 3, size)[:, None]
    views = [(lengths * make("themes", size, items=2, seed=s)).to("cuda", torch.bfloat16)
             for s in range(2)]  # fmt: skip
    ours = hierarchical(None, 144, 72, size // 144, layers=views, budget=size // 2)
    assert bool((ours.mask.sum(-1) == size // 2).all())
    single = hierarchical(
        None, 144, 72, size // 144, layers=[v[1] for v in views], budget=size // 2
    )
    assert torch.equal(single.mask, ours.mask[1])
    if size < 10_000:  # in float64 more take more memory than some devices have
        plain = plainly(
            lambda: hierarchical(None, 144, 72, size // 144, layers=views, budget=size // 2)
        )
        # a draw on a boundary falls otherwise in float64, and all centres after it: as good ones
        (one, same), (other, _) = (
            (within(views[-1], x.labels, 144), x.labels) for x in (ours, plain)
        )
        torch.testing.assert_close(one, other, rtol=0.01, atol=0)
        for mask, wanted, labels, others in zip(ours.mask, plain.mask, same, plain.labels):
            if torch.equal(labels, others):
                assert (mask == wanted).float().mean() > 0.98


def within(tokens, labels, clusters):
    """Squared distances to the centroids, summed over each item's tokens."""
    share = membership(labels, clusters, torch.float64)
    means = share @ tokens.double() / share.sum(-1, keepdim=True).clamp_min(1)
    return (tokens.double() - share.mT @ means).square().sum((-2, -1))


@needs_gpu
def test_token_level_on_a_gpu():
    views = [make("themes", 200, items=2, seed=s).float().cuda() for s in range(3)]
    for layers in (views, views[:1]):
        ours = token_level(None, 100, layers=layers)
        with use_kernels(False):
            plain = token_level(None, 100, layers=layers)
        assert (ours != plain).sum() <= 4


@needs_gpu
@pytest.mark.parametrize("strategy", ["adaptive", "greedy", "dpp"])
@pytest.mark.parametrize("kind", ["gaussian", "biased", "themes"])
@pytest.mark.parametrize("size, k", [(70, 70), (100, 40), (576, 144)])
def test_greedy_selection_on_a_gpu(strategy, kind, size, k):
    tokens = make(kind, size, items=3).float().cuda()
    # by default the plain way takes more nodes
    nodes = {"nodes": 16} if strategy == "greedy" else {}
    ours = STRATEGIES[strategy](tokens, k, **nodes)
    plain = plainly(lambda: STRATEGIES[strategy](tokens, k, **nodes))
    assert bool((ours.sum(-1) == k).all())
    matrix = gram(tokens)
    if strategy == "dpp":
        # float32 against float64: one swap among nearly equal volumes changes what follows
        one, other = (
            torch.stack([g[m][:, m].double().logdet() for g, m in zip(matrix, picked)])
            for picked in (ours, plain)
        )
        finite = one.isfinite() & other.isfinite()  # all 70 of 70 tokens may be singular
        torch.testing.assert_close(one[finite], other[finite], rtol=0.02, atol=0.1)
    else:
        assert (ours != plain).float().mean() < 0.02  # swaps where two gains nearly tie
        for ours_, plain_, kept in zip(ours, plain, matrix.double()):
            values = [matrix_entropy(kept[m][:, m], gram=True) for m in (ours_, plain_)]
            assert (values[0] - values[1]).abs() < 1e-3
    assert torch.equal(STRATEGIES[strategy](tokens[1], k, **nodes), ours[1])


class Facility:
    """What each column of tables (B, M, N) adds to the sum of the largest entries."""

    def __init__(self, table, weights):
        self.table, self.weights = table, weights
        self.covered = torch.zeros_like(table[..., :1])

    def gains(self):
        return (self.table - self.covered).clamp_min(0).sum(1) * self.weights

    def add(self, pick):
        picked = self.table.gather(2, pick[:, None, None].expand(-1, self.table.shape[1], 1))
        self.covered = torch.maximum(self.covered, picked)


class Spread:
    """How far each token is from the nearest picked, at first from the nearest other."""

    def __init__(self, matrix):
        self.distances = 1 - matrix
        own = torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
        self.first = self.distances.masked_fill(own, torch.inf).amin(-1)
        self.nearest = None

    def gains(self):
        return self.first if self.nearest is None else self.nearest

    def add(self, pick):
        size = self.distances.shape[-1]
        row = self.distances.gather(1, pick[:, None, None].expand(-1, 1, size)).squeeze(1)
        self.nearest = row if self.nearest is None else torch.minimum(self.nearest, row)


class Left:
    """What is left of each column, scaled by its quality, beside those picked: Gram-Schmidt."""

    def __init__(self, matrix, quality, floor=1e-5):
        self.kernel = matrix * quality[:, :, None] * quality[:, None]
        self.least = floor * self.kernel.diagonal(dim1=1, dim2=2)

    def gains(self):
        return torch.maximum(self.kernel.diagonal(dim1=1, dim2=2), self.least)

    def add(self, pick):
        at = pick[:, None, None]
        row = self.kernel.gather(1, at.expand(-1, 1, self.kernel.shape[-1]))
        pivot = torch.maximum(row.gather(2, at).squeeze(2), self.least.gather(1, pick[:, None]))
        self.kernel = self.kernel - row.mT @ row / pivot[:, None]


def in_double(matrix, weight, worth, k):
    """The terms in float64, with the quadrature of float32."""
    parts = _parts(matrix, weight, worth, 8, k)
    for part in parts:
        if isinstance(part, Entropy):
            t, w = quadrature(8, matrix.shape[-1], torch.float32, matrix.device)
            part.t, part.w = t.double(), w.double()
            part.diagonal = part.matrix.diagonal(dim1=1, dim2=2)[:, None] + part.t[:, None]
            part.pivots = part.diagonal
    return parts


@needs_gpu
@pytest.mark.parametrize("kind", ["gaussian", "biased", "themes"])
@pytest.mark.parametrize("size, k", [(70, 69), (576, 64), (576, 288)])
@pytest.mark.parametrize("items", [1, 3])
def test_every_pick_is_the_best_on_a_gpu(kind, size, k, items):
    tokens = make(kind, size, items=items).float().cuda()
    weights = torch.rand(items, size, generator=torch.Generator().manual_seed(1)).cuda()
    matrix, mean_one = gram(tokens.double()), (weights / weights.mean(1, keepdim=True)).double()
    equal, t = torch.ones_like(mean_one), torch.full((1,), 1e-3, device="cuda")
    worth = Worth(cover=1.0, entropy=1.0, relevance=0.2)
    rules = {
        "farthest": (lambda x, w, k: farthest_points(x, k), lambda: [Spread(matrix)]),
        "conditional": (conditional_dpp, lambda: [Left(matrix, weights.double())]),
        "facility": (
            lambda x, w, k: facility_location(gram(x), k), lambda: [Facility(matrix, equal)]
        ),
        "scaled": (
            lambda x, w, k: facility_location(gram(x), k, weights=w),
            lambda: [Facility(matrix, weights.double())],
        ),
        "weighted": (
            lambda x, w, k: weighted(x, k, w), lambda: _parts(matrix, mean_one, Worth(), 8, k)
        ),
        "worth": (
            lambda x, w, k: weighted(x, k, w, worth=worth),
            lambda: in_double(matrix, mean_one, worth, k),
        ),
        "greedy": (
            lambda x, w, k: _forward(gram(x), k, *kernel_quadrature(None, gram(x), **_FEW), None,
                                     backend_for(x)),
            lambda: [Entropy(matrix, 1.0, 40, k)],
        ),
        "dpp": (
            lambda x, w, k: _forward(gram(x), k, t, torch.ones_like(t), None, backend_for(x)),
            lambda: [Volume(matrix, equal, 1.0, k)],
        ),
    }  # fmt: skip

    def lost(name, order):
        """The regret of an order; the first pick of some is the least redundant, not the best."""
        parts, skipped = rules[name][1](), int(name in ("dpp", "greedy"))
        for part in parts * skipped:
            part.add(order[:, 0])
        return regret(parts, order[:, skipped:])

    for name, (rule, _) in rules.items():
        order = rule(tokens, weights, k)
        assert all(len(row.unique()) == k for row in order), name
        # a tie is half a level of a grid of 65536, cosines err by a few 1e-6; what float32 itself
        # loses, where tokens share a direction, the plain code loses as well
        plain = plainly(lambda rule=rule: rule(tokens, weights, k))
        assert lost(name, order) < 2e-3 + lost(name, plain), name
        assert torch.equal(rule(tokens[:1], weights[:1], k)[0], order[0]), name


@needs_gpu
@pytest.mark.parametrize("entropy", [0.0, 1.0])
@pytest.mark.parametrize(
    "size, k, items",
    [
        *((s, k, i) for s, k in [(16, 16), (100, 30), (576, 288), (1024, 600)] for i in (1, 3, 40)),
        (1296, 200, 5),
        (2304, 300, 1),
        (4096, 100, 2),
    ],
)
def test_choices_in_blocks_of_picks_and_pick_by_pick_on_a_gpu(monkeypatch, size, k, items, entropy):
    tokens = make("themes", size, items=items).float().cuda()
    weights = torch.rand(items, size, generator=torch.Generator().manual_seed(1)).cuda()
    worth = Worth(relevance=0.2, entropy=entropy)

    def order(first=0):
        return weighted(tokens, k, weights, worth=worth, first=first)

    in_blocks, with_first = order(), order(k // 8)
    assert torch.equal(weighted(tokens[-1:], k, weights[-1:], worth=worth), in_blocks[-1:])
    # two streams at once: each has programs that wait for each other
    streams, beside = [torch.cuda.Stream(), torch.cuda.Stream()] * 3, []
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            beside.append((order(), order(k // 8)))
    torch.cuda.synchronize()
    assert all(torch.equal(one, in_blocks) and torch.equal(two, with_first) for one, two in beside)
    heaviest = weights.sort(descending=True).values[:, : k // 8]
    torch.testing.assert_close(
        weights.gather(1, with_first[:, : k // 8]), heaviest, atol=1e-4, rtol=0
    )
    monkeypatch.setattr("lib.kernels.greedy.in_blocks", lambda *given: None)
    a_pick = order()
    few = slice(min(items, 3))  # in float64 40 items take long
    matrix, mean_one = gram(tokens[few].double()), (weights / weights.mean(1, keepdim=True))[few]
    # sums in another order: a near-tie may fall otherwise, and then what follows it
    one, other = (
        regret(in_double(matrix, mean_one.double(), worth, k), picks[few])
        for picks in (in_blocks, a_pick)
    )
    assert one < 2e-3 + other


@needs_gpu
@pytest.mark.parametrize("entropy", [0.0, 1.0])
@pytest.mark.parametrize(
    "rows, shape", [(8, (4, 255)), (16, (4, 168)), (16, (8, 128)), (32, (8, 255))]
)
def test_no_sum_depends_on_the_layout_on_a_gpu(monkeypatch, entropy, rows, shape):
    tokens = make("themes", 576, items=2).float().cuda()

    def order():
        return weighted(tokens, 100, worth=Worth(entropy=entropy))

    wanted = order()
    monkeypatch.setattr("lib.kernels.blocks._ROWS", rows)
    shapes = dict.fromkeys(("coverage", "entropy", "both"), (shape,))
    monkeypatch.setattr("lib.kernels.blocks._SHAPES", shapes)
    assert torch.equal(order(), wanted)


@needs_gpu
def test_what_is_no_number_is_not_waited_for_on_a_gpu():
    tokens = make("themes", 100, items=2).float().cuda()
    tokens[0, 3], tokens[1, 5] = torch.nan, torch.inf
    priority = torch.full((2, 100), -torch.nan, device="cuda")
    order = weighted(tokens, 30, priority=priority, first=2, check=False)
    assert all(len(row.unique()) == 30 for row in order)
    quality = torch.rand(2, 100).cuda()
    quality[0, 1], quality[1, 2] = torch.nan, torch.inf
    order = conditional_dpp(tokens, quality, 30, check=False)
    assert all(len(row.unique()) == 30 for row in order)


@needs_gpu
def test_greedy_selection_of_copies_on_a_gpu():
    # eight distinct tokens: what follows the eighth pick is as good as any other
    tokens = torch.eye(8).repeat(5, 1).cuda()
    for strategy in ("adaptive", "greedy", "dpp"):
        mask = STRATEGIES[strategy](tokens, 8)
        assert sorted((mask.nonzero().squeeze(1) % 8).tolist()) == list(range(8)), strategy


@needs_gpu
def test_nothing_waits_for_the_host():
    views = [make("themes", 200, seed=s).float().cuda() for s in range(2)]
    calls = (
        lambda: hierarchical(None, 32, 16, 2, layers=views, budget=50, check=False),
        lambda: hierarchical(
            None, 32, 16, 2, layers=views, budget=50, check=False, cluster_on="unit"
        ),
        lambda: token_level(None, 50, layers=views, check=False),
        lambda: leave_one_out(views[0], check=False),
        lambda: STRATEGIES["adaptive"](views[0], 50, check=False),
    )
    for call in calls:
        call()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
