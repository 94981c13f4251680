"""The fast path on every family: what `generate` yields, with and without a pruner."""

import pytest
import torch

from lib.decoding import StaticDecoder
from lib.pruning import create
from tests.pruning.families.tiny import ALL, MORE

KINDS = [(name, "ragged") for name in [*ALL, *MORE]]
KINDS += [(name, "video") for name, tiny in ALL.items() if tiny.video]


#: a GPU, where there is one, runs captured steps
DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name, kind", KINDS)
def test_the_fast_path_yields_what_generate_yields(name, kind, device):
    tiny = (ALL | MORE)[name]
    model, inputs = tiny.model().to(device), tiny.inputs(kind)
    inputs = {key: value.to(device) for key, value in inputs.items()}
    decoder, new = StaticDecoder(model), {"max_new_tokens": 6}
    assert torch.equal(
        decoder.generate(**inputs, **new), model.generate(**inputs, **new, do_sample=False)
    )
    for method, options in (("fastv", {"layer": 2}), ("entropy", {"layer": 1, "mode": "mask"})):
        with create(method, keep=0.4, **options)(model) as pruner:
            want = model.generate(**inputs, **new, do_sample=False)
            sets = [kept.tolist() for kept in pruner.kept]
            assert torch.equal(decoder.generate(**inputs, **new), want)
            assert [kept.tolist() for kept in pruner.kept] == sets


def test_a_prompt_of_words_alone():
    for name in ("qwen2_5_vl", "qwen3_vl", "smolvlm"):
        model = (ALL | MORE)[name].model()
        ids = torch.tensor([[0, 1, 5, 6, 7], [1, 8, 9, 10, 11]])
        inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "max_new_tokens": 4}
        want = model.generate(**inputs, do_sample=False)
        assert torch.equal(StaticDecoder(model).generate(**inputs), want)


def test_fused_layers_are_llamas_alone():
    with pytest.raises(TypeError, match="written for Llama's layers, not Qwen2DecoderLayer"):
        StaticDecoder(ALL["internvl"].model(), compiled=True)
