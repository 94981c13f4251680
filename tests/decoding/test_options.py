"""Every option of `generate` is honoured by the decoder or refused by its name; none is ignored."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from transformers import GenerationConfig, StoppingCriteriaList

from lib.decoding import StaticDecoder
from lib.decoding.options import plan
from tests.tiny import one, tiny_llava

MODEL = tiny_llava()
DECODER = StaticDecoder(MODEL)
PROMPT = one()["input_ids"].shape[1]

#: a value of each option that would change what greedy search does, or might
TELLING = {
    "repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "suppress_tokens": [26, 58],
    "begin_suppress_tokens": [26], "bad_words_ids": [[26]], "forced_bos_token_id": 5,
    "forced_eos_token_id": 5, "min_length": 60, "min_new_tokens": 3, "num_beams": 3,
    "num_return_sequences": 2, "do_sample": True, "prompt_lookup_num_tokens": 2,
    "assistant_early_exit": 2, "guidance_scale": 1.5, "sequence_bias": [[[26], -9.0]],
    "exponential_decay_length_penalty": (2, 1.5), "renormalize_logits": True,
    "remove_invalid_values": True, "encoder_repetition_penalty": 1.5,
    "encoder_no_repeat_ngram_size": 2, "penalty_alpha": 0.6, "dola_layers": "low",
    "stop_strings": "a", "max_time": 1.0, "token_healing": True, "constraints": [1],
    "force_words_ids": [[3]], "num_beam_groups": 2, "return_dict_in_generate": True,
    "output_scores": True, "output_logits": True, "output_attentions": True,
    "output_hidden_states": True, "cache_implementation": "static", "prefill_chunk_size": 8,
    "watermarking_config": {"bias": 2.5},
}  # fmt: skip
ARGUMENTS = {
    "logits_processor": [lambda ids, scores: scores],
    "stopping_criteria": StoppingCriteriaList([1]),
    "prefix_allowed_tokens_fn": lambda batch, ids: [3], "streamer": 1, "assistant_model": MODEL,
    "negative_prompt_ids": torch.ones(1, 2), "custom_generate": lambda *a, **k: None,
    "inputs_embeds": torch.ones(1, 2, 32), "past_key_values": 1, "cache": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TELLING))
@pytest.mark.parametrize("where", ["call", "config", "file"])
def test_what_would_change_the_tokens_is_refused_by_name(name, where, monkeypatch):
    value, options = TELLING[name], {"max_new_tokens": 4}
    if name == "watermarking_config" and where == "config":
        pytest.skip("a configuration object takes no dictionary for it")
    if name not in GenerationConfig().to_dict():
        with pytest.raises(ValueError, match=name):
            DECODER.generate(**one(), **options, **{name: value})
        return
    if where == "call":
        options[name] = value
    elif where == "config":
        options = {"generation_config": GenerationConfig(max_new_tokens=4)}
        setattr(options["generation_config"], name, value)
    else:
        monkeypatch.setattr(MODEL.generation_config, name, value)
        if name == "do_sample":  # the decoder is greedy whatever a checkpoint's file prefers
            assert DECODER.generate(**one(), **options).shape[1] == PROMPT + 4
            return
    with pytest.raises(ValueError, match=name):
        DECODER.generate(**one(), **options)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_arguments_of_generate_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"one sequence a prompt; {name} is not supported"):
        DECODER.generate(**one(), max_new_tokens=4, **{name: ARGUMENTS[name]})


def test_what_nobody_knows_is_named():
    with pytest.raises(ValueError, match="has 'max_new_token'"):
        DECODER.generate(**one(), max_new_token=4)


def test_every_option_of_this_release_is_accounted_for():
    """An option that a new release brings is refused unless it is known to have no effect."""
    for name in GenerationConfig().to_dict():
        if name in TELLING or name in ("transformers_version", "_from_model_config"):
            continue
        try:
            plan(MODEL, PROMPT, {"max_new_tokens": 4, name: 7})
        except ValueError as error:
            assert name in str(error)
            continue
        # accepted: then the tokens are those of generate
        options = {"max_new_tokens": 4, name: 7}
        with torch.no_grad():
            got = DECODER.generate(**one(), **options)
            try:
                want = MODEL.generate(**one(), **({"do_sample": False} | options))
            except (TypeError, AttributeError):  # 7 makes no sense for this one
                continue
        assert torch.equal(got, want), name


LENGTHS = st.fixed_dictionaries(
    {},
    optional={
        "max_new_tokens": st.integers(1, 9),
        "max_length": st.integers(PROMPT - 2, PROMPT + 9),
        "eos_token_id": st.sampled_from([5, [12, 26], 58]),
        "pad_token_id": st.sampled_from([0, 7]),
        "temperature": st.just(0.7),
        "top_k": st.just(5),
        "use_cache": st.just(True),
        "num_beams": st.just(1),
        "repetition_penalty": st.just(1.0),
    },
)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, LENGTHS)
def test_lengths_and_ends_are_read_as_generate_reads_them(call, file):
    """In the call and in the model's own generation configuration."""
    before = MODEL.generation_config
    MODEL.generation_config = GenerationConfig(**({"pad_token_id": 0} | file))
    try:
        with torch.no_grad():
            try:
                want = MODEL.generate(**one(), do_sample=False, **call)
            except ValueError:
                want = None
            if want is None:
                with pytest.raises(ValueError, match=r"max_length|max_new_tokens"):
                    DECODER.generate(**one(), **call)
            else:
                assert torch.equal(DECODER.generate(**one(), **call), want)
    finally:
        MODEL.generation_config = before
