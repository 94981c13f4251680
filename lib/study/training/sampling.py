"""Several captions an image at once, greedy or sampled, the prompt read once for all of them.

The layout is that of `packing`, word by word: at each step the language model reads one word of
every caption, which sees the prompt's keys and its own caption's. Used for rollouts and for quick
scores while training; the study itself captions through `lib.decoding` or ``generate``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .packing import prompt_embeddings


class PackedDecoder:
    """Decode with a language model's own layers.

    Parameters
    ----------
    language : the LLaMA inside a LLaVA, or a copy without adapters (`adapters.PlainCopy`), which
        runs a third as many kernels.
    head : from its states to logits.
    prompt : token ids before and after the image.
    end : token id that ends a caption.
    """

    def __init__(
        self,
        language: LlamaModel,
        head: nn.Module,
        prompt: tuple[list[int], list[int]],
        end: int,
        *,
        max_new_tokens: int = 24,
    ) -> None:
        self.language, self.head, self.prompt, self.end = language, head, prompt, end
        self.max_new_tokens = max_new_tokens

    @torch.no_grad()
    def __call__(
        self,
        visual: torch.Tensor,
        *,
        captions: int = 1,
        sample: bool = False,
        generator: torch.Generator | None = None,
        keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Decode.

        Parameters
        ----------
        visual : (B, N, D) projected visual tokens.
        captions : S, how many of each image.
        sample : draw from the model's distribution instead of taking the likeliest word.
        keep : (B, N) boolean; the other visual tokens are hidden, positions stay.

        Returns
        -------
        (B, S, T) token ids, filled up with the end token; T at most `max_new_tokens`.
        """
        start = prompt_embeddings(self.language, visual, self.prompt)
        size, length, _ = start.shape
        room = length + captions * self.max_new_tokens
        cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        positions = torch.arange(length, device=visual.device).expand(size, -1)
        shown, first = None, None
        if keep is not None:
            shown = torch.ones((size, length), dtype=torch.bool, device=visual.device)
            shown[:, len(self.prompt[0]) : len(self.prompt[0]) + keep.shape[1]] = keep
            square = torch.ones((length, length), dtype=torch.bool, device=visual.device)
            own = torch.eye(length, dtype=torch.bool, device=visual.device)
            first = ((square.tril() & shown[:, None, :]) | own)[:, None]
        states = self._run(start, positions, cache, 0, room, first)[:, -1:]
        logits = self._logits(states).expand(-1, captions, -1)
        said, done = [], torch.zeros((size, captions), dtype=torch.bool, device=visual.device)
        owner = torch.arange(captions, device=visual.device)
        for number in range(self.max_new_tokens):
            word = self._choose(logits, sample, generator)
            word = torch.where(done, self.end, word)
            said.append(word)
            done = done | (word == self.end)
            if number == self.max_new_tokens - 1 or bool(done.all()):
                break
            words = self.language.embed_tokens(word).to(start.dtype)
            positions = torch.full_like(word, length + number)
            used = length + captions * (number + 1)
            seen = torch.cat([owner.new_full((length,), -1), owner.repeat(number + 1)])
            mask = (seen[None] == owner[:, None]) | (seen[None] < 0)
            if shown is not None:
                mask = mask.expand(size, -1, -1).clone()
                mask[:, :, :length] = shown[:, None, :]
                mask = mask[:, None]
            states = self._run(words, positions, cache, used - captions, room, mask)
            logits = self._logits(states)
        return torch.stack(said, 2)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.head(self.language.norm(states)).float()

    @staticmethod
    def _choose(logits, sample, generator):
        if not sample:
            return logits.argmax(-1)
        noise = torch.empty_like(logits).exponential_(generator=generator)
        return (logits.softmax(-1) / noise).argmax(-1)  # a draw from the distribution

    def _run(self, states, positions, cache, first, room, mask):
        """All layers on (B, n, D) new states; their keys go to places `first`... of the cache."""
        language = self.language
        cosine, sine = language.rotary_emb(states, position_ids=positions)
        size, count, _ = states.shape
        for number, layer in enumerate(language.layers):
            attention = layer.self_attn
            inputs = layer.input_layernorm(states)
            query, key, value = (
                project(inputs).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query, key = apply_rotary_pos_emb(query, key, cosine, sine)
            groups = attention.num_key_value_groups
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
            if len(cache) == number:
                cache.append(tuple(x.new_empty((size, x.shape[1], room, x.shape[3]))
                                   for x in (key, value)))  # fmt: skip
            keys, values = cache[number]
            keys[:, :, first : first + count], values[:, :, first : first + count] = key, value
            context = F.scaled_dot_product_attention(
                query, keys[:, :, : first + count], values[:, :, : first + count],
                attn_mask=mask, is_causal=mask is None,
            )  # fmt: skip
            states = states + attention.o_proj(context.transpose(1, 2).flatten(2))
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        return states
