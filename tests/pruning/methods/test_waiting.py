"""No choice of these methods looks at its data: on a GPU each look would make the host wait, and a
captured graph cannot look at all. Tensors without data (`meta`) refuse it."""

from types import SimpleNamespace

import pytest
import torch

from lib.pruning import available, create
from lib.pruning.divprune import _picks
from lib.selection import STRATEGIES

IMAGES, TOKENS, WIDTH, WORDS, KEEP = 2, 30, 8, 4, 6


def empty(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


STATES, WEIGHTS = empty(IMAGES, TOKENS, WIDTH), empty(IMAGES, TOKENS)
TEXT = [empty(IMAGES, WORDS, WIDTH), empty(IMAGES, WORDS, dtype=torch.bool)]
RULES = {
    "cdpruner": [STATES, STATES, *TEXT],
    "mmtok": [STATES, STATES, *TEXT],
    "scope": [STATES, WEIGHTS],
    "vispruner": [WEIGHTS, STATES],
}


@pytest.mark.parametrize("name", RULES)
def test_rules_that_are_captured(name):
    assert create(name).rule(RULES[name], quota=KEEP).shape == (IMAGES, KEEP)


def test_fastervlm():
    pruner = create("fastervlm")
    pruner.attention = lambda piece: WEIGHTS
    assert pruner.pick(SimpleNamespace(quota=KEEP)).shape == (IMAGES, KEEP)


def test_rollout():
    pruner = create("rollout")
    pruner.family = SimpleNamespace(class_tokens=1, patch_rows=lambda states: states[:, 1:])
    product = empty(IMAGES, 1 + TOKENS, 1 + TOKENS)
    piece = SimpleNamespace(
        record=SimpleNamespace(extra={"rollout": product}), of_patches=lambda x: x, quota=KEEP
    )
    assert pruner.pick(piece).shape == (IMAGES, KEEP)


def test_divprune():
    assert _picks([STATES], KEEP).shape == (IMAGES, KEEP)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_selection(strategy):
    pruner = create("selection", strategy=strategy)
    assert pruner._select([STATES], keep=KEEP).shape == (IMAGES, TOKENS)


@pytest.mark.parametrize("options", [{}, {"count": "adaptive"}, {"level": "token"}])
def test_entropy(options):
    pruner = create("entropy", **options)
    assert pruner._select([STATES] * 3, keep=KEEP).shape == (IMAGES, TOKENS)


@pytest.mark.parametrize("options", [{}, {"entropy": 1.0, "volume": 1.0, "uniform": 0.5}])
def test_weighted(options):
    pruner = create("weighted", **options)
    assert pruner._select([STATES, WEIGHTS], budget=KEEP).shape == (IMAGES, TOKENS)


@pytest.mark.parametrize("name", available())
def test_what_the_tower_alone_decides_is_begun_beside_the_language_model(model, monkeypatch, name):
    """In a captured prefill; rules that read the prompt, or make tokens, have to wait."""
    begun = []
    for module in ("tower_rule", "states"):
        monkeypatch.setattr(
            f"lib.pruning.{module}.beside.ahead",
            lambda pruner, compute, long=False, last=None: begun.append((name, long)),
        )
    with create(name)(model):
        pass
    alone = {"entropy", "fastervlm", "hired", "rollout", "scope", "selection", "vispruner"}
    assert begun == ([(name, name == "selection")] if name in alone else [])
