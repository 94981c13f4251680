"""Rows of attention as methods see them, against the attention an eager model returns."""

from types import SimpleNamespace

import pytest
import torch

from lib.pruning import VisualPruner
from lib.pruning.engine.attention import LAST, LayerAttention, Watch, ahead, from_projections
from tests.tiny import IMAGE, TOKENS, batch, prompt, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava(attention="eager")


class Looking(VisualPruner):
    """Prunes nothing but looks at everything before layer 2, and before layer 3 behind a cut."""

    look = None
    cut = None

    def stages(self):
        return (2,) if self.cut is None else (1, 2)

    def attach(self, model):
        self.watch = Watch(self, 1, "qkv")

    def plan(self, tokens):
        return ()

    def select(self, images):
        if self.cut is not None and images.stage == 0:
            mask = torch.zeros_like(images.columns, dtype=torch.bool)
            mask[:, self.cut] = True
            return mask
        self.look(self, images)
        return torch.ones_like(images.columns, dtype=torch.bool)


def looked(model, look, inputs, **options):
    pruner = Looking(keep=0.5)
    pruner.look, pruner.cut = look, options.pop("cut", None)
    with torch.inference_mode(), pruner(model):
        return model(**inputs, **options)


def test_weights_are_a_softmax_over_the_keys_that_a_query_may_see():
    """Written out key by key: earlier turns with padding, groups of heads, padding of its own."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 4, 5, 8, generator=generator)
    keys = torch.randn(2, 2, 3 + 5, 8, generator=generator)
    past = torch.tensor([[False, True, True], [False, False, False]])
    valid = torch.tensor([[True] * 5, [False, False, True, True, True]])
    places = torch.tensor([[0, 2, 4], [0, 2, 3]])
    attention = LayerAttention(queries, keys, 0.3, 3, lambda states, _: states, valid, past)
    want = torch.zeros(2, 4, 3, 5, dtype=torch.float64)
    for row in range(2):
        for at, place in enumerate(places[row].tolist()):
            seen = [j for j in range(3) if past[row, j]]
            seen += [3 + j for j in range(place + 1) if valid[row, j]]
            for head in range(4):
                logits = [
                    0.3
                    * float(queries[row, head, place].double() @ keys[row, head // 2, j].double())
                    for j in seen
                ]
                shares = torch.tensor(logits, dtype=torch.float64).softmax(0)
                for j, share in zip(seen, shares):
                    if j >= 3:
                        want[row, head, at, j - 3] = share
    found = attention.weights(places)
    torch.testing.assert_close(found.double(), want, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attention.rows(places), found.mean(1))


def test_the_last_position_of_all_rows_needs_no_places(model):
    inputs, found = batch([prompt(before=4, after=5)] * 2, 2), {}

    def look(pruner, images):
        pass_ = images.prefill
        places = pass_.last(torch.device("cpu"))[:, None]
        for name, one in (
            ("taken", pruner.watch.taken(pass_)),
            ("ahead", ahead(pass_, pruner.family)),
        ):
            assert one.last(pass_) is LAST
            found[name] = one.weights(places), one.weights(LAST), one.rows(LAST)

    looked(model, look, inputs)
    for by_place, last, rows in found.values():
        assert by_place.shape == last.shape == (2, 4, 1, inputs["input_ids"].shape[1])
        torch.testing.assert_close(last, by_place, atol=1e-7, rtol=1e-6)
        torch.testing.assert_close(rows, by_place.mean(1), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("hides", ["valid", "past", "drafts"])
def test_places_are_named_where_the_last_position_is_not_all(hides):
    some = torch.tensor([[True, False, True]])
    valid, past = (some if hides == name else None for name in ("valid", "past"))
    attention = LayerAttention(
        torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 6, 4), 1.0, 3, lambda states, _: states, valid,
        past,
    )  # fmt: skip
    pass_ = SimpleNamespace(drafts=int(hides == "drafts"), last=lambda device: torch.tensor([2]))
    assert attention.last(pass_).tolist() == [[2]]
    shares = {"valid": [0.2, 0, 0.2], "past": [0.2] * 3, "drafts": [1 / 6] * 3}
    found = attention.rows(attention.last(pass_)).flatten().tolist()
    assert found == pytest.approx(shares[hides])
    attention.held, pass_.drafts = 0, 0
    assert (attention.last(pass_) is LAST) == (hides != "valid")


def test_weights_by_head_are_the_models_own(model):
    inputs, found = ragged(), {}

    def look(pruner, images):
        attention = pruner.watch.taken(images.prefill)
        length = attention.new_keys.shape[2]
        places = torch.arange(length).expand(3, -1)
        found["weights"] = attention.weights(places)
        found["rows"], found["values"] = attention.rows(places), attention.values

    with torch.inference_mode():
        plain = model(**inputs, output_attentions=True).attentions[1]
    looked(model, look, inputs)
    for row, valid in enumerate(inputs["attention_mask"].bool()):
        own = plain[row][:, valid]
        torch.testing.assert_close(found["weights"][row][:, valid], own, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found["rows"][row][valid], own.mean(0), atol=1e-6, rtol=1e-4)
        assert not found["weights"][row][:, ~valid].any()  # padding sees nothing: zeros, no NaN
    assert found["values"].shape == (3, 2, inputs["input_ids"].shape[1], 8)


def test_the_layer_ahead_is_what_it_then_computes(model):
    inputs, found = ragged(), {}

    def look(pruner, images):
        last = images.prefill.last(torch.device("cpu"))
        found["ahead"] = ahead(images.prefill, pruner.family).weights(last[:, None])[:, :, 0]

    with torch.inference_mode():
        plain = model(**inputs, output_attentions=True).attentions[2]
    looked(model, look, inputs)
    torch.testing.assert_close(found["ahead"], plain[:, :, -1], atol=1e-6, rtol=1e-4)


def test_the_layer_ahead_continues_earlier_turns_and_cuts(model):
    """Behind a cut of an earlier stage, and with keys of an earlier turn in the cache."""
    inputs, found = ragged(), {}
    words = torch.tensor([[1, 7, 8, 9]]).repeat(3, 1)
    whole = {
        "input_ids": torch.cat([words, inputs["input_ids"]], 1),
        "attention_mask": torch.cat([torch.ones_like(words), inputs["attention_mask"]], 1),
    }

    def look(pruner, images):
        last = images.prefill.last(torch.device("cpu"))
        found["ahead"] = ahead(images.prefill, pruner.family).weights(last[:, None])[:, :, 0]
        found["columns"] = images.take(found["ahead"].transpose(1, 2))

    cut = [3, 4, 5, 20, 35]
    pruner = Looking(keep=0.5)
    pruner.look, pruner.cut = look, cut
    with torch.inference_mode(), pruner(model):
        first = model(input_ids=words, use_cache=True)
        model(
            input_ids=inputs["input_ids"], attention_mask=whole["attention_mask"],
            pixel_values=inputs["pixel_values"], past_key_values=first.past_key_values,
        )  # fmt: skip
        later = found["columns"]
        model(**whole, pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(later, found["columns"], atol=1e-6, rtol=1e-4)
    assert later.shape == (4, len(cut), 4) and 0.01 < float(later.sum(1).mean()) < 1


def test_text_and_what_is_behind_each_image(model):
    inputs, seen = ragged(), {}

    def look(pruner, images):
        pass_ = images.prefill
        places, real = pass_.text()
        behind = pass_.at_present(images.text_behind, images.rows)
        seen["text"] = [p[r].tolist() for p, r in zip(places, real)]
        seen["behind"] = [b.nonzero().squeeze(1).tolist() for b in behind]
        seen["places"], seen["columns"] = images.places, images.columns

    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    for cut in (None, [0, 1, 30]):
        looked(model, look, inputs, cut=cut)
        gone = 0 if cut is None else TOKENS - len(cut)
        length = ids.shape[1] - gone  # rows with one image are the longest
        image = 0
        for row, count in enumerate((1, 2, 1)):
            kept = torch.ones(ids.shape[1], dtype=torch.bool)
            for block in (ids[row] == IMAGE).nonzero().squeeze(1).split(TOKENS):
                if cut is not None:
                    kept[block] = False
                    kept[block[cut]] = True
            columns = kept.nonzero().squeeze(1)
            offset = length - len(columns)
            text = [offset + i for i, c in enumerate(columns.tolist())
                    if valid[row, c] and ids[row, c] != IMAGE]  # fmt: skip
            assert seen["text"][row] == text
            for _ in range(count):
                last = int(seen["columns"][image].max())
                assert seen["behind"][image] == [t for t in text if t > last]
                first = (ids[row] == IMAGE).nonzero().squeeze(1)
                assert set(seen["places"][image].tolist()) <= set(first.tolist())
                image += 1


def test_drafts_are_no_text(model):
    """What assisted decoding guesses behind a prompt must not rate the image."""
    found = {}

    class Noting(Looking):
        def select(self, images):
            found["drafts"] = images.prefill.drafts
            found["text"] = [r.sum().item() for _, r in [images.prefill.text()]]
            return super().select(images)

    pruner = Noting(keep=0.5)
    pruner.look = lambda *_: None
    inputs = batch([prompt(before=3, after=5)], 1)
    with torch.inference_mode(), pruner(model):
        model.generate(**inputs, do_sample=False, max_new_tokens=4, prompt_lookup_num_tokens=2)
    assert found["text"] == [9]  # one, three and five words


def test_a_layer_without_projections_is_named(model):
    class Odd(torch.nn.Module):
        pass

    pruner = Looking()
    with pytest.raises(TypeError, match=r"queries, keys and values of Odd cannot be read"):
        attention = model.model.language_model.layers[1].self_attn
        model.model.language_model.layers[1].self_attn = Odd()
        try:
            with pruner(model):
                pass
        finally:
            model.model.language_model.layers[1].self_attn = attention


class Turning:
    """A family whose rotary embedding scales what stands at a place, by one table each."""

    @staticmethod
    def rotate(module, queries, keys, cos, sin):
        return queries * cos[:, None], keys * sin[:, None]


class Scaled(torch.nn.Module):
    """A norm by head that can be written out."""

    def __init__(self, factors):
        super().__init__()
        self.factors = torch.tensor(factors)

    def forward(self, states):
        return states * self.factors  # of one head: the last dimension is its width


def parts(normed, seed=5):
    """A layer of four heads and two groups of width 2, with tables for three places."""
    torch.manual_seed(seed)
    module = torch.nn.Module()
    module.head_dim, module.scaling = 2, 0.4
    module.q_proj, module.k_proj = torch.nn.Linear(6, 8), torch.nn.Linear(6, 4)
    if normed:
        module.q_norm, module.k_norm = Scaled([2.0, -1.0]), Scaled([0.5, 3.0])
    return module, torch.rand(1, 3, 2) + 0.5, torch.rand(1, 3, 2) + 0.5


def by_hand(module, states, cos, sin, place, normed):
    """The attention of the query at `place` over three keys, head by head."""
    found = []
    for head in range(4):
        query = module.q_proj(states[0, place])[2 * head : 2 * head + 2]
        group = slice(2 * (head // 2), 2 * (head // 2) + 2)
        keys = [module.k_proj(states[0, n])[group] for n in range(place + 1)]
        if normed:
            query = query * torch.tensor([2.0, -1.0])
            keys = [key * torch.tensor([0.5, 3.0]) for key in keys]
        logits = [0.4 * ((query * cos[0, place]) @ (key * sin[0, n])) for n, key in enumerate(keys)]
        shares = torch.stack(logits).softmax(0)
        found.append(torch.cat([shares, torch.zeros(2 - place)]))
    return torch.stack(found)


@pytest.mark.parametrize("normed", [False, True])
@torch.no_grad()
def test_the_layer_ahead_norms_its_queries_and_keys_by_head(normed):
    module, cos, sin = parts(normed)
    states = torch.randn(1, 3, 6)
    layer = SimpleNamespace(self_attn=module, input_layernorm=lambda given: 2 * given)
    upcoming = SimpleNamespace(layer=layer, rotary=(cos, sin), keys=None, past_valid=None)
    pass_ = SimpleNamespace(ahead=upcoming, entering=states, visible=None)
    weights = ahead(pass_, Turning).weights(torch.tensor([[0, 2]]))
    for at, place in enumerate((0, 2)):
        want = by_hand(module, 2 * states, cos, sin, place, normed)
        torch.testing.assert_close(weights[0, :, at], want)


@torch.no_grad()
def test_a_layer_without_a_cache_is_put_together_from_its_projections():
    module, cos, sin = parts(False)
    states = torch.randn(1, 3, 6)
    made = module.q_proj(states), module.k_proj(states)
    found = from_projections(Turning, module, *made, (cos, sin))
    assert found.held == 0 and found.values is None and found.new_keys.shape == (1, 2, 3, 2)
    for place in range(3):
        want = by_hand(module, states, cos, sin, place, False)
        torch.testing.assert_close(found.weights(torch.tensor([[place]]))[0, :, 0], want)
    hidden = from_projections(
        Turning, module, *made, (cos, sin), valid=torch.tensor([[False, True, True]])
    )
    seen = hidden.weights(torch.tensor([[2]]))[0, :, 0]
    assert not seen[:, 0].any()
    torch.testing.assert_close(seen.sum(-1), torch.ones(4))
