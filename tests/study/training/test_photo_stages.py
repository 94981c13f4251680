"""All stages on a tiny language model: what is published says what was trained."""

import pytest
import torch

from lib.study.models import format_prompt, photos
from lib.study.training import photo_stages as st
from lib.study.training.captioner import CaptionPlan
from lib.study.training.distillation import DistilPlan
from tests.study import tiny_gguf

from .test_distillation import Brightness

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
          "num_attention_heads": 2, "projection_dim": 32}  # fmt: skip
TEXTS = ["A dog runs on the grass.", "Two men in red shirts play football.", "A girl jumps."] * 9


def recipe_of(**changes):
    quick = {"batch_size": 2, "room": 48, "longest": 16, "warmup": 1}
    return st.Recipe(
        distil=2, joint=2, captions=2, scores=1, again=1, unit="steps", rank=2, alpha=8,
        distil_plan=DistilPlan(batch_size=2, warmup=1),
        joint_plan=CaptionPlan(**quick, tower_rate=0.1, distil_size=2),
        caption_plan=CaptionPlan(**quick), score_plan=CaptionPlan(**quick, samples=2),
        again_plan=CaptionPlan(**quick), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return tiny_gguf.write(path, TEXTS)


def training(language, folder, **how):
    generator = torch.Generator().manual_seed(0)
    photographs = torch.randint(0, 255, (4, 224, 224, 3), generator=generator).to(torch.uint8)
    torch.manual_seed(0)
    return st.PhotoTraining(
        *photos.read_gguf(language), Brightness(), photographs, [TEXTS[:3]] * 4,
        photographs[:2], folder, vision=VISION, device="cpu", report_every=1,
        **{"recipe": recipe_of(), **how},
    )  # fmt: skip


def test_two_checkpoints_come_out_and_load_again(language, tmp_path):
    told = []
    run = training(language, tmp_path / "run", report=told.append)
    assert run.all(workers=1)
    assert [row["stage"] for row in told] == [
        "distil", "distil", "joint", "joint", "photos", "photos", "photos-scores", "photos-again",
        "photos-dropout", "photos-dropout", "photos-dropout-scores", "photos-dropout-again",
    ]  # fmt: skip
    run.publish(tmp_path / "out")
    for name in photos.NAMES:
        stored = photos.restore(photos.quantise(run.states[name]))  # as in the file
        run.captioner.trainables.load_state_dict(stored)
        expected = run.captioner.greedy(run.captioner.photographs)
        model, processor = photos.assemble(
            language, tmp_path / "out/tower.safetensors", tmp_path / f"out/{name}.safetensors",
            report=lambda message: None,
        )  # fmt: skip
        images = [photograph.numpy() for photograph in run.captioner.photographs]
        batch = processor(
            images=images, text=[format_prompt(processor)] * 4, return_tensors="pt", padding=True
        )
        said = model.generate(**batch, max_new_tokens=16, do_sample=False)
        texts = processor.batch_decode(said[:, batch["input_ids"].shape[1] :], True)
        assert [text.strip() for text in texts] == expected


def test_the_mixture_that_captions_best_is_kept(language, tmp_path, monkeypatch):
    run = training(language, tmp_path, recipe=recipe_of(shares=(0.0, 0.5, 1.0)))
    assert run.all(workers=1)
    before, after = run.states["photos-before"], run.states["photos"]
    scores = iter([{"CIDEr": 2.0, "BLEU-4": 1.0}, {"CIDEr": 1.0, "BLEU-4": 3.0},
                   {"CIDEr": 3.0, "BLEU-4": 0.5}])  # fmt: skip
    monkeypatch.setattr(st, "quality", lambda said, references: next(scores))
    rows = run.mix("photos", run.captioner.photographs, [TEXTS[:3]] * 4)
    assert [(row["share"], row["stage"]) for row in rows][1] == (0.5, "photos-mix")
    for name, weight in run.states["photos"].items():
        torch.testing.assert_close(weight, (before[name] + after[name]) / 2)
    assert run.mix("photos", run.captioner.photographs, [TEXTS[:3]] * 4) == []


def test_time_runs_out_and_the_next_process_goes_on(language, tmp_path):
    first = training(language, tmp_path, max_seconds=1e-6)
    assert not first.all(workers=1) and first.rows == []
    again = training(language, tmp_path)
    assert again.all(workers=1) and set(again.states) == {
        "joint", *photos.NAMES, *(f"{name}-before" for name in photos.NAMES)
    }  # fmt: skip
    third = training(language, tmp_path)  # nothing left to do
    assert third.all(workers=1) and third.rows == again.rows
    for name, weight in third.states["photos"].items():
        assert torch.equal(weight, again.states["photos"][name])


def test_other_settings_do_not_mix(language, tmp_path):
    training(language, tmp_path).distil()
    other = training(language, tmp_path, recipe=recipe_of(random_state=7))
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        other.distil()
    with pytest.raises(ValueError, match="unit must be one of seconds, steps, got 'hours'"):
        st.Recipe(unit="hours")
