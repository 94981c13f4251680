"""Stored weights: bytes with a scale a row cost less than half a per cent."""

import torch

from lib.study.models.photos import weights


def test_what_a_byte_a_weight_costs(tmp_path):
    torch.manual_seed(0)
    state = {"w": torch.randn(64, 100), "conv": torch.randn(8, 3, 5, 5), "bias": torch.randn(7)}
    weights.write(tmp_path / "w.safetensors", state, rank=8, alpha=32)
    back, facts = weights.read(tmp_path / "w.safetensors")
    assert facts == {"rank": 8.0, "alpha": 32.0} and set(back) == set(state)
    for name, weight in state.items():
        assert back[name].shape == weight.shape
        error = (back[name] - weight).norm() / weight.norm()
        assert 0 < error < 0.01
    rows = state["w"].abs().amax(1, keepdim=True)
    assert ((back["w"] - state["w"]).abs() <= rows / 254 * 1.01).all()
    assert (tmp_path / "w.safetensors").stat().st_size < 64 * 100 + 600 + 1200


def test_stored_twice_is_stored_once():
    """What was read back is stored without further loss."""
    torch.manual_seed(0)
    once = weights.restore(weights.quantise({"w": torch.randn(9, 30), "zero": torch.zeros(2, 3)}))
    again = weights.restore(weights.quantise(once))
    assert torch.allclose(once["w"], again["w"], rtol=2e-3, atol=0) and not again["zero"].any()
