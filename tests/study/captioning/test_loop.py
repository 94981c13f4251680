"""Captions are resumable, shareable between methods, and the same however the work is split."""

import json
import time
import warnings
from dataclasses import replace

import pytest

from lib.pruning import create
from lib.study import models
from lib.study.captioning import PROMPT, Loader, SharedVision, caption, caption_methods, loop
from lib.study.records import ManifestMismatch, canonical, read_records
from tests.study.captioning.kit import METHODS, QUICK, pruners


def test_a_full_prompt_is_taken_as_it_is_and_the_question_matters(kit, pictures):
    model, processor = kit
    few = pictures[:2]
    question = caption(model, processor, few, **QUICK)
    same = caption(model, processor, few, prompt=models.format_prompt(processor, PROMPT), **QUICK)
    other = caption(model, processor, few, prompt="What is red?", **QUICK)
    assert canonical(question) == canonical(same) != canonical(other)


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


def test_limit_seconds_stops_with_a_warning_and_continues(kit, pictures, tmp_path):
    with pytest.warns(UserWarning, match="8 captions are missing"):
        assert caption(*kit, pictures, records=tmp_path, limit_seconds=0, **QUICK) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        records = caption(*kit, pictures, records=tmp_path, limit_seconds=600, **QUICK)
    assert len(records) == 8


def test_shared_vision_and_images_change_no_caption(kit, pictures, tmp_path, monkeypatch):
    model, processor = kit
    alone = {
        slug: caption(model, processor, pictures, pruner=p, kept_indices=True, **QUICK)
        for slug, p in pruners().items()
    }
    made = []
    monkeypatch.setattr(loop, "SharedVision", lambda m: made.append(SharedVision(m)) or made[-1])
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


def test_a_run_notes_its_pace_and_what_it_waited(kit, pictures, tmp_path, monkeypatch, capsys):
    prepare = Loader.prepare

    def slow(self, examples):
        time.sleep(0.3)
        return prepare(self, examples)

    monkeypatch.setattr(Loader, "prepare", slow)
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
