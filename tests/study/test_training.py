"""Training: the loss is the public model's, drop-out is uniform, a stopped run ends the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lib.study import models, training
from lib.study.data.scenes import captions, patch_labels, sample_scene, scene_seed
from lib.study.data.scenes.rendering import CAPTION_TOKENS, patch_codes, render
from lib.study.training import TrainConfig, Trainer

NARROW = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
CONFIG = TrainConfig(
    stages=(2, 2, 3), batch_size=4, warmup=2, pool=24, variants=2, compile=False
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return models.train_tokenizer(
        [text for i in range(60) for text in captions(sample_scene(i))], vocab_size=600
    )


@pytest.fixture(scope="module")
def pool(tokenizer, tmp_path_factory):
    """What a ScenePool holds, drawn here without worker processes."""

    class Drawn:
        seconds = 0.0

        def wait(self, count):
            assert count <= len(self.images)

    drawn = Drawn()
    core = tokenizer.backend_tokenizer.to_str()
    path, codes, tokens = render(0, 24, 2, core, str(tmp_path_factory.mktemp("pool")))
    drawn.images = torch.from_numpy(np.load(path))
    drawn.codes, drawn.tokens = torch.from_numpy(codes), torch.from_numpy(tokens)
    return drawn


def small(tokenizer):
    vision = {**NARROW, "num_hidden_layers": 3}
    return models.build_embedded(tokenizer, vision=vision, text=NARROW, random_state=1)


def trainer(tokenizer, pool, folder, config=CONFIG):
    return Trainer(small(tokenizer), tokenizer, config, folder, device="cpu", pool=pool)


# -------------------------------------------------------------------------------------------- parts


def test_the_loss_is_the_public_models_with_masked_keys(tokenizer, pool):
    """Removing tokens and keeping positions equals masking them in the ordinary forward pass."""
    model = small(tokenizer).eval()
    before, after = training.prompt_ids(tokenizer)
    images, targets = pool.images[:3], pool.tokens[:3, 0].long()
    counts = torch.tensor([256, 90, 25])
    keep = training.random_keep(counts, 256, torch.Generator().manual_seed(0))
    pixels = training.normalise(images)
    with torch.no_grad():
        visual = model.model.multi_modal_projector(training.visual_features(model, pixels))
        loss = training.caption_loss(model, visual, keep, counts, targets, (before, after))
        expected = 0.0
        for i in range(3):
            said = targets[i][targets[i] >= 0].tolist()
            row = torch.tensor([[*before, *[model.config.image_token_id] * 256, *after, *said]])
            mask = torch.ones_like(row)
            mask[0, len(before) : len(before) + 256] = keep[i]
            logits = model(
                input_ids=row, pixel_values=pixels[i : i + 1], attention_mask=mask,
                position_ids=torch.arange(row.shape[1])[None],
            ).logits[0, -len(said) - 1 : -1]  # fmt: skip
            expected += torch.nn.functional.cross_entropy(
                logits, torch.tensor(said), reduction="sum"
            )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_pixels_are_the_processors(tokenizer, pool):
    processor = models.build_processor(tokenizer)
    batch = processor(
        images=[Image.fromarray(image.numpy()) for image in pool.images[:2]],
        text=[models.format_prompt(processor)] * 2, return_tensors="pt",
    )  # fmt: skip
    assert torch.allclose(batch["pixel_values"], training.normalise(pool.images[:2]), atol=1e-6)


def test_the_prompt_surrounds_the_image(tokenizer):
    before, after = training.prompt_ids(tokenizer)
    assert tokenizer.decode(before, skip_special_tokens=True) == "USER: "
    assert tokenizer.decode(after) == f"\n{models.PROMPT} ASSISTANT:"


def test_drop_out_is_uniform_in_place():
    counts = torch.full((4000,), 64)
    keep = training.random_keep(counts, 256, torch.Generator().manual_seed(0))
    assert (keep.sum(1) == 64).all()
    share = keep.float().mean(0)  # of each place: 1/4, standard deviation .0068
    assert share.min() > 0.25 - 0.035 and share.max() < 0.25 + 0.035
    mixed = torch.tensor([1, 100, 256])
    assert training.random_keep(mixed, 256, torch.Generator()).sum(1).tolist() == mixed.tolist()


def test_drop_out_is_uniform_in_size():
    generator = torch.Generator().manual_seed(0)
    counts = training.kept_counts(20_000, 256, lowest=0.1, full_share=0.3, generator=generator)
    assert (counts == 256).float().mean() == pytest.approx(0.3, abs=0.02)
    rest = counts[counts < 256]
    assert rest.min() >= 25
    histogram = torch.histc(rest.float(), bins=9, min=25.6, max=256) / len(rest)
    assert (histogram - 1 / 9).abs().max() < 0.015


def test_the_first_stage_learns_what_patches_show(pool):
    scene = sample_scene(scene_seed("train", 3))
    codes, labels = patch_codes(scene), patch_labels(scene)
    assert ((codes > 0) == (labels > 0)).all()
    assert len(np.unique(codes)) - 1 <= len(scene.objects)
    features = torch.randn(2, 256, 32)
    head = torch.nn.Linear(32, 24)
    loss = training.patch_loss(head, features, pool.codes[:2])
    assert loss.item() == pytest.approx(np.log(10) * 2 + np.log(4), rel=0.3)  # chance


# ------------------------------------------------------------------------------------- the schedule


def test_stages_and_rates(tokenizer, pool, tmp_path):
    config = replace(CONFIG, stages=(100, 100, 100), warmup=10)
    run = trainer(tokenizer, pool, tmp_path, config)
    assert [config.stage(s) for s in (0, 99, 100, 199, 200)] == [1, 1, 2, 2, 3]
    assert run.rate(0) < run.rate(9) and run.rate(100) < run.rate(109)  # both warm-ups
    assert run.rate(200) < run.rate(199) * 1.01  # none at the third stage
    assert run.rate(299) == pytest.approx(0.01 * config.learning_rate, rel=0.05)
    # the tower has cooled down by the time it is frozen
    assert run.rate(199, early=True) < 0.02 * config.learning_rate < run.rate(199)


def test_every_scene_comes_before_any_comes_again(tokenizer, pool, tmp_path):
    run = trainer(tokenizer, pool, tmp_path)
    first = torch.cat([run.indices(s) for s in (2, 3, 4, 5, 6, 7)])
    assert first.tolist() == list(range(24))
    again = torch.cat([run.indices(s) for s in range(8, 14)])
    assert sorted(again.tolist()) == list(range(24)) and again.tolist() != list(range(24))
    assert run.indices(0).max() < 6  # the first stage sees a quarter


# ------------------------------------------------------------------------------- stopping, going on


def test_a_resumed_run_equals_an_uninterrupted_one(tokenizer, pool, tmp_path):
    whole = trainer(tokenizer, pool, tmp_path / "whole")
    assert whole.run(report_every=1) == 7
    for until in (1, 3, 5):  # stops once in every stage
        part = trainer(tokenizer, pool, tmp_path / "parts")
        assert part.run(until=until, report_every=1) == until
    part = trainer(tokenizer, pool, tmp_path / "parts")
    assert part.step == 5 and part.run(report_every=1) == 7
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, part.model.state_dict()[name]), name
    rows = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    keys = ("step", "stage", "caption_loss", "patch_loss", "rate")
    assert [[r[k] for k in keys] for r in rows[0]] == [[r[k] for k in keys] for r in rows[1]]
    assert [row["step"] for row in rows[1]] == list(range(1, 8))


def test_what_is_frozen_stays(tokenizer, pool, tmp_path):
    run = trainer(tokenizer, pool, tmp_path)
    start = {k: v.clone() for k, v in run.model.state_dict().items()}
    changed = {}
    for until in (2, 4, 7):
        run.run(until=until)
        now = {k: v.clone() for k, v in run.model.state_dict().items()}
        changed[until] = {k for k in now if not torch.equal(now[k], start[k])}
        start = now
    tower = {k for k in start if "vision_tower" in k}
    assert changed[2] and changed[2] <= tower  # the tower alone
    assert changed[4] & tower and changed[4] - tower  # all together
    assert changed[7] and not changed[7] & tower  # the tower is frozen
    assert not any("encoder.layers.2" in k for k in changed[2] | changed[4])  # LLaVA reads layer -2


def test_time_over_stops_with_a_checkpoint(tokenizer, pool, tmp_path):
    run = trainer(tokenizer, pool, tmp_path)
    assert run.run(max_seconds=0) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert trainer(tokenizer, pool, tmp_path).run() == 7


def test_a_checkpoint_of_other_settings_is_refused(tokenizer, pool, tmp_path):
    trainer(tokenizer, pool, tmp_path).run(until=1)
    other = replace(CONFIG, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.001 there, 0\.5 here"):
        trainer(tokenizer, pool, tmp_path, other)


def test_a_loss_that_is_not_finite_stops_the_run(tokenizer, pool, tmp_path):
    run = trainer(tokenizer, pool, tmp_path, replace(CONFIG, stages=(0, 7, 0)))
    with torch.no_grad():
        run.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="the loss is nan at step 1"):
        run.run(report_every=1)


# --------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def embedded():
    return models.load("embedded", device="cpu")


def test_greedy_captions_are_generates(embedded):
    images, _ = training.draw_split("val", 3)
    said = training.greedy_captions(embedded.model, embedded.processor.tokenizer, images)
    prompt = models.format_prompt(embedded.processor)
    batch = embedded.processor(
        images=[Image.fromarray(image) for image in images], text=[prompt] * 3, return_tensors="pt"
    )
    with torch.inference_mode():
        out = embedded.model.generate(**batch, max_new_tokens=CAPTION_TOKENS, do_sample=False)
    new = out[:, batch["input_ids"].shape[1] :]
    plain = embedded.processor.batch_decode(new, skip_special_tokens=True)
    assert said == [text.strip() for text in plain]


def test_an_error_leaves_the_model_learning(embedded):
    embedded.model.train()
    try:
        with pytest.raises(RuntimeError, match="dimensions"):
            training.greedy_captions(
                embedded.model, embedded.processor.tokenizer, np.zeros((1, 2), np.uint8)
            )
        assert embedded.model.training
    finally:
        embedded.model.eval()


def test_evaluation_sees_pruning_hurt(embedded):
    images, objects = training.draw_split("val", 8)
    rows = training.evaluate(
        embedded.model, embedded.processor.tokenizer, images, objects, keeps=(1.0, 0.125)
    )
    assert [row["keep"] for row in rows] == [1.0, 0.125]
    assert rows[0]["object_f1"] > 0.9 > rows[1]["object_f1"]
    assert all(len(row["captions"]) == 8 for row in rows)


def test_curves_are_drawn(embedded):
    from lib.study.paths import embedded_dir

    lines = (embedded_dir() / "training_log.jsonl").read_text().splitlines()
    figure = training.plot_curves([json.loads(line) for line in lines], (1500, 2600, 2200))
    left, right = figure.axes
    assert {text.get_text() for text in left.get_legend().get_texts()} == {
        "patch loss", "caption loss"
    }  # fmt: skip
    assert right.get_ylabel() == "learning rate"
