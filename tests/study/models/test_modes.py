"""A mode lasts as long as its block, and every module gets its own back."""

import pytest
from torch import nn

from lib.study.models import in_mode


@pytest.mark.parametrize("training", [True, False])
def test_modules_are_as_they_were_after_an_error_too(training):
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    with in_mode(model, training=training):
        assert {module.training for module in model.modules()} == {training}
    with pytest.raises(ZeroDivisionError), in_mode(model, training=training):
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == [True, True, False, False]
