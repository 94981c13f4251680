"""What a hook stores belongs to one pass, and to the objects of one block."""

import contextlib
import copy
import gc
import sys
import threading
import weakref
from collections import Counter

import pytest
import torch

from lib.pruning import FastV, available, create
from lib.pruning.engine import stages
from lib.pruning.engine.passes import Doubt
from tests.pruning.engine.common import GREEDY, kept
from tests.tiny import batch, one, prompt, ragged, tiny_llava


@pytest.mark.parametrize("name", available())
def test_features_computed_in_the_block_keep_their_own_images(model, name):
    """Encoded beforehand, used twice, in any order: the choice is that of the image at hand."""
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers takes no encoded features")
    a, b = one(seed=1), one(seed=2)
    with create(name)(model) as pruner:
        want = {}
        for key, inputs in (("a", a), ("b", b)):
            model(**inputs)
            want[key] = kept(pruner)
        features = {
            key: model.model.get_image_features(inputs["pixel_values"], return_dict=True)
            for key, inputs in (("a", a), ("b", b))
        }
        for key in "abba":
            inputs = {k: v for k, v in {"a": a, "b": b}[key].items() if k != "pixel_values"}
            # what other modalities lack is no reason to look for nothing
            encoded = {"image": copy.copy(features[key]), "video": None}
            model(**inputs, mm_encoder_outputs=encoded)
            assert kept(pruner) == want[key]


@pytest.mark.parametrize("name", ["entropy", "selection", "random", "tome"])
def test_features_computed_before_the_block_are_refused(model, name):
    inputs = one()
    features = model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers takes no encoded features")
    with create(name)(model), pytest.raises(ValueError, match="computed outside of the with-block"):
        model(**inputs, mm_encoder_outputs={"image": features})
    with FastV()(model) as pruner:  # needs nothing of the vision tower
        model(**inputs, mm_encoder_outputs={"image": features})
        assert len(pruner.kept[0]) == 18


@pytest.mark.parametrize("name", available())
def test_an_exception_leaves_nothing_behind(model, name):
    with create(name)(model) as pruner:
        model(**one(seed=1))
        before = kept(pruner)
        with pytest.raises(ValueError):
            model(**(one(seed=2) | {"pixel_values": torch.zeros(1, 3, 5, 5)}))
        assert not pruner.in_pass and kept(pruner) == before
        model(input_ids=torch.tensor([[1, 5, 6]]))
        model(**one(seed=2))
        again = kept(pruner)
    with create(name)(model) as fresh:
        model(**one(seed=2))
        assert kept(fresh) == again


@pytest.fixture
def restless():
    """Threads that take turns every tenth of a millisecond: within a pass, many times."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", available())
def test_several_threads_each_get_their_own(model, restless, name):
    inputs = [batch([prompt(before=4 + s, after=5 + s, seed=s)], 1, seed=s) for s in range(3)]
    results = Counter()
    with create(name)(model) as pruner:
        want = [(model.generate(**i, **GREEDY), kept(pruner)) for i in inputs]

        def work(k):
            with torch.no_grad():
                for _ in range(2):
                    out = model.generate(**inputs[k], **GREEDY)
                    right = torch.equal(out, want[k][0]) and kept(pruner) == want[k][1]
                    results[right] += 1

        threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {True: 6}


@contextlib.contextmanager
def activations(model):
    """What the model's modules compute inside the block, as weak references; the garbage collector
    does not run there, as it may not between two prompts on a GPU."""
    alive, language = [], model.model.language_model.layers

    def remember(module, args, kwargs, output):
        alive.append(weakref.ref(output if isinstance(output, torch.Tensor) else output[0]))
        for cache in [kwargs.get("past_key_values")] if module is language[-1] else []:
            if cache is not None:
                alive.extend(weakref.ref(layer.keys) for layer in cache.layers)

    modules = [*model.model.vision_tower.encoder.layers, model.model.multi_modal_projector]
    modules += [*language, *(layer.self_attn.k_proj for layer in language)]
    handles = [m.register_forward_hook(remember, with_kwargs=True) for m in modules]
    gc.disable()
    try:
        yield alive
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", available())
def test_no_activation_outlives_its_pass(model, name, cached):
    """Tensors of a prefill die with it, whether or not the block goes on."""
    with activations(model) as alive, create(name)(model):
        model(**ragged(), use_cache=cached)
        assert alive and not [r for r in alive if r() is not None]


@pytest.mark.parametrize("broken", [None, "a layer", "an image"])
@pytest.mark.parametrize("name", ["fastv", "random"])
def test_no_activation_outlives_a_pass_that_fails(model, name, broken, monkeypatch):
    """A layer raises in the pass; an image that is no number is named at its end, as on a GPU."""
    monkeypatch.setattr(
        stages, "_must_hold", lambda pass_, *doubt: pass_.doubts.append(Doubt(*doubt))
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    inputs, last = ragged(), model.model.language_model.layers[-1]
    if broken == "an image":
        inputs["pixel_values"][2, 0, 5, 5] = torch.nan

    def fail(module, args, output):
        raise KeyError("stop")

    with activations(model) as alive, create(name)(model):
        handle = last.register_forward_hook(fail) if broken == "a layer" else None
        errors = {"a layer": KeyError, "an image": ValueError}
        with pytest.raises(errors[broken]) if broken else contextlib.nullcontext():
            model(**inputs)
        if handle:
            handle.remove()
        assert alive and not [r for r in alive if r() is not None]


def test_a_copy_made_in_the_block_is_refused(model, tmp_path):
    with create("fastv")(model):
        with pytest.raises(RuntimeError, match="cannot be copied or saved as an object inside"):
            copy.deepcopy(model)
        with pytest.raises(RuntimeError, match="cannot be copied or saved"):
            torch.save(model, tmp_path / "model.pt")
        torch.save(model.state_dict(), tmp_path / "weights.pt")
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**one()).logits, model(**one()).logits)


def test_gradient_checkpointing_is_refused_and_training_without_it_works():
    model = tiny_llava().train()
    inputs = one() | {"labels": one()["input_ids"]}
    with torch.enable_grad(), create("fastv", mode="mask")(model):
        model(**inputs).loss.backward()
    grad = model.model.language_model.layers[0].mlp.up_proj.weight.grad
    assert grad is not None and grad.isfinite().all()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with (
        torch.enable_grad(),
        create("fastv", mode="mask")(model),
        pytest.raises(RuntimeError, match="gradient_checkpointing_disable"),
    ):
        model(**inputs)
    model.gradient_checkpointing_disable()

    def whole(embeds):
        inputs = one() | {"inputs_embeds": embeds, "input_ids": None}
        return model(**inputs, use_cache=False).logits

    embeds = model.get_input_embeddings()(one()["input_ids"]).detach().requires_grad_()
    layer = model.model.language_model.layers[3]
    original = layer.forward

    def checkpointed(*args, **kwargs):
        return torch.utils.checkpoint.checkpoint(original, *args, **kwargs, use_reentrant=False)

    layer.forward = checkpointed  # below the hooks: computed again without them
    with torch.enable_grad(), create("fastv", mode="mask")(model):
        whole(embeds).sum().backward()
    assert embeds.grad.isfinite().all()
