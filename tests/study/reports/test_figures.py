"""What the figures take from a model, checked against the model's own outputs."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.entropy import gram, unit_tokens
from lib.pruning import create
from lib.study import models
from lib.study import run as study
from lib.study.data.coco import Example
from lib.study.reports import figures
from tests import tiny

CAPTIONS = ["a red circle above a blue star on a plain background"] * 20


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "picture.png"
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    small.resize((90, 70), Image.Resampling.BICUBIC).save(path)
    return str(path)


@pytest.fixture(scope="module")
def loaded():
    """A tiny LLaVA with a real processor: 36 visual tokens, 3 + 3 layers."""
    tokenizer = models.train_tokenizer(CAPTIONS, vocab_size=400)
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "image_size": 42,
        "patch_size": 7, "num_attention_heads": 2, "projection_dim": 32,
    }  # fmt: skip
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    model = models.build_embedded(tokenizer, vision=vision, text=text).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh weights are so small that every token looks alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    processor = models.build_processor(tokenizer, image_size=42, patch_size=7)
    return models.Loaded(model, processor, "tiny")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "results_dir", lambda name: tmp_path / name)
    return tmp_path


# --- attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 11])
def test_attention_agrees_with_the_eager_model(count):
    model, eager = tiny.tiny_llava(), tiny.tiny_llava(attention="eager")
    inputs = tiny.one()
    answer = torch.randint(3, 80, (count,), generator=torch.Generator().manual_seed(count))
    shares, counts, maps = figures.attention_shares(model, inputs, answer)

    full = torch.cat([inputs["input_ids"], answer[None, :-1]], 1)
    with torch.inference_mode():
        out = eager(
            input_ids=full, pixel_values=inputs["pixel_values"], output_attentions=True,
            attention_mask=torch.ones_like(full),
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    rows = torch.stack(out.attentions)[:, 0].mean(1)[:, length - 1 :]  # (layers, count, positions)
    spots = (full[0] == tiny.IMAGE).nonzero().squeeze(1)
    first, last = int(spots[0]), int(spots[-1])
    parts = [slice(first), slice(first, last + 1), slice(last + 1, length), slice(length, None)]
    expected = torch.stack([rows[..., part].sum(-1).mean(-1) for part in parts], -1)
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps, rows[..., spots].mean(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)), atol=1e-5, rtol=0)
    assert counts == [5, tiny.TOKENS, 5, count]


def test_attention_hooks_are_removed_even_after_an_error():
    model = tiny.tiny_llava()
    with pytest.raises(RuntimeError):
        figures.attention_shares(model, tiny.one() | {"pixel_values": None}, torch.tensor([[4]]))
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_an_empty_answer_is_refused():
    with pytest.raises(ValueError, match="empty answer"):
        figures.attention_shares(tiny.tiny_llava(), tiny.one(), torch.tensor([], dtype=torch.long))


def test_generate_stops_before_the_end_token():
    model = tiny.tiny_llava()
    free = figures.generate(model, tiny.one(), 6)
    assert len(free) == 6
    model.generation_config.eos_token_id = int(free[3])
    stop = free.tolist().index(int(free[3]))
    assert figures.generate(model, tiny.one(), 6).tolist() == free[:stop].tolist()


def test_per_token_attention_and_its_ratio():
    shares = np.array([[0.5, 0.4, 0.1, 0.0], [0.8, 0.1, 0.05, 0.05]], np.float32)
    result = figures.Attention(None, shares, [4, 100, 5, 3], None, "", (10, 10), 1)
    assert result.per_token[1, 1] == pytest.approx(0.001)
    assert result.image_to_system(1) == pytest.approx(0.001 / 0.2)
    assert result.image_to_system() == pytest.approx((0.004 + 0.001) / (0.125 + 0.2))


# --- tokens and centroids ---------------------------------------------------------------------


def test_tokens_are_the_vision_towers(loaded, picture, profile):
    found = figures.tokens("p", model=loaded, image=picture)
    model, processor, _ = loaded
    inputs = figures.prepare(
        model, processor, figures.example(image=picture), figures.prompt("embedded", processor)
    )
    with torch.inference_mode():
        states = model.model.vision_tower(
            inputs["pixel_values"], output_hidden_states=True
        ).hidden_states
    assert found.layers == [0, 1, 2] and found.grid == (6, 6)
    for tokens, state in zip(found.tokens, states[:3]):
        torch.testing.assert_close(tokens, unit_tokens(state[0, 1:]), atol=1e-3, rtol=0)
        torch.testing.assert_close(gram(tokens), gram(state[0, 1:]), atol=1e-3, rtol=0)
    assert found.image.shape == (42, 42, 3) and found.image.dtype == np.uint8


def test_the_picture_is_what_the_model_sees(loaded):
    flat = Image.new("RGB", (42, 42), (200, 100, 50))
    pixels = loaded.processor.image_processor(flat, return_tensors="pt")
    assert (figures.seen(loaded.processor, pixels) == [200, 100, 50]).all()


def test_centroids_line_up_over_both_networks(loaded, picture, profile):
    found = figures.centroids("p", model=loaded, image=picture, n_clusters=6)
    assert found.stages == [f"vision {i}" for i in range(3)] + [f"language {i}" for i in range(3)]
    assert found.grams.shape == (6, 6, 6)
    torch.testing.assert_close(
        found.grams.diagonal(dim1=1, dim2=2), torch.ones(6, 6), atol=1e-5, rtol=0
    )
    tokens = figures.tokens("p", model=loaded, image=picture).tokens[-1]
    means = torch.stack([tokens[found.labels == j].mean(0) for j in range(6)])
    torch.testing.assert_close(found.grams[2], gram(means), atol=2e-3, rtol=0)


def test_language_states_are_the_models_own(loaded, picture):
    model, processor, _ = loaded
    shown = figures.example(image=picture)
    inputs = figures.prepare(model, processor, shown, figures.prompt("embedded", processor))
    spots = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states
    found = figures._language_states(model, inputs)
    assert len(found) == 3
    for ours, theirs in zip(found, states):
        torch.testing.assert_close(ours, theirs[0, spots])


def test_attention_is_stored_and_read_back(loaded, picture, profile):
    ask = {"model": loaded, "image": picture, "max_new_tokens": 5}
    one = figures.attention("p", **ask)
    two = figures.attention("p", **ask)
    assert one.text == two.text and one.counts == two.counts and one.counts[1] == 36
    assert (one.shares == two.shares).all() and (one.maps == two.maps).all()
    np.testing.assert_allclose(one.shares[:, 1], one.maps.sum(1), rtol=1e-4)


def test_half_precision_gives_the_same_figures_but_for_rounding(loaded, picture, profile):
    half = loaded._replace(model=copy.deepcopy(loaded.model).bfloat16(), name="half")
    ask = {"image": picture, "data": "scenes"}
    full, low = (figures.tokens("p", model=m, **ask).tokens for m in (loaded, half))
    assert low.dtype == torch.float32
    torch.testing.assert_close(gram(low), gram(full), atol=0.05, rtol=0)
    grams = figures.centroids("p", model=half, n_clusters=4, **ask).grams
    assert grams.dtype == torch.float32 and torch.isfinite(grams).all()
    shares = figures.attention("p", model=half, max_new_tokens=3, **ask).shares
    np.testing.assert_allclose(shares.sum(1), 1, atol=0.02)


def test_the_stored_file_saves_loading_the_model(loaded, picture, profile, monkeypatch):
    one = figures.tokens("p", model=loaded, image=picture)
    monkeypatch.setattr(figures, "_vision_states", lambda *args: pytest.fail("computed again"))
    assert torch.equal(figures.tokens("p", model=loaded, image=picture).tokens, one.tokens)


def test_a_description_says_what_was_kept(loaded, picture):
    shown = figures.example(picture)
    whole = figures.describe(loaded, shown, max_new_tokens=4)
    pruned = figures.describe(loaded, shown, create("random", keep=0.25), max_new_tokens=4)
    assert whole.kept.all() and whole.kept.shape == (36,)
    assert pruned.kept.sum() == 9 and isinstance(pruned.text, str)


def test_rank_agreement_of_one_layer_is_perfect_and_scores_never_invert():
    generator = torch.Generator().manual_seed(0)
    grams = torch.stack([gram(torch.randn(8, 6, generator=generator)) for _ in range(4)])
    found = figures.rank_agreement(grams)
    assert set(found) == {"scores", "scaled", "literal"}
    assert all(len(values) == 4 for values in found.values())
    assert all(value > 0.99 for value in found["scores"])
    assert found["scores"][0] == pytest.approx(1) and found["scaled"][0] == found["literal"][0]


def test_the_literal_product_of_many_layers_loses_the_ranking():
    tokens = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) + 0.8
    found = figures.rank_agreement(gram(tokens).expand(24, -1, -1))
    assert found["literal"][-1] < found["literal"][0] - 0.5
    assert found["scaled"][-1] > 0.9


# --- load or compute --------------------------------------------------------------------------


def test_other_parameters_are_computed_anew(tmp_path):
    path, calls = tmp_path / "deep" / "x.npz", []

    def compute():
        calls.append(1)
        return {"a": np.arange(len(calls))}

    for parameters, size in (({"k": 1}, 1), ({"k": 1}, 1), ({"k": 2}, 2), ({"k": 2}, 2)):
        assert len(figures.load_or_compute(path, parameters, compute)["a"]) == size
    assert len(calls) == 2
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def test_the_stored_bytes_depend_on_content_alone(tmp_path):
    for name in ("one", "two"):
        figures.load_or_compute(tmp_path / f"{name}.npz", {"k": 1}, lambda: {"a": np.ones(3)})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(OSError, match=r"x\.npz is damaged .* delete it"):
        figures.load_or_compute(tmp_path / "x.npz", {}, dict)


def test_a_failed_computation_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        figures.load_or_compute(tmp_path / "x.npz", {}, lambda: {"a": 1 / 0})
    assert not list(tmp_path.iterdir())


# --- examples and prompts ---------------------------------------------------------------------


def test_an_image_can_be_a_path_or_a_number(tmp_path, picture):
    assert figures.example(image=picture) == Example(0, figures.Path(picture), ())
    with pytest.raises(FileNotFoundError, match="no image at"):
        figures.example(image=str(tmp_path / "none.png"))
    entry = {"split": "test", "filename": "a.png", "cocoid": 7, "sentences": [{"raw": "A dog."}]}
    listing = tmp_path / "karpathy.json"
    listing.write_text(json.dumps({"images": [entry]}))
    assert figures.example(0, data=str(listing)).image_id == 7
    with pytest.raises(ValueError, match="image must be between 0 and 0"):
        figures.example(1, data=str(listing))
    with pytest.raises(ValueError, match="data must be"):
        figures.example(0, data="nothing")


def test_models_of_the_hub_see_photographs():
    assert figures.default_data("llava-hf/llava-1.5-7b-hf") == "coco"
    assert (
        figures.default_data("embedded") == figures.default_data("shape:llava-1.5-7b") == "scenes"
    )
    assert "COCO" in figures.about("llava-hf/llava-1.5-7b-hf", None, 7)
    assert figures.about("embedded", None, "/a/b.jpg") == "embedded model, b.jpg, 1 image"


def test_models_get_the_prompt_they_were_tuned_with(loaded):
    ours = figures.prompt("embedded", loaded.processor)
    assert ours.startswith("USER: <image>") and models.PROMPT in ours
    theirs = figures.prompt("llava-hf/llava-1.5-7b-hf", loaded.processor)
    assert theirs.startswith(figures.SYSTEM) and figures.QUESTION in theirs
    assert "Why?" in figures.prompt("embedded", loaded.processor, "Why?")


def test_models_whose_tokens_do_not_line_up_are_refused():
    config = tiny.tiny_llava(strategy="full").config
    with pytest.raises(TypeError, match="vision_feature_select_strategy='default'"):
        figures.default_layers(config)
    assert list(figures.default_layers(tiny.tiny_llava().config)) == [1, 2, 3, 4]


def test_a_profile_says_in_which_precision_and_where_its_model_is_loaded(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "load", lambda name, **options: asked.append((name, options)))
    settings = study.load_profile("paper")
    shared = dataclasses.replace(settings, dtype="float16", device_map="auto")
    monkeypatch.setattr(study, "load_profile", lambda name: shared)
    figures.load("some/model", revision="abc", profile="paper")
    figures.load("embedded")
    figures.load("embedded", profile="no such profile")
    options = {"dtype": "float16", "device_map": "auto"}
    assert asked == [
        ("some/model", {"revision": "abc", **options}), ("embedded", {}), ("embedded", {}),
    ]  # fmt: skip
    asked.clear()
    assert study._Lazy(shared, None).profile.device_map == "auto"
    with pytest.raises(AttributeError):  # the stand-in returns nothing to look at
        _ = study._Lazy(shared, None).loaded
    assert asked[0][1] == {"device": None, "revision": settings.revision, **options}
