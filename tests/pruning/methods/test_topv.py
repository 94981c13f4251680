"""TopV against a prefill written out and Sinkhorn by definition; the trap of its last step."""

import math

import pytest
import torch

from lib.pruning import create
from lib.pruning.topv import recovered, sent
from tests.pruning.methods.loop import agrees, largest
from tests.tiny import SIDE, TOKENS, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def sinkhorn(cost, epsilon, iterations, last="columns"):
    """The plan by scaling a kernel, in float64, row step first; `last` says which step ends it."""
    kernel = (-cost.double() / epsilon).exp()
    left, right = torch.ones(len(cost)).double(), torch.ones(cost.shape[1]).double()
    for _ in range(iterations):
        left = (1 / len(cost)) / (kernel @ right)
        right = (1 / cost.shape[1]) / (kernel.T @ left)
    if last == "rows":
        left = (1 / len(cost)) / (kernel @ right)
    return left[:, None] * kernel * right


def unit(part):
    flat = [x for row in part for x in row]
    low, high = min(flat), max(flat)
    return [[(x - low) / (high - low) for x in row] for row in part]


def reference(pruner):
    def choose(moment):
        source = moment.before["entering"][moment.columns].double()
        made = moment.before["norm"] if pruner.target == "post-norm" else moment.states
        target = made[moment.columns].double()
        spots = [divmod(i, SIDE) for i in range(TOKENS)]
        middle = (SIDE - 1) / 2
        feature = unit([[float((s - t).square().sum()) for t in target] for s in source])
        near = [[(a - c) ** 2 + (b - d) ** 2 for c, d in spots] for a, b in spots]
        spatial = unit([[1 - math.exp(-x / (2 * pruner.sigma**2)) for x in row] for row in near])
        central = unit([[math.hypot(a - middle, b - middle)] * TOKENS for a, b in spots])
        cost = (
            pruner.feature * torch.tensor(feature)
            + pruner.spatial * torch.tensor(spatial)
            + pruner.central * torch.tensor(central)
        )
        scores = sinkhorn(cost, pruner.epsilon, pruner.iterations).sum(1)
        keep = take_back(scores, pruner.budget(TOKENS), pruner.recover)
        return [moment.columns[i] for i in keep], None

    return choose


def take_back(scores, count, every):
    back = min((len(scores) - count) // (every - 1), count // 2) if every else 0
    best = largest(scores, count - back)
    others = [i for i in range(len(scores)) if i not in best]
    step = len(others) // back if back else 1
    return sorted(best + others[::step][:back])


@pytest.mark.parametrize("rows, columns", [(6, 6), (2, 5), (4, 3)])
def test_costs_of_places_are_their_distances_from_each_other_and_from_the_middle(rows, columns):
    """Not shown by choices: a cost that only the source has is scaled away."""
    spots = [(float(y), float(x)) for y in range(rows) for x in range(columns)]
    same = torch.zeros(1, len(spots), 3)
    middle = ((rows - 1) / 2, (columns - 1) / 2)
    central = unit([[math.dist(spot, middle)] * len(spots) for spot in spots])
    near = [[1 - math.exp(-(math.dist(a, b) ** 2) / 18) for b in spots] for a in spots]
    for weights, want in (((0.0, 1.0), central), ((1.0, 0.0), unit(near))):
        spatial, centred = weights
        pruner = create("topv", feature=0.0, spatial=spatial, central=centred, sigma=3.0)
        found = pruner.cost(same, same, torch.tensor([spots]))[0]
        want = torch.tensor(want).expand_as(found)
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [
    {}, {"target": "output", "recover": 0}, {"keep": 0.1, "iterations": 1, "central": 1.0},
    {"layer": 1, "epsilon": 0.5, "sigma": 2.0},
])  # fmt: skip
def test_it_is_the_written_out_method(model, options):
    pruner = create("topv", **options)
    agrees(model, pruner, reference(pruner), ragged())


def costs(seed=0, size=12):
    return torch.rand(2, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_what_is_sent_is_the_row_sum_of_the_plan(epsilon):
    cost = costs()
    found = sent(cost, epsilon=epsilon, iterations=3)
    want = torch.stack([sinkhorn(one, epsilon, 3).sum(1) for one in cost]).float()
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_a_last_step_of_the_rows_would_rank_nothing():
    """The columns' step ends the iteration: row sums differ, and column sums are the margin."""
    cost = costs()[0]
    rows = sinkhorn(cost, 0.1, 3, last="rows").sum(1)
    assert (rows - 1 / 12).abs().max() < 1e-12
    ours = sent(cost[None], epsilon=0.1, iterations=3)[0]
    assert (ours.max() - ours.min()) * 12 > 0.05


def test_convergence_takes_the_signal_away():
    spread = []
    for iterations in (1, 3, 10, 100, 1000):
        found = sent(costs()[:1].double(), epsilon=0.05, iterations=iterations)[0]
        spread.append(float(found.max() - found.min()) * 12)
    assert spread == sorted(spread, reverse=True) and spread[0] > 0.1 > 1e-6 > spread[-1]


def test_equal_tokens_and_a_small_epsilon_stay_finite():
    found = sent(torch.zeros(1, 9, 9), epsilon=0.1, iterations=3)
    torch.testing.assert_close(found, torch.full((1, 9), 1 / 9))
    assert sent(costs() * 100, epsilon=0.01, iterations=3).isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 5, 9, 18, 30, 36])
@pytest.mark.parametrize("every", [2, 4, 7])
def test_recovery_keeps_the_count(count, every):
    scores = torch.randn(3, 36, generator=torch.Generator().manual_seed(count))
    mask = recovered(scores, count, every)
    assert mask.sum(1).tolist() == [count] * 3
    for row, own in zip(scores, mask):
        assert own.nonzero().squeeze(1).tolist() == take_back(row, count, every)


def test_tokens_commute_with_a_permutation_of_sources_and_targets():
    cost, turn = costs(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    found = sent(cost, epsilon=0.1, iterations=3)
    other = sent(cost[:, turn][:, :, turn], epsilon=0.1, iterations=3)
    torch.testing.assert_close(other, found[:, turn])
