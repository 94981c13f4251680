"""The one-shot choice of tokens."""

import torch

from lib.entropy import entropy_operator, leave_one_out
from lib.rollout import importance, rollout
from lib.selection import token_level
from tests.reference import make_tokens


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
