"""Merged tokens, their order and positions, and several stages."""

import pytest
import torch

from lib.pruning import FixedPrune, VisualPruner
from lib.pruning.engine import release
from lib.pruning.engine.sequence import Chosen
from tests.pruning.engine.common import GREEDY, kept
from tests.tiny import IMAGE, TOKENS, one, ragged


class Merging(VisualPruner):
    """Keeps every second token, in reversed order, each the mean of two."""

    reorders = True

    def select(self, images):
        hidden = images.hidden
        index = torch.arange(0, images.tokens, 2).flip(0).expand(images.count, -1)
        return Chosen(index, (hidden[:, 0::2] + hidden[:, 1::2]).flip(1) / 2)


@pytest.mark.parametrize("layer", [0, 2])
def test_merged_and_reordered_tokens_enter_as_chosen(model, layer):
    inputs, seen = ragged(), {}
    block = model.model.language_model.layers[layer]
    handle = block.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(before=args[0]), with_kwargs=True
    )
    with Merging(layer=layer)(model):
        after = block.register_forward_pre_hook(
            lambda m, args, kwargs: seen.update(after=args[0], **kwargs), with_kwargs=True
        )
        model(**inputs)
        after.remove()
    handle.remove()
    ids, image = inputs["input_ids"], 0
    for row in range(3):
        columns = (ids[row] == IMAGE).nonzero().squeeze(1)
        shift = seen["before"].shape[1] - seen["after"].shape[1]
        gone = len(columns) // 2
        for block_of in columns.split(TOKENS):
            whole = seen["before"][row, block_of]
            want = ((whole[0::2] + whole[1::2]) / 2).flip(0)
            start = int(block_of[0]) - shift + gone - 18 * (image if row != 1 else 0) * 0
            start = int(block_of[0]) - shift + (gone - 18 * ((columns < block_of[0]).sum() // 36))
            torch.testing.assert_close(seen["after"][row, start : start + 18], want)
        image += len(columns) // TOKENS
    with pytest.raises(ValueError, match="changes the order of the tokens"):
        Merging(mode="mask")


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("mode", ["inplace", "mask"])
def test_contiguous_positions_are_those_of_a_prompt_without_the_dropped_tokens(model, layer, mode):
    """In the prefill, in decoding, and in a second turn, padded rows included."""
    inputs = ragged()
    indices = [[0, 5, 9], list(range(20)), [35], [3, 4, 30, 31]]
    features = list(model.model.get_image_features(inputs["pixel_values"]).pooler_output)
    masks = []
    for chosen in indices:
        mask = torch.zeros(TOKENS, dtype=torch.bool)
        mask[chosen] = True
        masks.append(mask)
    valid = inputs["attention_mask"]
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    options = {"indices": indices, "layer": layer, "mode": mode, "positions": "contiguous"}
    with FixedPrune(**options)(model):
        out = model(**inputs, position_ids=positions, use_cache=True)
        cache, logits = release.cache_of(out), [out.logits[:, -1]]
        for step in range(2):
            valid = torch.cat([valid, torch.ones(3, 1, dtype=torch.int64)], 1)
            positions = positions[:, -1:] + 1
            out = model(
                input_ids=torch.full((3, 1), 7 + step), attention_mask=valid,
                position_ids=positions, past_key_values=cache, use_cache=True,
            )  # fmt: skip
            logits.append(out.logits[:, -1])
    first = 0
    for row, count in enumerate([1, 2, 1]):
        real = inputs["attention_mask"][row] > 0
        ids = torch.cat([inputs["input_ids"][row, real], torch.tensor([7, 8])])[None]
        own, sets = features[first : first + count], masks[first : first + count]
        want = two_speeds(model, ids, own, sets, layer)
        for step in range(3):
            torch.testing.assert_close(logits[step][row], want[0, step - 3], atol=1e-4, rtol=1e-4)
        first += count


def two_speeds(model, ids, features, masks, layer):
    """The oracle with one numbering before `layer` and a closed-up one from it on."""
    language = model.model.language_model
    states = language.embed_tokens(ids)
    image = ids == IMAGE
    states[image] = torch.cat(features)
    stay = torch.ones_like(image)
    stay[image] = torch.cat(masks)
    length = ids.shape[1]
    plain = torch.arange(length)[None]
    closed = (stay.long().cumsum(1) - 1).clamp(min=0)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for index, block in enumerate(language.layers):
        late = index >= layer
        mask = causal & stay[:, None] if late else causal[None]
        mask = mask | torch.eye(length, dtype=torch.bool)
        rotary = language.rotary_emb(states, closed if late else plain)
        states = block(states, attention_mask=mask[:, None], position_embeddings=rotary)
    return model.lm_head(language.norm(states))


class Twice(VisualPruner):
    """Two stages: half before layer 1, half of these before layer 3."""

    def stages(self):
        return (1, 3)

    def select(self, images):
        scores = images.hidden.float().norm(dim=-1)
        best = scores.topk(images.tokens // 2, dim=1).indices.sort(dim=1).values
        return Chosen(best)


@pytest.mark.parametrize("mode", ["inplace", "mask"])
def test_several_stages(model, mode):
    """Each stage sees what the one before left; caches shorten twice; cache or not, one result."""
    inputs = ragged()
    with Twice(mode=mode)(model) as pruner:
        with_cache = model.generate(**inputs, **GREEDY)
        sets = kept(pruner)
        assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), with_cache)
        cache = release.cache_of(model(**one(), use_cache=True))
        held = [layer.get_seq_length() for layer in cache.layers]
        assert held == ([46, 28, 28, 19, 19] if mode == "inplace" else [46] * 5)
        assert cache.get_seq_length() == 46
        cache.crop(-46 + 10)
        assert cache.get_seq_length() == 10
    assert [len(k) for k in sets] == [9] * 4
    with Twice(mode="mask" if mode == "inplace" else "inplace")(model) as other:
        assert torch.equal(model.generate(**inputs, **GREEDY), with_cache)
        assert kept(other) == sets
