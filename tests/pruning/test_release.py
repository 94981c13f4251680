"""How the installed transformers is asked, against what it then does."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.cache_utils import DynamicLayer

from lib.pruning.engine import release


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_a_new_position_sees_what_is_held_and_what_came_before_it(attention, held, length, masked):
    config = LlamaConfig(hidden_size=8, num_attention_heads=2)
    config._attn_implementation = attention
    keys = torch.ones(2, held + length, dtype=torch.bool)
    if masked:
        keys[0, 0] = False  # padding on the left
    found = release.causal_mask(
        config, torch.zeros(2, length, 8), length=length, held=held,
        key_mask=keys if masked else None,
    )  # fmt: skip
    places = torch.arange(held + length)
    want = keys[:, None, :] & (places <= held + torch.arange(length)[:, None])
    if attention == "sdpa" and not masked and held == 0:
        assert found is None  # its kernels know a causal mask without being given one
        return
    if found is None:
        assert bool(want.all())
        return
    seen = found if found.dtype == torch.bool else found == 0
    seen = seen.expand(2, 1, *seen.shape[2:])[:, 0]
    real = want.any(-1)  # a row of padding sees nothing, and what it is given is read by nobody
    assert torch.equal(seen[real], want[real])


def test_a_release_crops_to_a_size_if_a_layer_has_that_size_afterwards():
    layer = DynamicLayer()
    layer.update(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 5, 2))
    if release.crops_to_a_size():
        layer.crop(2)
    else:
        with pytest.raises(ValueError):
            layer.crop(2)
        layer.crop(-3)  # how many go
    assert layer.get_seq_length() == 2


def test_tested_releases_are_silent_to_their_last_patch_and_the_others_warn_once():
    release._warn_if_untested.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for version in ("5.17.0", "5.17.3", "5.20.0", "5.24.0", "5.24.9", "5.24.0.dev0"):
            release._warn_if_untested(version)
    for version in ("4.57.1", "5.16.9", "5.25.0", "6.0.0", "6.18.0"):
        with pytest.warns(UserWarning, match=f"transformers {version} is untested"):
            release._warn_if_untested(version)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            release._warn_if_untested(version)


class Layer(nn.Module):
    def forward(self, hidden_states, attention_mask=None, cache=None, **kwargs):
        return hidden_states


class Older(nn.Module):
    def forward(self, hidden_states, past_key_values=None):
        return hidden_states


class Neither(nn.Module):
    def forward(self, hidden_states):
        return hidden_states


def test_arguments_are_named_as_the_forward_names_them():
    assert release.arguments(Layer(), (), {"a": 1}) == {"a": 1}
    found = release.arguments(Layer(), (5, 6), {"cache": 7, "more": 8})
    assert found == {"hidden_states": 5, "attention_mask": 6, "cache": 7, "more": 8}
    assert release.arguments(Layer(), (5,), {}) == {"hidden_states": 5}


def test_the_cache_goes_by_the_name_that_the_forward_has():
    assert release.cache_name(Layer()) == "cache"
    assert release.cache_name(Older()) == "past_key_values"
    with pytest.raises(release.UnknownRelease, match=r"Neither\.forward takes neither of cache"):
        release.cache_name(Neither())
    assert release.given_cache({"cache": 1, "past_key_values": None}) == 1
    assert release.given_cache({"past_key_values": 2, "cache": None}) == 2
    assert release.given_cache({}) is None
    assert release.cache_of({"past_key_values": 3}) == 3
    assert release.cache_of({"cache": 4, "past_key_values": 3}) == 4
    assert release.cache_of({"logits": 0}) is None


def test_lengths_are_compared_layer_by_layer():
    layers = [SimpleNamespace(get_seq_length=lambda n=n: n) for n in (7, 7, 4)]
    cache = SimpleNamespace(layers=layers)
    release.check_lengths(cache, [7, 7, 4])
    for wrong in ([7, 7, 5], [7, 7], [4, 7, 7]):
        with pytest.raises(release.UnknownRelease, match=r"holds \[7, 7, 4\] .* instead of"):
            release.check_lengths(cache, wrong)


def test_the_backward_pass_is_known_from_inside_it():
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = (x * 2).sum()
    y.register_hook(lambda grad: seen.append(release.inside_backward()))
    assert not release.inside_backward()
    y.backward()
    assert seen == [True] and not release.inside_backward()


@pytest.mark.parametrize("older", [True, False])
def test_what_a_crop_means_is_asked_of_a_layer_without_keys(older, monkeypatch):
    class Cropped:
        def crop(self, length):
            if not older and length > 0:
                raise ValueError("how many go, so a negative number")

    monkeypatch.setattr(release, "DynamicLayer", Cropped)
    assert release.crops_to_a_size() is older


def test_a_layer_or_a_model_that_is_called_in_another_way_is_refused(monkeypatch):
    class Model(nn.Module):
        def forward(self, cache=None):
            return cache

    class Full(nn.Module):
        def forward(self, hidden_states, attention_mask, position_embeddings, cache=None):
            return hidden_states

    seen = []
    monkeypatch.setattr(release, "_warn_if_untested", seen.append)
    release.check(Model(), nn.ModuleList([Full(), Full()]))
    assert seen == [release.transformers.__version__]
    with pytest.raises(release.UnknownRelease, match=r"Layer\.forward takes no position_embedding"):
        release.check(Model(), nn.ModuleList([Full(), Layer()]))
    with pytest.raises(release.UnknownRelease, match=r"Older\.forward takes no attention_mask"):
        release.check(Model(), nn.ModuleList([Older()]))
    with pytest.raises(release.UnknownRelease, match=r"Neither\.forward takes neither"):
        release.check(Neither(), nn.ModuleList([Full()]))
    assert len(seen) == 1
