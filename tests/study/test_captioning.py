"""Captions are resumable, shareable between methods, and the same however the work is split."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.pruning import create
from lib.study import captioning, models
from lib.study.captioning import (
    ImageError,
    SharedVision,
    caption,
    caption_methods,
    load_image,
    weights_digest,
)
from lib.study.paths import ROOT
from lib.study.records import ManifestMismatch, canonical, read_records

SIDE, PATCH = 42, 7
TOKENS = (SIDE // PATCH) ** 2
QUICK = {"batch_size": 3, "max_new_tokens": 5, "progress": False, "workers": 2}


@dataclass(frozen=True)
class Picture:
    image_id: int
    path: Path
    references: tuple[str, ...] = ("a picture",)


@pytest.fixture(scope="module")
def kit():
    """A random LLaVA whose captions depend on the image, and its processor."""
    tokenizer = models.train_tokenizer(["a red circle and two blue squares"], vocab_size=300)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
              "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    model = models.build_embedded(tokenizer, vision=vision, text=text)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        model.model.language_model.embed_tokens.weight.normal_(generator=generator)
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
    model.generation_config.eos_token_id = None
    return model.eval(), models.build_processor(tokenizer, image_size=SIDE, patch_size=PATCH)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    examples = []
    for number in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = folder / f"{number}.png"
        coarse.resize((60 + number, 50)).save(path)
        examples.append(Picture(100 - 7 * number, path))
    return examples


METHODS = {
    "unpruned": None,
    "random": ("random", {"keep": 0.5}),
    "tome": ("tome", {"keep": 0.5}),
    "fastv": ("fastv", {"keep": 0.25, "layer": 2}),
    "entropy": ("entropy", {"keep": 0.5}),
}


def pruners():
    return {s: None if m is None else create(m[0], **m[1]) for s, m in METHODS.items()}


# ------------------------------------------------------------------ one method


def test_a_record_holds_what_the_model_generates(kit, pictures):
    model, processor = kit
    records = caption(model, processor, pictures, **QUICK)
    assert [r["image_id"] for r in records] == [e.image_id for e in pictures]
    assert {r["kept"] for r in records} == {r["visual_tokens"] for r in records} == {TOKENS}
    assert all(r["seconds"] > 0 for r in records)
    assert len({r["caption"] for r in records}) > 4, "the model should look at the image"
    prompt = models.format_prompt(processor, captioning.PROMPT)
    for example, record in list(zip(pictures, records))[:3]:
        inputs = processor(images=load_image(example.path), text=prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=5)
        text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert record["caption"] == " ".join(text.split())


def test_token_ids_are_recorded_up_to_the_end(kit, pictures, monkeypatch):
    model, processor = kit
    decode = processor.tokenizer.decode
    records = caption(model, processor, pictures, token_ids=True, **QUICK)
    for record in records:
        assert len(record["token_ids"]) == QUICK["max_new_tokens"], "this model never ends"
        said = decode(record["token_ids"], skip_special_tokens=True)
        assert record["caption"] == " ".join(said.split())
    assert "token_ids" not in caption(model, processor, pictures[:1], **QUICK)[0]
    end = records[0]["token_ids"][2]  # from now on this token ends an answer
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    for record, longer in zip(
        caption(model, processor, pictures, token_ids=True, **QUICK), records, strict=True
    ):
        ids = longer["token_ids"]
        assert record["token_ids"] == ids[: ids.index(end) if end in ids else None]


def test_captions_use_attention_that_repeats_itself(kit, pictures):
    model, processor = kit
    seen = []
    watch = model.model.language_model.layers[0].self_attn.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    with watch:
        caption(model, processor, pictures[:1], **QUICK)
    assert len(seen) == QUICK["max_new_tokens"] and not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled(), "the setting is put back"
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with pytest.raises(RuntimeError, match="stop"), captioning.repeatable_attention():
            raise RuntimeError("stop")
        assert not torch.backends.cuda.cudnn_sdp_enabled(), "nothing is switched on"
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's attention needs a GPU")
def test_a_decoding_step_on_a_gpu_gives_the_same_bits_every_time():
    make = torch.Generator("cuda").manual_seed(0)
    options = {"device": "cuda", "dtype": torch.bfloat16, "generator": make}
    query = torch.randn(16, 32, 1, 128, **options)
    keys, values = torch.randn(2, 16, 32, 640, 128, **options)
    attention = torch.nn.functional.scaled_dot_product_attention
    with captioning.repeatable_attention():
        first = attention(query, keys, values)
        assert all(torch.equal(attention(query, keys, values), first) for _ in range(200))


def test_a_full_prompt_is_taken_as_it_is_and_the_question_matters(kit, pictures):
    model, processor = kit
    few = pictures[:2]
    question = caption(model, processor, few, **QUICK)
    same = caption(
        model, processor, few, prompt=models.format_prompt(processor, captioning.PROMPT), **QUICK
    )
    other = caption(model, processor, few, prompt="What is red?", **QUICK)
    assert canonical(question) == canonical(same) != canonical(other)


@pytest.mark.parametrize("slug", [s for s in METHODS if METHODS[s]])
def test_kept_tokens_are_recorded(kit, pictures, slug):
    pruner = pruners()[slug]
    records = caption(*kit, pictures, pruner=pruner, kept_indices=True, **QUICK)
    for record in records:
        assert record["kept"] == len(record["kept_indices"]) == pruner.budget(TOKENS)
        assert record["kept_indices"] == sorted(set(record["kept_indices"]))
        assert 0 <= record["kept_indices"][0] <= record["kept_indices"][-1] < TOKENS


def test_random_choices_go_with_the_image_and_not_with_the_batch(kit, pictures):
    def chosen(examples, batch_size):
        options = QUICK | {"batch_size": batch_size}
        pruner = create("random", keep=0.5)
        records = caption(*kit, examples, pruner=pruner, kept_indices=True, **options)
        last = examples[(len(examples) - 1) // batch_size * batch_size :]
        assert pruner.image_keys.tolist() == [e.image_id for e in last]
        return {r["image_id"]: r["kept_indices"] for r in records}

    single = chosen(pictures, 1)
    assert single == chosen(pictures, 3) == chosen(pictures[::-1], 8)
    assert len({tuple(indices) for indices in single.values()}) == len(pictures)


def test_the_model_is_left_as_it_was(kit, pictures):
    model, processor = kit

    def state():
        return [
            (name, vars(m).get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks))
            for name, m in model.named_modules()
        ]

    # transformers' own recorders of hidden states stay on from the first use
    model.model.vision_tower(torch.rand(1, 3, SIDE, SIDE), output_hidden_states=True)
    model.train()
    before = state()
    caption_methods(model, processor, pictures[:2], pruners(), None, **QUICK)
    assert model.training and state() == before
    model.eval()


# ------------------------------------------------------------------ records


def test_recorded_images_are_not_captioned_again_nor_even_read(kit, pictures, tmp_path):
    first = caption(*kit, pictures, records=tmp_path, **QUICK)
    content = (tmp_path / "records.jsonl").read_bytes()
    gone = [replace(e, path=tmp_path / e.path.name) for e in pictures]
    again = caption(*kit, gone, records=tmp_path / "records.jsonl", **QUICK)
    assert again == first == read_records(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == content


@pytest.mark.parametrize("lines", [0, 1, 4, 7])
def test_a_file_cut_anywhere_is_completed_to_the_same_records(kit, pictures, tmp_path, lines):
    pruner = create("random", keep=0.5)
    caption(*kit, pictures, pruner=pruner, records=tmp_path, kept_indices=True, **QUICK)
    path = tmp_path / "records.jsonl"
    expected, whole = canonical(read_records(path)), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:lines]) + whole[lines][:17])
    caption(*kit, pictures, pruner=pruner, records=tmp_path, kept_indices=True, **QUICK)
    assert canonical(read_records(path)) == expected
    assert path.read_bytes().splitlines(keepends=True)[:lines] == whole[:lines]


def test_other_settings_are_refused_and_rounding_settings_are_not(kit, pictures, tmp_path):
    model, processor = kit
    stored = {"records": tmp_path, "parameters": {"source": {"model": "tiny"}}} | QUICK
    caption(model, processor, pictures[:4], pruner=create("fastv", keep=0.5), **stored)

    def differs(pattern, examples=pictures[:4], keep=0.5, **changed):
        with pytest.raises(ManifestMismatch, match=pattern):
            pruner = create("fastv", keep=keep)
            caption(model, processor, examples, pruner=pruner, **(stored | changed))

    differs(r"method\.keep: 0\.5 -> 0\.25", keep=0.25)
    differs(r"prompt: .* -> ", prompt="What is this?")
    differs(r"decoding\.max_new_tokens: 5 -> 6", max_new_tokens=6)
    differs(r"images\.count: 4 -> 3", examples=pictures[:3])
    differs(r'source\.model: "tiny" -> "big"', parameters={"source": {"model": "big"}})
    weight = model.lm_head.weight.data
    value = weight[0, 0].item()
    weight[0, 0] = 3
    differs(r"model\.weights: ")
    weight[0, 0] = value
    (tmp_path / "records.jsonl").write_text("")
    caption(model, processor, pictures[:4], pruner=create("fastv", keep=0.5),
            **(stored | {"batch_size": 2}))  # fmt: skip
    runs = json.loads((tmp_path / "manifest.json").read_text())["runs"]
    assert [run["batch_size"] for run in runs] == [3, 2]
    assert {"torch", "transformers", "entropy-prune"} <= runs[0]["versions"].keys()


def test_the_fingerprint_sees_every_parameter(kit):
    model, _ = kit
    before = weights_digest(model)
    assert before == weights_digest(model)
    with torch.no_grad():
        for parameter in (model.lm_head.weight, model.model.vision_tower.state_dict()):
            if isinstance(parameter, dict):
                parameter = parameter[sorted(parameter)[0]]
            parameter.mul_(2)
            assert weights_digest(model) != before
            parameter.mul_(0.5)
    assert weights_digest(model) == before


def test_the_fingerprint_of_a_large_parameter_ends_at_its_last_value():
    # 2**40 values that take no memory: neither may they be copied, nor the last index rounded
    huge = torch.nn.Module()
    huge.register_buffer("weight", torch.ones(()).expand(2**20, 2**20))
    assert len(weights_digest(huge)) == 64

    large = torch.nn.Module()
    large.register_buffer("weight", torch.zeros(2**24 + 2, dtype=torch.int8))
    before = weights_digest(large)
    large.weight[-1] = 1
    assert weights_digest(large) != before

    one = torch.nn.Module()
    one.register_buffer("weight", torch.zeros(()))
    before = weights_digest(one)
    one.weight += 1
    assert weights_digest(one) != before


def test_limit_seconds_stops_with_a_warning_and_continues(kit, pictures, tmp_path):
    with pytest.warns(UserWarning, match="8 captions are missing"):
        assert caption(*kit, pictures, records=tmp_path, limit_seconds=0, **QUICK) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = caption(*kit, pictures, records=tmp_path, limit_seconds=600, **QUICK)
    assert len(records) == 8


# ------------------------------------------------------------------ several methods


def test_shared_vision_and_images_change_no_caption(kit, pictures, tmp_path, monkeypatch):
    model, processor = kit
    alone = {
        slug: caption(model, processor, pictures, pruner=p, kept_indices=True, **QUICK)
        for slug, p in pruners().items()
    }
    made = []
    monkeypatch.setattr(
        captioning, "SharedVision", lambda m: made.append(SharedVision(m)) or made[-1]
    )
    together = caption_methods(
        model, processor, pictures, pruners(), tmp_path, kept_indices=True, **QUICK
    )
    (vision,) = made
    assert vision.computed == 3 and vision.reused == 3 * 3  # of five methods, ToMe stays out
    for slug in METHODS:
        assert canonical(together[slug]) == canonical(alone[slug]), slug
        assert canonical(read_records(tmp_path / slug)) == canonical(alone[slug])
    apart = caption_methods(
        model, processor, pictures, pruners(), None, share_vision=False, kept_indices=True, **QUICK
    )
    assert {s: canonical(r) for s, r in apart.items()} == {
        s: canonical(r) for s, r in together.items()
    }


def test_each_method_resumes_on_its_own(kit, pictures, tmp_path):
    caption_methods(*kit, pictures, pruners(), tmp_path, **QUICK)
    expected = {slug: canonical(read_records(tmp_path / slug)) for slug in METHODS}
    path = tmp_path / "fastv" / "records.jsonl"
    untouched = (tmp_path / "tome" / "records.jsonl").read_bytes()
    path.write_bytes(path.read_bytes()[:300])
    caption_methods(*kit, pictures, pruners(), tmp_path, **QUICK)
    assert {slug: canonical(read_records(tmp_path / slug)) for slug in METHODS} == expected
    assert (tmp_path / "tome" / "records.jsonl").read_bytes() == untouched


def test_shared_vision_serves_any_layer_and_restores_the_tower(kit):
    model, _ = kit
    tower = model.model.vision_tower
    pixels = torch.rand(2, 3, SIDE, SIDE)
    plain = tower(pixels, output_hidden_states=True)
    vision = SharedVision(model)
    with torch.inference_mode(), vision.batch([5, 6]):
        first, second = tower(pixels, return_dict=True), tower(pixels, return_dict=True)
        assert first is not second and len(second.hidden_states) == 5
        for a, b in zip(second.hidden_states, plain.hidden_states):
            torch.testing.assert_close(a, b)
        features = model.get_image_features(pixels).pooler_output
        with pytest.raises(RuntimeError, match="already in use"), vision.batch([5, 6]):
            pass
    assert (vision.computed, vision.reused) == (1, 2)
    expected = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(torch.stack(list(features)), torch.stack(list(expected)))
    assert "forward" not in vars(tower)
    with pytest.raises(ValueError, match="got 2 images, but"), vision.batch([5]):
        tower(pixels)
    assert "forward" not in vars(tower)
    with torch.inference_mode(), vision.batch([7, 8]):  # capacity 1: the first batch is forgotten
        tower(pixels)
    with torch.inference_mode(), vision.batch([5, 6]):
        tower(pixels)
    assert vision.computed == 3
    vision.clear()


def test_a_forward_set_by_someone_else_comes_back(kit):
    model, _ = kit
    tower = model.model.vision_tower
    original = tower.forward
    tower.forward = placed = lambda *args, **kwargs: original(*args, **kwargs)
    try:
        with SharedVision(model).batch([1]):
            assert tower.forward is not placed
        assert tower.forward is placed
    finally:
        del tower.forward


def test_bad_options_are_refused(kit, pictures, tmp_path):
    with pytest.raises(ValueError, match="capacity"):
        SharedVision(kit[0], capacity=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        caption(*kit, pictures, batch_size=0)
    with pytest.raises(ValueError, match="examples is empty"):
        caption(*kit, [])
    with pytest.raises(ValueError, match=r"must be a folder .* got .*mine\.jsonl"):
        caption(*kit, pictures, records=tmp_path / "mine.jsonl")
    with pytest.raises(ValueError, match="rank must be in"):
        caption(*kit, pictures, rank=2, world_size=2)
    with pytest.raises(ValueError, match="both rank and world_size"):
        caption(*kit, pictures, rank=0)
    with pytest.raises(ValueError, match="plain folder name"):
        caption_methods(*kit, pictures, {"../x": None}, tmp_path)
    with pytest.raises(ValueError, match="pruners is empty"):
        caption_methods(*kit, pictures, {}, tmp_path)
    with pytest.raises(ValueError, match="image_id 100 occurs twice"):
        caption(*kit, [*pictures, pictures[0]])


# ------------------------------------------------------------------ images


def test_images_of_every_mode_become_rgb_as_documented(tmp_path):
    def back(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        result = load_image(tmp_path / name)
        assert result.mode == "RGB"
        return np.asarray(result)

    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (back(Image.fromarray(ramp)) == ramp[..., None]).all()
    clear = np.zeros((9, 10, 4), np.uint8)
    clear[:, :5] = (255, 0, 0, 255)
    rgba = back(Image.fromarray(clear))
    assert (rgba[:, :5] == (255, 0, 0)).all() and (rgba[:, 5:] == 255).all()
    palette = Image.fromarray(ramp % 3).convert("L")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    expected = np.eye(3, dtype=np.uint8)[ramp % 3] * 255
    assert (back(palette) == expected).all()
    see_through = back(palette, transparency=0)
    assert (see_through[ramp % 3 == 0] == 255).all()
    assert (see_through[ramp % 3 != 0] == expected[ramp % 3 != 0]).all()
    sixteen = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert (back(Image.fromarray(sixteen)) == ramp[..., None]).all()
    assert (back(Image.fromarray(sixteen.astype(np.int32)), "x.tif") == ramp[..., None]).all()
    assert (back(Image.fromarray(ramp.astype(np.int32)), "x.tif") == ramp[..., None]).all()
    floating = (ramp.astype(np.float32) - 50) * 2
    assert (back(Image.fromarray(floating), "x.tif") == np.clip(floating, 0, 255)[..., None]).all()
    assert (back(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "x.jpg") - (254, 0, 0) < 3).all()
    assert (back(Image.new("1", (9, 9), 1)) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to display
    wide = Image.fromarray(
        np.where(np.arange(20) < 10, 255, 0).astype(np.uint8)[None].repeat(10, 0)
    )
    turned = back(wide, "x.jpg", exif=exif, quality=100)
    assert turned.shape == (20, 10, 3) and turned[2].min() > 250 and turned[-3].max() < 5
    dot = back(Image.new("RGB", (1, 1), (1, 2, 3)))
    assert dot.shape == (8, 8, 3) and (dot == (1, 2, 3)).all()
    assert back(Image.new("RGB", (3, 30))).shape == (30, 8, 3)


def test_odd_images_are_captioned(kit, tmp_path):
    for number, mode in enumerate(["L", "RGBA", "P", "I;16", "1", "LA", "RGB"]):
        Image.new(mode, (1, 1) if mode == "RGB" else (30, 20)).save(tmp_path / f"{number}.png")
    examples = [Picture(n, tmp_path / f"{n}.png") for n in range(7)]
    assert len(caption(*kit, examples, **QUICK)) == 7


def test_bad_images_are_named_and_nothing_recorded_is_lost(kit, pictures, tmp_path):
    truncated, text = tmp_path / "truncated.jpg", tmp_path / "text.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:20000])
    text.write_text("not an image")
    for bad, pattern in ((truncated, r"truncated\.jpg: .*truncated"), (text, r"text\.png: ")):
        folder = tmp_path / bad.stem
        examples = [*pictures[:6], Picture(1, bad), pictures[7]]
        with pytest.raises(ImageError, match=rf"cannot read image .*{pattern}"):
            caption(*kit, examples, records=folder, **QUICK)
        assert [r["image_id"] for r in read_records(folder)] == [e.image_id for e in pictures[:6]]
        Image.new("RGB", (9, 9)).save(bad)  # repaired: the run continues
        assert len(caption(*kit, examples, records=folder, **QUICK)) == 8
    missing = [*pictures[:6], Picture(1, tmp_path / "gone.jpg")]
    with pytest.raises(ImageError, match=r"image file is missing: .*gone\.jpg"):
        caption(*kit, missing, records=tmp_path / "m", **QUICK)
    with pytest.raises(ImageError, match=r"image file is missing: .*gone\.jpg"):
        load_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"without references: .*3\.png \(image_id 9\)"):
        caption(*kit, [Picture(9, pictures[3].path, ())], **QUICK)


# ------------------------------------------------------------------ preparation


def test_threads_pin_memory_on_the_device_of_their_process(kit, pictures, monkeypatch):
    (_, processor), examples = kit, pictures
    seen = []
    here = threading.local()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(here, "device", device))
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: seen.append(getattr(here, "device", None)) or self
    )
    device = torch.device("cuda:1")
    prompt = captioning._full_prompt(processor, "What is it?")
    with captioning._Loader(processor, prompt, 2, device) as loader:
        batches = list(loader([examples[:2], examples[2:4], examples[4:5]]))
    assert [len(inputs["input_ids"]) for _, inputs in batches] == [2, 2, 1]
    assert seen and set(seen) == {device}
    seen.clear()
    with captioning._Loader(processor, prompt, 1, torch.device("cpu")) as loader:
        assert len(list(loader([examples[:2]]))) == 1
    assert not seen


# ------------------------------------------------------------------ throughput


def test_a_run_notes_its_pace_and_what_it_waited(kit, pictures, tmp_path, monkeypatch, capsys):
    prepare = captioning._Loader.prepare

    def slow(self, examples):
        time.sleep(0.3)
        return prepare(self, examples)

    monkeypatch.setattr(captioning._Loader, "prepare", slow)
    caption(*kit, pictures, records=tmp_path, **QUICK | {"progress": True, "workers": 1})
    (run,) = json.loads((tmp_path / "manifest.json").read_text())["runs"]
    pace = run["throughput"]["rank 0"]
    batches = -(-len(pictures) // 3)
    assert pace["captions"] == len(pictures)
    assert pace["images_per_second"] == pytest.approx(len(pictures) / pace["seconds"], rel=0.01)
    assert pace["seconds"] >= 0.3 * batches and 0.3 < pace["waiting_share"] <= 1
    said = capsys.readouterr()
    assert f"{len(pictures)} captions in " in said.err and "waiting for prepared images" in said.err
    assert said.out == ""
    caption(*kit, pictures, records=tmp_path, **QUICK)  # nothing to do, nothing noted
    assert json.loads((tmp_path / "manifest.json").read_text())["runs"] == [run]


def test_paces_of_several_processes_add_up():
    whole = captioning.Throughput.together(
        [captioning.Throughput(30, 10.0, 1.0), captioning.Throughput(20, 8.0, 3.0)]
    )
    assert whole.entry() == {
        "captions": 50, "seconds": 10.0, "images_per_second": 5.0, "waiting_share": 0.2,
    }  # fmt: skip
    assert str(whole) == (
        "50 captions in 10.0 s: 5.0 images/s, 20.0% of the time waiting for prepared images"
    )


# ------------------------------------------------------------------ processes


@pytest.fixture(scope="module")
def on_disk(kit, tmp_path_factory):
    """A model folder and a Karpathy JSON, as other processes need them."""
    folder = tmp_path_factory.mktemp("on_disk")
    models.save(*kit, folder / "model")
    rng, images = np.random.default_rng(1), []
    for number in range(48):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((60, 50)).save(folder / f"{number}.png")
        images.append({"split": "test", "filename": f"{number}.png", "cocoid": 500 - number,
                       "filepath": "", "sentences": [{"raw": "a picture"}]})  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return folder


def command(on_disk, results, *extra):
    return [
        "-m", "lib.study.captioning", "--model", str(on_disk / "model"), "--data",
        str(on_disk / "data.json"), "--method", "unpruned", "random", "--max-new-tokens", "5",
        "--batch-size", "2", "--cpu", "--quiet", "--results-dir", str(results), *extra,
    ]  # fmt: skip


def merged(results):
    for slug in ("unpruned", "random-0.5"):
        names = sorted(p.name for p in (results / slug).iterdir())
        assert names == ["manifest.json", "records.jsonl"]
    return {s: canonical(read_records(results / s)) for s in ("unpruned", "random-0.5")}


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def by_one_process(on_disk, tmp_path_factory):
    results = tmp_path_factory.mktemp("one")
    captioning.main(command(on_disk, results)[2:])
    return merged(results)


def test_the_command_line_says_what_it_did_and_continues(on_disk, tmp_path, capsys):
    arguments = command(on_disk, tmp_path, "--limit", "6", "--random-state", "3")[2:]
    captioning.main(arguments)
    printed = capsys.readouterr().out
    assert "unpruned: 6 of 6 images, 100.0% tokens kept" in printed
    assert "random-0.5: 6 of 6 images, 50.0% tokens kept" in printed
    stored = json.loads((tmp_path / "unpruned" / "manifest.json").read_text())["parameters"]
    assert stored["source"] == {
        "model": "model", "revision": None, "data": "data.json", "split": "test", "limit": 6,
        "random_state": 3,
    }  # fmt: skip
    with pytest.raises(ManifestMismatch, match=r"source\.limit: 6 -> 7"):
        captioning.main([*arguments, "--limit", "7"])
    with pytest.raises(ValueError, match="nosuch"):
        captioning.main([*arguments, "--split", "nosuch"])


def test_ranks_share_the_work_and_merge_the_same_records(kit, pictures, tmp_path):
    whole = caption(*kit, pictures, records=tmp_path / "whole", **QUICK)
    for world_size in (2, 3, 4):
        folder, parts = tmp_path / str(world_size), []
        for rank in range(world_size):
            parts.append(
                caption(*kit, pictures, records=folder, rank=rank, world_size=world_size, **QUICK)
            )
        assert canonical(parts[-1]) == canonical(whole) == canonical(read_records(folder))
        assert [e["image_id"] for e in parts[0]] == [
            e.image_id for n, e in enumerate(pictures) if n // 3 % world_size == 0
        ]


def test_accelerate_launches_ranks_that_write_the_same_records(on_disk, by_one_process, tmp_path):
    # --multi_gpu is accelerate's name for torchrun; the program itself stays on the CPU
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "0"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *launch, *command(on_disk, tmp_path)],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert merged(tmp_path) == by_one_process
    run = json.loads((tmp_path / "unpruned" / "manifest.json").read_text())["runs"][0]
    assert run["processes"] == 2
    assert {"rank 0", "rank 1"} == run["throughput"].keys()
    # 48 images, 2 methods
    assert sum(pace["captions"] for pace in run["throughput"].values()) == 96


def run_rank(arguments, rank, world_size, port, report):
    """One rank, in a process of its own; what went wrong is written to `report`."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "WORLD_SIZE": str(world_size)}  # fmt: skip
    torch.set_num_threads(1)
    try:
        captioning.main(arguments)
    except Exception as error:
        report.write_text(f"{error}")
        raise SystemExit(1) from error


@pytest.fixture(scope="module")
def start_ranks(on_disk):
    """Starts ranks from a server that has everything imported, which saves most of the time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["lib.study.captioning", "lib.study.data.coco", "lib.study.models", "lib.pruning",
        "transformers.models.llama"
         ".modeling_llama", "transformers.models.clip.modeling_clip", "accelerate"]
    )  # fmt: skip

    def start(results, world_size):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = command(on_disk, results)[2:]
        ranks = []
        for rank in range(world_size):
            report = results / f"error-{rank}"
            ranks.append(
                context.Process(target=run_rank, args=(arguments, rank, world_size, port, report))
            )
            ranks[-1].start()
        return ranks

    return start


def test_four_processes_write_the_same_records(start_ranks, by_one_process, tmp_path):
    ranks = start_ranks(tmp_path, 4)
    for rank in ranks:
        rank.join(240)
    errors = [path.read_text() for path in tmp_path.glob("error-*")]
    assert [rank.exitcode for rank in ranks] == [0] * 4, errors
    assert merged(tmp_path) == by_one_process


def test_a_killed_rank_loses_nothing_of_the_others(start_ranks, by_one_process, on_disk, tmp_path):
    ranks = start_ranks(tmp_path, 3)
    shard = tmp_path / "random-0.5" / "records.rank-0002-of-0003.jsonl"
    while ranks[2].is_alive() and not (shard.exists() and shard.stat().st_size):
        time.sleep(0.0005)
    ranks[2].kill()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [1, 1, -signal.SIGKILL]
    for rank in (0, 1):
        assert "another process of this run stopped" in (tmp_path / f"error-{rank}").read_text()
        for slug in ("unpruned", "random-0.5"):
            own = tmp_path / slug / f"records.rank-{rank:04d}-of-0003.jsonl"
            assert len(read_records(own)) == 16
    assert 34 <= len(read_records(tmp_path / "random-0.5")) < 48
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another number of processes is no reason to warn
        captioning.main(command(on_disk, tmp_path)[2:])
    assert merged(tmp_path) == by_one_process
