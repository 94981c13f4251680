"""The rollout's diagonal, by the interpreter."""

from __future__ import annotations

import pytest
import torch

from lib.rollout import rolled_importance, rollout
from tests.kernels.interpreted.kit import interpreted

pytestmark = interpreted


@pytest.mark.parametrize("variant", ["literal", "scaled"])
@pytest.mark.parametrize("depth", [2, 3, 4, 5, 7])
def test_the_diagonal_of_the_rollout(variant, depth, monkeypatch):
    from lib.kernels import operations

    # of no symmetry: each factor is told from its transpose, and from the others
    generator = torch.Generator().manual_seed(depth)
    layers = torch.randn(depth, 2, 70, 70, dtype=torch.float64, generator=generator) / 20
    wanted = rollout(layers, variant).diagonal(dim1=-2, dim2=-1)
    calls, kernel = [], operations.rolled_diagonal

    def noted(operators, *given):
        calls.append(len(operators))
        return kernel(operators, *given)

    monkeypatch.setattr(operations, "rolled_diagonal", noted)
    found = rolled_importance(layers.float(), variant)
    assert calls == [min(depth, 4) - 1]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(rolled_importance(layers[:, 1].float(), variant), found[1])


def test_one_layer_and_scores_need_no_kernel():
    layers = torch.rand(3, 20, 20)
    assert torch.equal(rolled_importance(layers[:1]), layers[0].diagonal())
    assert torch.equal(rolled_importance(layers, "scores"), rollout(layers, "scores"))


def test_many_items_are_multiplied_in_one_piece(monkeypatch):
    from lib.kernels import operations

    layers = torch.rand(4, 20, 20) / 20
    found = rolled_importance(layers)
    monkeypatch.setattr("lib.rollout.FEW", 19)
    monkeypatch.setattr(operations, "rolled_diagonal", None)
    torch.testing.assert_close(rolled_importance(layers), found)
