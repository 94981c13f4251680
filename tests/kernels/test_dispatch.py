"""Who takes the kernels."""

from types import SimpleNamespace

import pytest
import torch

from lib.kernels import MAX_CLUSTERED, Backend, backend_for, dispatch, use_kernels


def test_a_cpu_tensor_takes_the_plain_route():
    assert not backend_for(torch.eye(32))


def test_the_switch_holds_for_its_block_only(monkeypatch):
    kernels = SimpleNamespace()
    monkeypatch.setattr(dispatch, "_devices", ("cpu",))
    monkeypatch.setattr(dispatch, "_operations", lambda: kernels)
    assert backend_for(torch.eye(32)).kernels is kernels
    with use_kernels(False):
        assert not backend_for(torch.eye(32))
        with use_kernels(True):
            assert backend_for(torch.eye(32)).kernels is kernels
    assert backend_for(torch.eye(32)) == Backend(kernels)


UNSUITABLE = {
    "float64": torch.eye(32).double(),
    "few rows": torch.eye(15),
    "many rows": torch.ones(4097, 2),
    "no rows": torch.ones(0, 32, 4),
    "one dimension": torch.ones(32),
    "integers": torch.ones(32, 4, dtype=torch.int64),
    "no tensor": [[1.0]],
    "another device": torch.empty(32, 4, device="meta"),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_the_kernels_do_not_serve(monkeypatch, name):
    monkeypatch.setattr(dispatch, "_devices", ("cpu",))
    monkeypatch.setattr(dispatch, "_operations", SimpleNamespace)
    assert backend_for(torch.eye(16)) and backend_for(torch.ones(4096, 2))
    assert backend_for(torch.ones(MAX_CLUSTERED, 2), most=MAX_CLUSTERED)
    assert not backend_for(torch.ones(MAX_CLUSTERED + 1, 2), most=MAX_CLUSTERED)
    assert not backend_for(UNSUITABLE[name])
    assert not backend_for(torch.eye(32), UNSUITABLE[name])  # the kernels serve all or none


def test_gradients_go_the_plain_way(monkeypatch):
    monkeypatch.setattr(dispatch, "_devices", ("cpu",))
    monkeypatch.setattr(dispatch, "_operations", SimpleNamespace)
    tokens = torch.eye(32).requires_grad_()
    assert not backend_for(tokens)
    with torch.no_grad():
        assert backend_for(tokens)


def test_a_backend_serves_other_sizes_of_its_call_or_not():
    backend = Backend(SimpleNamespace())
    assert [bool(backend.of_size(n)) for n in (15, 16, 4096, 4097)] == [False, True, True, False]
    assert not Backend().of_size(64)
