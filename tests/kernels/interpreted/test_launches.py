"""What Algorithm 1 launches beside k-means: while a model works each launch waits for room."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lib.selection import hierarchical
from tests.kernels.interpreted.kit import interpreted, make, plainly

pytestmark = interpreted

KERNELS = Path(__file__).parents[3] / "lib" / "kernels"
#: operations that launch nothing
VIEWS = {
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "expand", "new_empty",
    "select", "slice", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Notes the operations of PyTorch that launch something."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).split(".")[1]
        if name not in VIEWS:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


class Kernel:
    """Notes the launches of a kernel, and no operation of its interpreter."""

    def __init__(self, name: str, kernel, found: list[str]) -> None:
        self.name, self.kernel, self.found = name, kernel, found

    def __getitem__(self, grid):
        def launch(*args, **named):
            self.found.append(self.name)
            with _disable_current_modes():
                self.kernel[grid](*args, **named)

        return launch


def launches(monkeypatch, call):
    """Kernels and operations of a call, in order, and what it returns."""
    call()  # constants are kept
    found: list[str] = []
    for path in KERNELS.glob("[a-z]*.py"):
        module = importlib.import_module(f"lib.kernels.{path.stem}")
        for name, kernel in list(vars(module).items()):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Kernel(name, kernel, found))
    with Operations(found):
        result = call()
    return found, result


@pytest.mark.parametrize(
    "cluster_on, rollout, budget", [("raw", "literal", 20), ("unit", "scaled", "adaptive")]
)
def test_few_launches_beside_k_means(monkeypatch, cluster_on, rollout, budget):
    lengths = torch.linspace(1, 3, 44)[:, None]
    layers = [(lengths ** (i / 2) * make("themes", 44, items=1)).half() for i in range(4)]
    options = {"budget": budget, "rollout": rollout, "cluster_on": cluster_on, "check": False}

    def call():
        return hierarchical(None, 20, 10, 2, layers=layers, **options, solver="cholesky")

    found, result = launches(monkeypatch, call)
    seed, lloyd, start = (found.index(f"_{n}_kernel") for n in ("seed", "lloyd", "start"))
    diagonal = ["clone"] if cluster_on == "raw" else []
    assert found[0] in ("cat", "stack")  # one launch, whatever a release of PyTorch calls it
    assert found[1:seed] == ["_rows_kernel", "_gram_kernel", *diagonal, "_pairs_kernel"]
    # the centroids, and the scale of their Gram matrices
    assert found[lloyd + 1 : start] == ["_halves_kernel", "_means_kernel", "mean", "div", "clone"]
    behind = found[found.index("_operator_kernel") + 1 :]
    last = ["_first_kernel"] if budget == 20 else []
    assert behind == ["_rolled_kernel", "_ranks_kernel", "_keys_kernel", *last]
    assert torch.equal(result.mask, plainly(call).mask)
