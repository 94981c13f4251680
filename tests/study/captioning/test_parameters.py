"""The fingerprint of weights."""

import torch

from lib.study.captioning import weights_digest


def test_the_fingerprint_sees_every_parameter(kit):
    model, _ = kit
    before = weights_digest(model)
    assert before == weights_digest(model)
    with torch.no_grad():
        for parameter in (model.lm_head.weight, model.model.vision_tower.state_dict()):
            if isinstance(parameter, dict):
                parameter = parameter[sorted(parameter)[0]]
            parameter.mul_(2)
            assert weights_digest(model) != before
            parameter.mul_(0.5)
    assert weights_digest(model) == before


def test_the_fingerprint_of_a_large_parameter_ends_at_its_last_value():
    # 2**40 values that take no memory: neither may they be copied, nor the last index rounded
    huge = torch.nn.Module()
    huge.register_buffer("weight", torch.ones(()).expand(2**20, 2**20))
    assert len(weights_digest(huge)) == 64

    large = torch.nn.Module()
    large.register_buffer("weight", torch.zeros(2**24 + 2, dtype=torch.int8))
    before = weights_digest(large)
    large.weight[-1] = 1
    assert weights_digest(large) != before

    one = torch.nn.Module()
    one.register_buffer("weight", torch.zeros(()))
    before = weights_digest(one)
    one.weight += 1
    assert weights_digest(one) != before
