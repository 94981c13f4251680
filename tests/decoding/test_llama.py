"""What is fused of a Llama layer computes what the layer computes."""

import threading
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from transformers.models.llama import modeling_llama
from transformers.utils import import_utils

from lib.decoding import StaticDecoder
from lib.decoding.llama import FusedLayers, attention_by_products
from lib.pruning import create
from lib.pruning.engine import release
from lib.pruning.families import resolve
from tests.decoding.test_decoder import Pretended, needs_gpu
from tests.tiny import batch, one, prompt, ragged, tiny_llava


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_attention_by_products(kv_heads, device):
    generator = torch.Generator().manual_seed(kv_heads)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(device)

    query = normal(2, 6, 1, 16)
    keys, values = normal(2, kv_heads, 40, 16), normal(2, kv_heads, 40, 16)
    mask = torch.zeros(2, 1, 1, 40, device=device)
    mask[0, ..., 30:], mask[1, ..., :7] = float("-inf"), float("-inf")
    found = attention_by_products(query, keys, values, mask, 0.3)
    each = 6 // kv_heads
    wide = (part.double().repeat_interleave(each, 1) for part in (keys, values))
    want = F.scaled_dot_product_attention(query.double(), *wide, mask.double(), scale=0.3)
    assert (found - want).abs().max() < 1e-5
    halves = (part.bfloat16() for part in (query, keys, values, mask))
    assert (attention_by_products(*halves, 0.3).double() - want).abs().max() < 0.03


@pytest.mark.parametrize(
    "major, dtype, there, enabled, products",
    [
        (9, torch.bfloat16, True, True, False), (10, torch.float16, True, True, False),
        (8, torch.bfloat16, True, True, True), (12, torch.bfloat16, True, True, True),
        (9, torch.float32, True, True, True), (9, torch.bfloat16, False, True, True),
        (9, torch.bfloat16, True, False, True),
    ],
)  # fmt: skip
def test_products_stand_where_cudnn_would_not(monkeypatch, major, dtype, there, enabled, products):
    decoder = StaticDecoder(tiny_llava().to(dtype), compiled=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (major, 0))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: there)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: enabled)
    decoder._fused = None
    assert not decoder._by_products()  # nothing is compiled
    decoder._fused = FusedLayers(resolve(decoder.model).layers, uncompiled)
    assert decoder._by_products() == products


def test_one_compilation_serves_every_capacity_and_one_each_batch(monkeypatch):
    model, compiled = tiny_llava(), []

    def counting(module, _):
        compiled.append(module)
        return module.forward

    torch._dynamo.reset()
    decoder = StaticDecoder(model, compiled=True)
    # as on a GPU that does without cuDNN's attention, but for the compiler
    decoder._fused = FusedLayers(resolve(model).layers, uncompiled)
    monkeypatch.setattr(decoder, "_by_products", lambda: True)
    for name in ("_heads", "_products", "_rest"):
        whole = torch.compile(getattr(decoder, name), dynamic=False, backend=counting)
        monkeypatch.setattr(decoder, name, whole)
    for rows in (2, 3):
        for new in (3, 80, 150):  # capacities of 64, 128 and 256 positions
            prompts = [prompt(before=3, after=4, seed=row) for row in range(rows)]
            inputs = batch(prompts, rows)
            want = model.generate(**inputs, do_sample=False, max_new_tokens=new)
            assert torch.equal(decoder.generate(**inputs, max_new_tokens=new), want)
        assert len(compiled) == 3 * (rows - 1)


def uncompiled(function, *, dynamic):
    return function


def counting(calls):
    """A compiler whose functions note the thread that calls them, and themselves."""

    def compiler(function, *, dynamic):
        def counted(*args, **kwargs):
            calls.append((threading.get_ident(), function))
            return function(*args, **kwargs)

        return counted

    return compiler


def states_of(model):
    """What fusing replaces for a while."""
    masks, dynamo = release.masking_utils, torch._dynamo.config
    found = [modeling_llama.apply_rotary_pos_emb, masks.is_tracing, dynamo.recompile_limit]
    return found + [module.forward for module in resolve(model).layers.modules()]


@pytest.mark.parametrize("name", [None, "fastv", "sparsevlm"])
def test_a_prompt_read_with_its_small_kernels_written_out(name):
    model, inputs = tiny_llava(), ragged()
    layers, calls = resolve(model).layers, []
    layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    fused = FusedLayers(layers, uncompiled)
    with torch.inference_mode(), (create(name) if name else create("random", keep=1.0))(model):
        want = model(**inputs).logits
        with fused.used():
            found = model(**inputs).logits
    assert len(calls) == 2
    assert torch.allclose(found, want, atol=1e-5)


def test_a_prompt_that_fails_leaves_everything_as_it_was():
    model = tiny_llava()
    before = states_of(model)
    fused = FusedLayers(resolve(model).layers, uncompiled)
    failing = pytest.raises(RuntimeError, match="on purpose")
    with failing, fused.used(), release.causal_without_mask():
        assert all(a != b for a, b in zip(states_of(model)[:3], before))
        raise RuntimeError("on purpose")
    assert states_of(model) == before


def test_other_threads_and_models_are_left_alone():
    """Two blocks that would overlap, and a thread that reads plainly meanwhile."""
    models = [tiny_llava(), tiny_llava(seed=1)]
    before = [states_of(model) for model in models]
    calls, inside = [], threading.Event()
    fused = [FusedLayers(resolve(model).layers, counting(calls)) for model in models]

    def second():
        inside.wait()
        models[0](**one())  # plainly, while the first block is open
        with fused[1].used():
            models[1](**one())
        seen.append(threading.get_ident())

    seen = []
    thread = threading.Thread(target=second)
    thread.start()
    with fused[0].used():
        inside.set()
        models[0](**one())
        own = len(calls)
        assert {thread for thread, _ in calls} == {threading.get_ident()} and not seen
    thread.join()
    assert {thread for thread, _ in calls[own:]} == set(seen)
    assert [states_of(model) for model in models] == before


def test_an_mlp_with_hooks_inside_is_left_as_it_is():
    model = tiny_llava()
    layers = resolve(model).layers
    layers[2].mlp.down_proj.register_forward_hook(lambda module, args, output: 2 * output)
    want = model(**one()).logits
    with FusedLayers(layers, uncompiled).used():
        assert torch.allclose(model(**one()).logits, want, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "saved", "norm", "kernel"])
def test_layers_that_are_more_than_their_weights_are_refused(kind):
    model = tiny_llava()
    if kind == "kernel":
        mlp = resolve(model).layers[3].mlp
        mlp.forward = lambda x: type(mlp).forward(mlp, x)
    else:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, {
            "lora": lambda: peft.LoraConfig(target_modules=["o_proj"]),
            "saved": lambda: peft.LoraConfig(
                target_modules=["lm_head"], modules_to_save=["input_layernorm"]
            ),
            "norm": lambda: peft.LNTuningConfig(target_modules=["post_attention_layernorm"]),
        }[kind]())  # fmt: skip
    words = {"kernel": "forward of its own", "lora": "own linear projections, not peft."}
    with pytest.raises(TypeError, match=words.get(kind, "LlamaRMSNorm, not peft.")):
        StaticDecoder(model, compiled=True)
    assert not StaticDecoder.repeatable(model).options()["compiled"]


def test_repeatable_decoders_capture_at_once():
    decoder = StaticDecoder.repeatable(tiny_llava())
    assert decoder.options() == {"compiled": False, "capture_prefill": "at once"}


def test_prompts_are_fused_where_they_are_captured():
    model, calls = tiny_llava(), []
    decoder = Pretended(model)
    decoder._fused = FusedLayers(resolve(model).layers, counting(calls))
    for captured in (False, True, False):  # the first of a shape runs plainly, a replay is done
        calls.clear()
        want = model.generate(**one(), do_sample=False, max_new_tokens=4)
        assert torch.equal(decoder.generate(**one(), max_new_tokens=4), want)
        assert len(set(calls)) == (3 if captured else 0)


@pytest.mark.parametrize("name", [None, "random"])
def test_no_mask_is_built_for_a_capture_where_none_is_built_else(name, monkeypatch):
    model = tiny_llava()
    want = model(**one()).logits
    monkeypatch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
    given = {k: v for k, v in one().items() if k != "attention_mask"}
    pruner = create("random", keep=0.5, layer=2)(model) if name else nullcontext()
    with pruner, release.causal_without_mask(), watched(model, always=True) as masks:
        found = model(**given).logits
    assert len(masks) == len(resolve(model).layers)
    assert all(mask is None for mask in masks)
    if name is None:
        assert torch.allclose(found, want, atol=1e-5)


@contextmanager
def watched(model, *, always=False):
    """The attention masks that the layers are given, unless `always` while a graph is captured."""
    masks = []

    def look(module, args, kwargs):
        if always or torch.cuda.is_current_stream_capturing():
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
