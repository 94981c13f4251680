"""What the figures take from a model, checked against the model's own outputs."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.entropy import gram, unit_tokens
from lib.pruning import create
from lib.study import models, paths
from lib.study.data.coco import Example
from lib.study.inspection import states
from lib.study.profiles import load_profile
from lib.study.reports import subject
from lib.study.reports.subject import Subject

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
    monkeypatch.setattr(paths, "results_dir", lambda name: tmp_path / name)
    return tmp_path


# --- tokens and centroids ---------------------------------------------------------------------


def of(loaded, picture, **options):
    return Subject(profile="p", model=loaded, image=picture, **options)


def test_tokens_are_the_vision_towers(loaded, picture, profile):
    found = of(loaded, picture).tokens()
    pixels = of(loaded, picture).inputs()["pixel_values"]
    with torch.inference_mode():
        tower = loaded.model.model.vision_tower(pixels, output_hidden_states=True)
    assert found.layers == [0, 1, 2] and found.grid == (6, 6)
    for tokens, state in zip(found.tokens, tower.hidden_states[:3]):
        torch.testing.assert_close(tokens, unit_tokens(state[0, 1:]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.raw[-1], tower.hidden_states[2][0, 1:], atol=1e-3, rtol=2e-3)
    for tokens, state in zip(found.tokens, tower.hidden_states[:3]):
        torch.testing.assert_close(gram(tokens), gram(state[0, 1:]), atol=1e-3, rtol=0)
    assert found.image.shape == (42, 42, 3) and found.image.dtype == np.uint8


def test_centroids_line_up_over_both_networks(loaded, picture, profile):
    found = of(loaded, picture).centroids(6)
    assert found.stages == [f"vision {i}" for i in range(3)] + [f"language {i}" for i in range(3)]
    assert found.grams.shape == (6, 6, 6)
    torch.testing.assert_close(
        found.grams.diagonal(dim1=1, dim2=2), torch.ones(6, 6), atol=1e-5, rtol=0
    )
    tokens = of(loaded, picture).tokens().raw[-1]
    means = torch.stack([tokens[found.labels == j].mean(0) for j in range(6)])
    torch.testing.assert_close(found.grams[2], gram(means), atol=2e-3, rtol=0)


def test_attention_is_stored_and_read_back(loaded, picture, profile):
    one, two = (of(loaded, picture).attention(max_new_tokens=5) for _ in range(2))
    assert one.text == two.text and one.counts == two.counts and one.counts[1] == 36
    assert (one.shares == two.shares).all() and (one.maps == two.maps).all()
    np.testing.assert_allclose(one.shares[:, 1], one.maps.sum(1), rtol=1e-4)


def test_half_precision_gives_the_same_figures_but_for_rounding(loaded, picture, profile):
    half = loaded._replace(model=copy.deepcopy(loaded.model).bfloat16(), name="half")
    full, low = (of(m, picture, data="scenes").tokens().tokens for m in (loaded, half))
    assert low.dtype == torch.float32
    torch.testing.assert_close(gram(low), gram(full), atol=0.05, rtol=0)
    subject = of(half, picture, data="scenes")
    grams = subject.centroids(4).grams
    assert grams.dtype == torch.float32 and torch.isfinite(grams).all()
    shares = subject.attention(max_new_tokens=3).shares
    np.testing.assert_allclose(shares.sum(1), 1, atol=0.02)


def test_the_stored_file_saves_loading_the_model(loaded, picture, profile, monkeypatch):
    one = of(loaded, picture).tokens()
    monkeypatch.setattr(states, "vision_states", lambda *args: pytest.fail("computed again"))
    assert torch.equal(of(loaded, picture).tokens().tokens, one.tokens)
    other = of(loaded._replace(name="other"), picture)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        other.tokens()


def test_a_description_says_what_was_kept(loaded, picture):
    whole = of(loaded, picture).describe(max_new_tokens=4)
    pruned = of(loaded, picture).describe(create("random", keep=0.25), max_new_tokens=4)
    assert whole.kept.all() and whole.kept.shape == (36,)
    assert pruned.kept.sum() == 9 and isinstance(pruned.text, str)


# --- examples and prompts ---------------------------------------------------------------------


def test_an_image_can_be_a_path_or_a_number(tmp_path, picture):
    def example(image, **options):
        return Subject(profile="p", image=image, **options).example

    assert example(picture) == Example(0, Path(picture), ())
    with pytest.raises(FileNotFoundError, match="no image at"):
        example(str(tmp_path / "none.png"))
    entry = {"split": "test", "filename": "a.png", "cocoid": 7, "sentences": [{"raw": "A dog."}]}
    listing = tmp_path / "karpathy.json"
    listing.write_text(json.dumps({"images": [entry]}))
    assert example(0, data=str(listing)).image_id == 7
    with pytest.raises(ValueError, match="image must be between 0 and 0"):
        example(1, data=str(listing))
    with pytest.raises(ValueError, match="data must be"):
        example(0, data="nothing")


def test_models_of_the_hub_see_photographs():
    names = {
        "llava-hf/llava-1.5-7b-hf": "coco",
        "embedded": "scenes",
        "shape:llava-1.5-7b": "scenes",
    }
    for name, data in names.items():
        assert Subject(profile="p", model=name).data_name == data
    assert "COCO" in Subject(profile="p", model="llava-hf/llava-1.5-7b-hf", image=7).source
    assert Subject(profile="p", image="/a/b.jpg").source == "embedded model, b.jpg, 1 image"


def test_models_get_the_prompt_they_were_tuned_with(loaded):
    ours = Subject(profile="p", model=loaded._replace(name="embedded"))
    assert ours.prompt().startswith("USER: <image>") and models.PROMPT in ours.prompt()
    theirs = Subject(profile="p", model=loaded._replace(name="llava-hf/llava-1.5-7b-hf"))
    assert theirs.prompt().startswith(subject.SYSTEM) and subject.QUESTION in theirs.prompt()
    assert "Why?" in ours.prompt("Why?")


def test_a_profile_says_in_which_precision_and_where_its_model_is_loaded(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "load", lambda name, **options: asked.append((name, options)))
    shared = dataclasses.replace(load_profile("paper"), dtype="float16", device_map="auto")
    monkeypatch.setattr(subject, "load_profile", lambda name: shared)
    for options in ({"profile": "paper", "model": "some/model", "revision": "abc"},
                    {"profile": "no such profile"}):  # fmt: skip
        _ = Subject(**options).loaded
    assert asked == [
        ("some/model", {"revision": "abc", "dtype": "float16", "device_map": "auto"}),
        ("embedded", {"revision": None}),
    ]


def test_the_towers_attention_is_what_it_says_of_itself(loaded, picture, profile):
    found = of(loaded, picture).tower()
    pixels = of(loaded, picture).inputs()["pixel_values"]
    tower = copy.deepcopy(loaded.model.model.vision_tower)
    tower.set_attn_implementation("eager")
    with torch.inference_mode():
        said = tower(pixels, output_attentions=True).attentions
    want = torch.stack(said)[:2, 0].mean(1)
    torch.testing.assert_close(found.attention, want, atol=1e-3, rtol=1e-3)
    assert found.skipped == 1


def test_a_photograph_of_scikit_learn_is_found_by_its_name(loaded):
    shown = of(loaded, "china.jpg")
    assert shown.example.path.is_file() and "CC BY" in shown.source
    with pytest.raises(FileNotFoundError, match="no image at"):
        of(loaded, "japan.jpg").example  # noqa: B018
