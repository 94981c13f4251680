"""A release of transformers that does otherwise than those tested is noticed."""

import warnings

import pytest
import torch

from lib.pruning import create
from lib.pruning.engine import release
from tests.tiny import one


def test_a_layer_called_in_an_unknown_way_is_refused(model, monkeypatch):
    kind = type(model.model.language_model.layers[0])

    def forward(self, states, mask=None, keys=None):
        return states

    monkeypatch.setattr(kind, "forward", forward)
    with (
        pytest.raises(release.UnknownRelease, match=r"is tested with"),
        create("random")(model),
    ):
        pass


def test_hooks_that_do_not_reach_the_layers_are_noticed(model, monkeypatch):
    """A cache of other lengths than the hooks asked for."""
    language = model.model.language_model
    original = language.layers[3].forward

    def longer(hidden, **kwargs):
        cache = release.given_cache(kwargs)
        out = original(hidden, **kwargs)
        layer = cache.layers[3]
        layer.keys = torch.cat([layer.keys, layer.keys[:, :, :1]], 2)
        return out

    monkeypatch.setattr(language.layers[3], "forward", longer)
    with (
        create("random")(model),
        pytest.raises(release.UnknownRelease, match=r"holds .* positions by layer instead of"),
    ):
        model(**one(), use_cache=True)


def test_an_untested_release_warns_once():
    release._warn_if_untested.cache_clear()
    with pytest.warns(UserWarning, match=r"transformers 9\.1\.0 is untested"):
        release._warn_if_untested("9.1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release._warn_if_untested("9.1.0")
        release._warn_if_untested("5.20.1")
