"""What is chosen: by Algorithm 1, token by token, greedily; by the interpreter."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

from lib.entropy import gram
from lib.kernels import backend_for
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
from tests.kernels.interpreted.kit import interpreted, make, plainly

pytestmark = interpreted


@pytest.mark.parametrize("budget", ["adaptive", 20])
@pytest.mark.parametrize("weighting", ["unit", "mass", "token-sum"])
@pytest.mark.parametrize("cluster_on", ["raw", "unit"])
def test_algorithm_1(budget, weighting, cluster_on):
    # of 40 tokens a draw nearly hits a boundary, and on some processors another centre
    lengths = torch.linspace(1, 3, 44)[:, None]
    layers = [lengths * make("themes", 44, width=32), make("themes", 44, width=32) / lengths]
    options = {"layers": layers, "budget": budget, "weighting": weighting}
    ours = hierarchical(None, 20, 10, 2, **options, cluster_on=cluster_on)
    plain = plainly(lambda: hierarchical(None, 20, 10, 2, **options, cluster_on=cluster_on))
    assert torch.equal(ours.mask, plain.mask)
    assert torch.equal(ours.core, plain.core)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("widths", [(32, 32), (16, 32)])
@pytest.mark.parametrize(
    "budget, weighting", [("adaptive", "unit"), (20, "mass"), (20, "token-sum")]
)
def test_algorithm_1_of_more_tokens_than_other_kernels_take(monkeypatch, widths, budget, weighting):
    module = importlib.import_module("lib.selection.layers")
    monkeypatch.setattr(module, "MAX_TOKENS", 32)
    monkeypatch.setattr(
        module, "backend_for", lambda *given, most=32: backend_for(*given, most=most)
    )
    clustered = []
    operations = importlib.import_module("lib.kernels.operations")
    kmeans = operations.kmeans
    monkeypatch.setattr(
        operations, "kmeans", lambda *given, **named: clustered.append(1) or kmeans(*given, **named)
    )
    lengths = torch.linspace(1, 3, 44)[:, None]
    layers = [lengths * make("themes", 44, width=width) for width in widths]
    options = {"layers": layers, "budget": budget, "weighting": weighting}
    ours = hierarchical(None, 20, 10, 2, **options)
    plain = plainly(lambda: hierarchical(None, 20, 10, 2, **options))
    assert clustered == [1] and torch.equal(ours.labels, plain.labels)
    assert torch.equal(ours.mask, plain.mask) and torch.equal(ours.core, plain.core)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)


def test_gram_matrices_of_any_scale():
    # what a caller gives as a Gram matrix may exceed the range of float16
    matrix = 1e6 * gram(make("themes", 40))
    ours = hierarchical(matrix, 12, 6, 2, gram=True)
    plain = plainly(lambda: hierarchical(matrix, 12, 6, 2, gram=True))
    assert torch.equal(ours.mask, plain.mask)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)


def test_token_level():
    layers = [make("themes", 40, width=width) for width in (32, 32)]
    ours = token_level(None, 20, layers=layers)
    assert torch.equal(ours, plainly(lambda: token_level(None, 20, layers=layers)))


@pytest.mark.parametrize("strategy", ["adaptive", "greedy", "dpp"])
@pytest.mark.parametrize("kind, size, k", [("gaussian", 18, 18), ("themes", 24, 12)])
def test_greedy_selection(strategy, kind, size, k):
    tokens = make(kind, size)
    ours = STRATEGIES[strategy](tokens, k)
    assert torch.equal(ours, plainly(lambda: STRATEGIES[strategy](tokens, k)))
    assert bool((ours.sum(-1) == k).all())


@pytest.mark.parametrize("kind, size, k", [("gaussian", 18, 18), ("themes", 24, 12)])
@pytest.mark.parametrize("items", [1, 2])
def test_rules_of_one_row_a_pick(kind, size, k, items):
    tokens = make(kind, size, items=items)
    quality = torch.rand(items, size, generator=torch.Generator().manual_seed(1))
    quality[:, 3] = 0  # nothing of it can be added
    for rule in (
        lambda: farthest_points(tokens, k),
        lambda: conditional_dpp(tokens, quality, k),
        lambda: facility_location(gram(tokens).softmax(-1), k),
        lambda: facility_location(gram(tokens)[:, :10], k, weights=quality),
        lambda: facility_location(gram(tokens).repeat(1, 3, 1), k),
    ):
        assert torch.equal(rule(), plainly(rule))


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(
    "worth",
    [
        Worth(),
        Worth(cover=0.5, entropy=1.0),
        Worth(cover=0.0, entropy=1.0, relevance=0.3),
        Worth(cover=1.0, relevance=0.2),
        Worth(volume=0.5),
    ],
)
def test_weighted_choices(worth, first):
    tokens = make("themes", 24, items=2)
    weights = torch.rand(2, 24, generator=torch.Generator().manual_seed(1))

    def order():
        return weighted(tokens, 8, weights, worth=worth, first=first, priority=weights.flip(1))

    assert torch.equal(order(), plainly(order))


@pytest.mark.parametrize("strategy", ["adaptive", "greedy"])
def test_of_a_matrix_that_is_not_quite_symmetric_all_read_the_same(monkeypatch, strategy):
    monkeypatch.setattr(importlib.import_module("lib.kernels.blocks"), "_PICKS", (4, 4))
    matrix = gram(make("gaussian", 40))
    generator = torch.Generator().manual_seed(1)
    matrix += 3e-3 * torch.rand(matrix.shape, generator=generator) * (1 - torch.eye(40))
    ours = STRATEGIES[strategy](matrix, 20, gram=True)
    assert torch.equal(ours, plainly(lambda: STRATEGIES[strategy](matrix, 20, gram=True)))
    mirrored = STRATEGIES[strategy](matrix.mT.contiguous(), 20, gram=True)
    assert torch.equal(mirrored, ours)


@pytest.mark.parametrize("first, entropy", [(0, 0.0), (3, 1.0)])
def test_choices_are_the_same_in_blocks_of_picks_and_pick_by_pick(monkeypatch, first, entropy):
    greedy, blocks, common = (
        importlib.import_module(f"lib.kernels.{name}") for name in ("greedy", "blocks", "common")
    )
    tokens = make("themes", 16, items=2)
    weights = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    block, turns = blocks._in_blocks, []

    def order():
        turns.clear()
        worth = Worth(relevance=0.2, entropy=entropy)
        return weighted(tokens, 10, weights, worth=worth, first=first)

    def noted(choice, *given):
        turns.append(len(choice.first))
        block(choice, *given)

    monkeypatch.setattr(blocks, "_in_blocks", noted)
    monkeypatch.setattr(blocks, "_PICKS", (4, 4))
    in_blocks = order()
    assert turns == [2]
    one_item = 10 * 16 + (8 * 16 * 16 if entropy else 0)
    monkeypatch.setattr(blocks, "_HELD", one_item)
    assert torch.equal(order(), in_blocks) and turns == [1, 1]
    monkeypatch.setattr(blocks, "_HOLDS", 15)  # the table does not fit into registers
    monkeypatch.setattr(blocks, "_COLS", 4)
    monkeypatch.setattr(blocks, "_AT_ONCE", 8)
    assert torch.equal(order(), in_blocks) and turns
    monkeypatch.setattr(common, "_room", lambda *given: 0)
    assert torch.equal(order(), in_blocks) and not turns
    monkeypatch.setattr(greedy, "_HELD", 64)  # a wide table is read in parts
    assert torch.equal(order(), in_blocks) and not turns
    assert torch.equal(plainly(order), in_blocks)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_no_number_is_not_waited_for():
    tokens = make("gaussian", 20)
    tokens[0, 3] = torch.nan
    tokens[1, 5] = torch.inf
    priority = torch.full((2, 20), -torch.nan)
    order = weighted(tokens, 6, priority=priority, first=2, check=False)
    assert all(len(set(row)) == 6 and 0 <= min(row) <= max(row) < 20 for row in order.tolist())
    quality = torch.rand(2, 20)
    quality[0, 1], quality[1, 2] = torch.nan, torch.inf
    for given in (tokens, make("gaussian", 20)):
        order = conditional_dpp(given, quality, 6, check=False)
        assert all(len(set(row)) == 6 for row in order.tolist())


def test_empty_clusters_are_never_core():
    tokens = torch.eye(3).repeat(8, 1)
    ours = hierarchical(tokens, 6, 5, 2, cluster_on="unit")
    plain = plainly(lambda: hierarchical(tokens, 6, 5, 2, cluster_on="unit"))
    assert ours.core.sum() == 3 and torch.equal(ours.core, plain.core)
    assert torch.equal(ours.mask, plain.mask)


@pytest.mark.parametrize("budget", [None, 3])
def test_an_empty_cluster_of_the_best_score_is_not_core(budget):
    from lib.kernels import operations

    labels = torch.tensor([[0, 2, 3] * 6])
    counts, scores = torch.tensor([[6, 0, 6, 6]]), torch.tensor([[1.0, 9.0, 3.0, 2.0]])
    distances = torch.linspace(1, 2, 18).unsqueeze(0)
    options = {"cores": 2, "per_cluster": 1, "budget": budget}
    mask, core, filled = operations.choose(scores, counts, labels, distances, **options)
    assert core.tolist() == [[False, False, True, True]]
    assert filled.tolist() == [[1.0, -torch.inf, 3.0, 2.0]]
    kept = [1, 2] if budget is None else [1, 2, 4]
    assert mask[0].nonzero().flatten().tolist() == kept


def test_rounding_does_not_rank_copies_of_their_centroid():
    from lib.kernels import operations

    # the last seven lie within half a step of the grid, 7.6e-6
    distances = 1e-6 * torch.arange(18.0, 0, -1).unsqueeze(0)
    labels, counts = torch.zeros(1, 18, dtype=torch.int64), torch.tensor([[18]])
    options = {"cores": 1, "per_cluster": 2, "budget": None}
    mask, *_ = operations.choose(torch.ones(1, 1), counts, labels, distances, **options)
    assert mask[0].nonzero().flatten().tolist() == [11, 12]


def test_a_program_that_begins_late_starts_where_the_others_did(monkeypatch):
    blocks = importlib.import_module("lib.kernels.blocks")
    monkeypatch.setattr(importlib.import_module("lib.kernels.common"), "_room", lambda *_: 2)
    for name, value in {"_ROWS": 8, "_PICKS": (4, 4)}.items():
        monkeypatch.setattr(blocks, name, value)
    tokens = make("themes", 16, items=4)
    # The interpreter runs the second program once the first has ended, which waits for nothing:
    # its own tokens are picked first.
    priority, worth = torch.arange(16.0, 0, -1), Worth(entropy=1.0)

    def order():
        return weighted(tokens, 5, worth=worth, first=4, priority=priority.expand(4, 16))

    assert torch.equal(order(), plainly(order))


def test_what_a_block_of_picks_explains_is_taken_off():
    resident = importlib.import_module("lib.kernels.resident")
    items, nodes, size, depth = 2, 3, 20, 4
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(items, size, nodes, depth, generator=generator)
    left = torch.randn(items, nodes, size, size, generator=generator)
    taken = (torch.rand(items, size, generator=generator) < 0.3).to(torch.int8)
    other, after = torch.zeros_like(factor, dtype=torch.int32), torch.full_like(left, 7.0)
    tiles = 3  # of order 16, on and below the diagonal
    resident._left_kernel[(tiles, nodes, items)](
        left, size * size, factor.view(torch.int32), other, taken, after, size, nodes,
        TILE=16, DEPTH=depth,
    )  # fmt: skip
    rows = factor.permute(0, 2, 1, 3)
    wanted = left - rows @ rows.mT
    either = (taken[:, None, :, None] > 0) | (taken[:, None, None, :] > 0)
    wanted = torch.where(either, 7.0, wanted)
    wanted[:, :, :16, 16:] = 7.0  # nobody looks there
    torch.testing.assert_close(after, wanted, rtol=0, atol=1e-5)
    assert (other == resident._ABSENT.value).all(), "the next block's are waited for"


@pytest.mark.parametrize("strategy", ["adaptive", "greedy", "dpp"])
def test_a_copy_is_another_token(monkeypatch, strategy):
    monkeypatch.setattr(importlib.import_module("lib.kernels.blocks"), "_PICKS", (4, 4))
    # After six distinct tokens every gain ties with that of a token already taken.
    tokens = torch.eye(6).repeat(3, 1)
    mask = STRATEGIES[strategy](tokens, 14)
    assert mask.sum() == 14
    assert STRATEGIES[strategy](tokens, 6).nonzero().flatten().tolist() == list(range(6))


def test_layers_of_several_widths_are_clustered_plainly_beside_the_kernels():
    layers = [make("themes", 40, width=w) * torch.linspace(1, 3, 40)[:, None] for w in (32, 48)]
    options = {"layers": layers, "cluster_on": "raw", "budget": 15}
    ours = hierarchical(None, 12, 6, 2, **options)
    plain = plainly(lambda: hierarchical(None, 12, 6, 2, **options))
    assert torch.equal(ours.labels, plain.labels) and torch.equal(ours.mask, plain.mask)
    torch.testing.assert_close(ours.cluster_scores, plain.cluster_scores, rtol=1e-3, atol=1e-5)
