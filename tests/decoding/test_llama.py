"""What is fused of a Llama layer computes what the layer computes."""

from contextlib import contextmanager

import pytest
import torch

from lib.decoding import StaticDecoder
from lib.decoding.llama import Prompts
from lib.pruning import create
from lib.pruning.engine import release
from lib.pruning.families import resolve
from tests.decoding.test_decoder import Pretended
from tests.tiny import batch, one, prompt, ragged, tiny_llava


def uncompiled(function, *, dynamic):
    return function


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", [None, "fastv", "sparsevlm"])
def test_a_prompt_read_with_its_small_kernels_written_out(name):
    model, inputs = tiny_llava(), ragged()
    layers = resolve(model).layers
    before = model.model.language_model.layers[0].forward
    calls = []
    layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    prompts = Prompts(layers, uncompiled)
    with torch.inference_mode(), (create(name) if name else create("random", keep=1.0))(model):
        want = model(**inputs).logits
        with prompts.fused():
            found = model(**inputs).logits
    assert len(calls) == 2
    assert torch.allclose(found, want, atol=1e-5)
    assert model.model.language_model.layers[0].forward == before
    assert all("forward" not in vars(module) for module in layers.modules())


def test_a_prompt_that_fails_leaves_the_model_as_it_was():
    model = tiny_llava()
    layers = resolve(model).layers
    prompts = Prompts(layers, uncompiled)
    with pytest.raises(RuntimeError, match="on purpose"), prompts.fused():
        raise RuntimeError("on purpose")
    assert all("forward" not in vars(module) for module in layers.modules())
    assert torch.equal(model(**one()).logits, tiny_llava()(**one()).logits)


def test_prompts_are_fused_where_they_are_captured():
    model, calls = tiny_llava(), []

    def counting(function, *, dynamic):
        def counted(*args, **kwargs):
            calls.append(function)
            return function(*args, **kwargs)

        return counted

    decoder = Pretended(model)
    decoder._prompts = Prompts(resolve(model).layers, counting)
    for captured in (False, True, False):  # the first of a shape runs plainly, a replay is done
        calls.clear()
        want = model.generate(**one(), do_sample=False, max_new_tokens=4)
        assert torch.equal(decoder.generate(**one(), max_new_tokens=4), want)
        assert len(set(calls)) == (3 if captured else 0)


def test_no_mask_is_built_for_a_capture_where_none_is_built_else(monkeypatch):
    masks = release.masking_utils
    monkeypatch.setattr(masks, "is_tracing", lambda tensor=None: True)
    before = masks.is_tracing
    with release.causal_without_mask():
        assert not masks.is_tracing()
        assert masks.is_tracing(torch.ones(1, 3))  # its values may not be looked at
    assert masks.is_tracing is before


def test_projections_that_are_more_than_their_weights_are_refused():
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny_llava(), peft.LoraConfig(target_modules=["o_proj"]))
    with pytest.raises(TypeError, match=r"own linear projections, not peft\.tuners\."):
        StaticDecoder(adapted, compiled=True)
    assert not StaticDecoder.repeatable(adapted).options()["compiled"]


def test_repeatable_decoders_capture_at_once():
    decoder = StaticDecoder.repeatable(tiny_llava())
    assert decoder.options() == {"compiled": False, "capture_prefill": "at once"}


@contextmanager
def watched(model):
    """The attention masks that the layers are given while a graph is captured."""
    masks = []

    def look(module, args, kwargs):
        if torch.cuda.is_current_stream_capturing():
            masks.append(kwargs.get("attention_mask"))

    layers = resolve(model).layers
    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        yield masks
    finally:
        for hook in hooks:
            hook.remove()


@needs_gpu
@pytest.mark.parametrize("name", ["unpruned", "random", "fastv", "entropy"])
def test_a_captured_prompt_without_padding_needs_no_mask(name):
    model = tiny_llava().cuda()
    inputs = {k: v.cuda() for k, v in batch([prompt(before=3, after=4)] * 2, 2).items()}
    decoder = StaticDecoder(model, capture_prefill="at once")
    options = {"keep": 1.0} if name == "unpruned" else {"keep": 0.5, "layer": 2}
    with create("random" if name == "unpruned" else name, **options)(model), watched(model) as seen:
        decoder.generate(**inputs, max_new_tokens=2)
    assert decoder.captured
    assert len(seen) == len(resolve(model).layers)
    assert all(mask is None for mask in seen)


@needs_gpu
@pytest.mark.parametrize("way", [True, "at once"])
@pytest.mark.parametrize("name", [None, "random", "fastv", "entropy", "tome", "sparsevlm"])
def test_fused_kernels_yield_the_same_tokens(name, way):
    model = tiny_llava().cuda()
    decoder = StaticDecoder(model, compiled=True, capture_prefill=way)
    assert StaticDecoder.repeatable(model).options()["compiled"]
    with (create(name) if name else create("random", keep=1.0))(model):
        for seed in range(3):
            prompts = [prompt(before=3, after=4 + seed // 2, seed=s + seed) for s in range(2)]
            inputs = {k: v.cuda() for k, v in batch(prompts, 2, seed=seed).items()}
            want = model.generate(**inputs, do_sample=False, max_new_tokens=9)
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=9), want)
