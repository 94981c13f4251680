"""Greedy choices against brute force and plain algorithms."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.entropy import gram, matrix_entropy
from lib.selection import STRATEGIES, adaptive, coverage, dpp, greedy, renyi2_greedy
from tests import reference
from tests.reference import KINDS, make_tokens

F64 = torch.float64


def unit(tokens):
    return torch.nn.functional.normalize(tokens.double(), dim=-1)


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


@pytest.mark.parametrize("kind", ["gaussian", "clustered", "rank-deficient"])
@pytest.mark.parametrize("cover", [0.3, 1.0, 5.0])
def test_adaptive_adds_both_gains_step_by_step(kind, cover):
    """By eigenvalues from scratch: -F of the kept set plus the weighted coverage of all tokens."""
    tokens = make_tokens(kind, 22, 1)
    if kind == "rank-deficient":
        tokens = tokens + 2 * tokens[0]  # a direction that all share
    k = reference.gram(tokens)
    weight = cover / (1 - k.mean())
    kept = []
    for _ in range(9):
        rest = [i for i in range(22) if i not in kept]
        sets = [[*kept, i] for i in rest]
        values = [
            -reference.trace_form(k[s][:, s]) + weight * k[s].clamp_min(0).amax(0).sum().item()
            for s in sets
        ]
        assert sorted(values)[-1] - sorted(values)[-2] > 1e-4, "the reference itself must be sure"
        kept.append(rest[max(range(len(rest)), key=values.__getitem__)])
        mask = adaptive(tokens, len(kept), cover=cover, nodes=60)
        assert mask.nonzero().flatten().tolist() == sorted(kept)


def test_the_weight_of_coverage_does_not_see_a_shared_direction():
    # K' = (1 - a) K + a: every gain in coverage shrinks as 1 - mean K does. Without the entropy's
    # share, which a huge weight drowns, the choice is the same; so is the weight itself.
    tokens = unit(make_tokens("clustered", 40, 2).abs())  # no cosine below zero, which is cut off
    for share in (0.5, 0.9):
        shared = torch.cat(
            [(1 - share) ** 0.5 * tokens, torch.full((40, 1), share**0.5, dtype=F64)], -1
        )
        k, other = reference.gram(tokens), reference.gram(shared)
        gains = [(m / (1 - m.mean())) for m in (k, other)]
        torch.testing.assert_close(gains[0] - gains[0][0, 1], gains[1] - gains[1][0, 1])
        a, b = (adaptive(t, 8, cover=1e7) for t in (tokens, shared))
        assert torch.equal(a, b)


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
