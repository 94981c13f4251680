"""Methods and options from the command line."""

import doctest
from dataclasses import fields

import pytest

from lib.plugins.lmms_eval import model, options
from lib.pruning import available, registry


def test_examples():
    assert doctest.testmod(options).failed == 0


def test_an_option_keeps_its_type():
    pruner = options.pruner(
        "entropy",
        {"keep": 1, "layer": 2.0, "layers": "[-4,-1]", "n_clusters": "none", "level": "token"},
    )
    assert pruner.layer == 2 and isinstance(pruner.layer, int)
    assert pruner.layers == (-4, -1) and pruner.n_clusters is None and pruner.level == "token"


@pytest.mark.parametrize("method", available())
def test_every_option_of_every_method_can_be_given_as_text(method):
    """As lmms-eval reads it from the command line, its default comes back."""
    for option in fields(registry.method(method)):
        if not option.init:
            continue
        default = option.default
        given = default
        if default is None:
            given = "none"
        elif isinstance(default, tuple):
            given = str(list(default)).replace(" ", "")
        elif isinstance(default, str) and default.replace(".", "").isdigit():
            given = float(default) if "." in default else int(default)
        elif isinstance(default, int) and not isinstance(default, bool) and default < 0:
            given = float(default)
        assert options.read(given, option) == default, option.name


@pytest.mark.parametrize("method", available())
def test_no_option_is_hidden_by_an_argument_of_the_model(method):
    own = set(model._arguments())
    assert not own & {option.name for option in fields(registry.method(method))}


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no pruning method 'entropi'; .*none, .*entropy"):
        options.pruner("entropi", {})


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no argument 'kep'; method=fastv takes keep, .*pretrain"):
        options.pruner("fastv", {"kep": 0.5}, ["pretrained"])
    with pytest.raises(ValueError, match="no argument 'keep'; method=none takes no options"):
        options.pruner("none", {"keep": 0.5}, ["pretrained"])


@pytest.mark.parametrize(
    "method, given, message",
    [
        ("entropy", {"keep": "half"}, "keep takes a number, got 'half'"),
        ("entropy", {"layers": 3}, r"layers takes a sequence such as layers=\[2,5\], got 3"),
        ("entropy", {"layers": "[3"}, "layers takes a sequence"),
        ("entropy", {"keep": 1.5}, "keep must be in"),
        ("entropy", {"layer": -1.0}, "layer must be an integer >= 0, got -1"),
        ("fastv", {"mode": "masked"}, "mode must be one of"),
    ],
)
def test_a_value_that_does_not_fit_is_named(method, given, message):
    with pytest.raises(ValueError, match=message):
        options.pruner(method, given)


@pytest.mark.parametrize("given", ["backend=pil", "[1", "3"])
def test_what_is_no_mapping_is_named(given):
    with pytest.raises(ValueError, match="processor takes JSON such as"):
        options.mapping("processor", given)


def test_a_mapping_may_be_one_already():
    assert options.mapping("processor", {"a": 1}) == {"a": 1}
    assert options.mapping("processor", None) == {}
