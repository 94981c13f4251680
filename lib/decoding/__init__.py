"""Greedy decoding near the hardware's limit.

`generate` launches over a thousand small kernels a token, which hides at batch 1 what pruning
saves. `StaticDecoder` yields the same tokens: the prefill runs through the model's own forward with
whatever pruner is active, its keys and values move into buffers that have each layer's own length,
and the decoding step is captured once in a CUDA graph and replayed. A prefill of a shape that comes
again is captured as well: vision tower, scorer and language model in one graph. Without a GPU the
same functions run uncaptured, which is how the tests compare them with `generate`.

Attention is PyTorch's choice. On a recent GPU in half precision that may be cuDNN's, the fastest,
whose step rounds differently from call to call.

    decoder = StaticDecoder(model)
    with EntropyPrune(keep=0.5)(model):
        ids = decoder.generate(**inputs, max_new_tokens=64)
"""

from .decoder import StaticDecoder

__all__ = ["StaticDecoder"]
