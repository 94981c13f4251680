"""Against a loop without cache, batch or shared vision, which hides dropped tokens by a mask."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lib.pruning import create
from lib.study import models
from lib.study.captioning import ImageError, SharedVision, caption_methods, load_image
from lib.study.data import Example
from lib.study.data.scenes import captions, draw, sample_scene, scene_seed
from lib.study.divergence import Overheard, divergence, reference_ids
from lib.study.divergence.reader import Reader
from lib.study.divergence.text import Text
from lib.study.models import full_prompt
from tests import tiny
from tests.study.captioning.conftest import kit, pictures  # noqa: F401
from tests.study.models import families

REFERENCES = (
    ("a red circle", "two blue squares and a red circle"),
    ("two", "a red and blue circle"),
    ("a red circle and two blue squares",),
)
PRUNERS = {
    f"{name} {mode} {layer}": (name, {"keep": 0.3, "layer": layer, "mode": mode})
    for name in ("fastv", "random", "entropy")
    for mode in ("inplace", "mask")
    for layer in (0, 2)
    if (name, layer) != ("fastv", 0)
}


@pytest.fixture
def ends(kit, monkeypatch):  # noqa: F811
    """The tiny model with an end token."""
    model, processor = kit
    end = [processor.tokenizer.eos_token_id, 5]
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    return model, processor


@pytest.fixture(scope="module")
def examples(pictures):  # noqa: F811
    return [replace(p, references=texts) for p, texts in zip(pictures, REFERENCES)]


@contextmanager
def hidden_from(model, layer, hide, length):
    """Attention without these positions from a layer on; a position still sees itself."""
    causal = torch.full((length, length), float("-inf")).triu(1)
    cut = causal.clone()
    cut[:, hide] = float("-inf")
    cut.fill_diagonal_(0)
    handles = []
    for index, block in enumerate(model.model.language_model.layers):
        bias = (cut if index >= layer else causal)[None, None]

        def put(module, args, kwargs, bias=bias):
            return args, kwargs | {"attention_mask": bias}

        handles.append(block.register_forward_pre_hook(put, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def naive(kit, example, pruner, references=2):  # noqa: F811
    """One image, one reference at a time: a whole forward pass, the kept set from a prefill."""
    model, processor = kit
    prompt = full_prompt(processor, models.PROMPT)
    inputs = processor(images=load_image(example.path), text=prompt, return_tensors="pt")
    pixels, start = inputs["pixel_values"], inputs["input_ids"].shape[1]
    image = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    hide, kept = image[:0], len(image)
    kl = nll = tokens = 0
    with torch.inference_mode():
        if pruner is not None:
            with pruner(model) as active:
                if hasattr(active, "image_keys"):
                    active.image_keys = torch.tensor([example.image_id])
                model(**inputs)
            dropped = torch.ones(len(image), dtype=torch.bool)
            dropped[pruner.kept[0]] = False
            kept = len(pruner.kept[0])
            hide = image[dropped]
        for text in example.references[:references]:
            said = torch.tensor([reference_ids(model, processor, prompt, text)])
            ids = torch.cat([inputs["input_ids"], said], dim=1)
            rows = slice(start - 1, ids.shape[1] - 1)
            whole = model(input_ids=ids, pixel_values=pixels).logits[0, rows].log_softmax(-1)
            with hidden_from(model, getattr(pruner, "layer", 0), hide, ids.shape[1]):
                cut = model(input_ids=ids, pixel_values=pixels).logits[0, rows].log_softmax(-1)
            kl += (whole.exp() * (whole - cut)).sum().item()
            nll -= cut.gather(1, said[0, :, None]).sum().item()
            tokens += said.shape[1]
    said = {"image_id": example.image_id, "tokens": tokens, "kept": kept}
    said["visual_tokens"] = len(image)
    return said | {"kl": kl / tokens, "nll": nll / tokens}


def same(found, expected, within=1e-5):
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=within)


# ---------------------------------------------------------------------------------- the definition


@pytest.mark.parametrize("name", PRUNERS)
def test_it_is_the_naive_loop_s(ends, examples, name):
    method, options = PRUNERS[name]
    found = divergence(*ends, examples, {name: create(method, **options)}, progress=False)[name]
    expected = [naive(ends, example, create(method, **options)) for example in examples]
    same(found, expected)
    assert all(row["kl"] > 1e-4 for row in found)


@pytest.mark.parametrize("references", [1, 2, 3])
def test_so_many_references_as_there_are(ends, examples, references):
    pruner = create("fastv", keep=0.3, layer=2)
    found = divergence(*ends, examples, {"x": pruner}, references=references, progress=False)["x"]
    same(found, [naive(ends, e, create("fastv", keep=0.3, layer=2), references) for e in examples])


def test_nothing_pruned_is_exactly_nothing(ends, examples):
    pruners = {"unpruned": None} | {
        name: create(name, keep=1.0, layer=0 if name == "random" else 2)
        for name in ("random", "fastv", "entropy")
    }
    found = divergence(*ends, examples, pruners, progress=False)
    assert found["unpruned"][0]["kept"] == found["random"][0]["kept"]
    for rows in found.values():
        assert [row["kl"] for row in rows] == [0.0] * len(examples)
        assert rows == found["unpruned"]
    same(found["unpruned"], [naive(ends, example, None) for example in examples])


def test_a_batch_is_its_images_one_by_one(ends, examples):
    def found(batch_size):
        made = {name: create(method, **options) for name, (method, options) in PRUNERS.items()}
        made["tome"] = create("tome", keep=0.5)
        return divergence(*ends, examples, made, batch_size=batch_size, progress=False)

    one, two, all_ = found(1), found(2), found(16)
    for name in one:
        same(two[name], one[name])
        same(all_[name], one[name])
    assert all(row["kl"] > 1e-4 for row in one["tome"])


def test_padded_prompts_are_read_like_single_ones():
    """Left-padded rows, as prompts of images of different sizes are."""
    model = tiny.tiny_llava()
    model.config.image_token_id = tiny.IMAGE
    said = [[[11, 12, 13, 14]], [[21]], [[31, 32, 33]]]  # one token needs no second pass
    prompts = [tiny.prompt(before=b, after=a, seed=b) for b, a in ((2, 4), (9, 6), (5, 3))]
    together = tiny.batch(prompts, 3)

    class Picture:
        def __init__(self, image_id):
            self.image_id = image_id

    def read(rows, pruner):
        inputs = tiny.batch([prompts[row] for row in rows], len(rows))
        inputs["pixel_values"] = together["pixel_values"][rows]
        text = Text.of([said[row] for row in rows], model.device)
        reader = Reader(model, SharedVision(model))
        with torch.inference_mode():
            return reader([Picture(row) for row in rows], inputs, text, {"x": pruner})["x"]

    for method, options in PRUNERS.values():
        whole = read([0, 1, 2], create(method, **options))
        same(whole, [read([row], create(method, **options))[0] for row in range(3)])
        assert [row["tokens"] for row in whole] == [4, 1, 3] and whole[0]["kl"] > 1e-4


def test_the_embedded_model_on_a_scene(tmp_path):
    loaded = models.load("embedded", device="cpu")
    scene = sample_scene(scene_seed("test", 15))
    Image.fromarray(draw(scene)).save(tmp_path / "scene.png")
    example = Example(1, tmp_path / "scene.png", tuple(captions(scene, 1)))
    model = loaded.model, loaded.processor
    methods = ("fastv", "random", "entropy")
    made = {name: create(name, keep=0.125, layer=2) for name in methods}
    found = divergence(*model, [example], made, progress=False)
    for name in methods:
        same(found[name], [naive(model, example, create(name, keep=0.125, layer=2))])
        assert 0 < found[name][0]["kl"] < 2


# -------------------------------------------------------------------------------- what is averaged


def test_the_mean_is_over_tokens_not_over_references():
    text = Text.of([[[1, 2, 3], [4]], [[5, 6]]], torch.device("cpu"))
    assert text.targets.tolist() == [1, 4, 5, 2, 3, 6]
    assert text.image.tolist() == [0, 0, 1, 0, 0, 1]
    assert text.ids.shape == (4, 2) and text.first.tolist() == [True, True, True, False]
    values = torch.tensor([1.0, 10.0, 3.0, 2.0, 3.0, 5.0])
    assert text.means(values, 2) == [16 / 4, 8 / 2] and text.counts(2).tolist() == [4, 2]


def test_records_are_plain_json_in_the_order_of_the_images(ends, examples):
    found = divergence(
        *ends,
        examples[::-1],
        {"a": None, "b": create("random", keep=0.5)},
        batch_size=2,
        progress=False,
    )
    assert json.loads(json.dumps(found)) == found and list(found) == ["a", "b"]
    for rows in found.values():
        assert [row["image_id"] for row in rows] == [e.image_id for e in examples[::-1]]
        assert all(math.isfinite(row["kl"]) and row["nll"] > 0 for row in rows)


# ---------------------------------------------------------------------------------------- its words


def test_a_caption_is_tokenised_as_the_model_says_it(ends):
    model, processor = ends
    tokenizer = processor.tokenizer
    prompt = full_prompt(processor, models.PROMPT)
    assert prompt.endswith("ASSISTANT:")
    ids = reference_ids(model, processor, prompt, "a red circle")
    # as training has it: a space before the first word, the end token last
    spoken = tokenizer(" a red circle", add_special_tokens=False)["input_ids"]
    assert ids == [*spoken, tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " a red circle"
    after_line = reference_ids(model, processor, prompt + "\n", "a red circle")
    plain = tokenizer("a red circle", add_special_tokens=False)["input_ids"]
    assert after_line[:-1] == plain != spoken


def test_the_end_token_is_the_one_that_stops(kit, monkeypatch):  # noqa: F811
    model, processor = kit
    prompt = full_prompt(processor, models.PROMPT)
    without = reference_ids(model, processor, prompt, "a red circle")
    for end, expected in ((None, []), (7, [7]), ([9, 7], [9])):
        monkeypatch.setattr(model.generation_config, "eos_token_id", end)
        assert reference_ids(model, processor, prompt, "a red circle") == without + expected


@pytest.mark.parametrize(
    "text, says", [("see <image> here", "holds the image placeholder"), ("  ", "is blank")]
)
def test_a_caption_that_cannot_be_read_is_named(ends, examples, text, says):
    odd = [replace(examples[0], references=(text,))]
    with pytest.raises(ValueError, match=f"the caption {text!r} {says}"):
        divergence(*ends, odd, {"x": None}, progress=False)


# ------------------------------------------------------------------------------------- around it


def test_the_model_is_left_as_it_was(ends, examples):
    model, processor = ends
    hooks = {name: len(m._forward_pre_hooks) for name, m in model.named_modules()}
    model.train()
    divergence(model, processor, examples, {"x": create("tome", keep=0.5)}, progress=False)
    assert model.training
    with pytest.raises(ImageError, match=r"missing: .*gone\.png"):
        gone = [replace(examples[0], path=examples[0].path.with_name("gone.png"))]
        divergence(model, processor, gone, {"x": None}, progress=False)
    assert model.training
    model.eval()
    assert {name: len(m._forward_pre_hooks) for name, m in model.named_modules()} == hooks
    assert "forward" not in vars(model.model.vision_tower)


def test_wrong_input_is_named(ends, examples):
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 16"):
        divergence(*ends, examples, {"x": None}, references=0)
    with pytest.raises(ValueError, match="got 2 and 0"):
        divergence(*ends, examples, {"x": None}, batch_size=0)
    with pytest.raises(ValueError, match="examples is empty"):
        divergence(*ends, [], {"x": None})
    with pytest.raises(ValueError, match="occurs twice"):
        divergence(*ends, [examples[0]] * 2, {"x": None})
    with pytest.raises(ImageError, match="without references"):
        divergence(*ends, [replace(examples[0], references=())], {"x": None})


def test_too_large_a_batch_says_what_to_do(ends, examples, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Reader, "_log_probabilities", full)
    with pytest.raises(torch.OutOfMemoryError) as error:
        divergence(*ends, examples, {"x": None}, progress=False)
    assert "batch_size=3 does not fit" in error.value.__notes__[0]


# ---------------------------------------------------------------------------------- other families


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "llava_next"])
def test_other_families_read_at_their_own_positions(family, examples, tmp_path):
    """A prompt and its caption in one whole pass, where the model counts the positions."""
    model, processor, _ = models.load(str(families.save(family, tmp_path / family)), device="cpu")
    prompt = full_prompt(processor, "Describe.")
    pruners = {"unpruned": None, "random": create("random", keep=0.5)}
    how = {"prompt": "Describe.", "references": 1, "progress": False}
    found = divergence(model, processor, examples, pruners, **how)
    nested = hasattr(processor, "image_seq_len")
    for example, row in zip(examples, found["unpruned"]):
        image = load_image(example.path)
        inputs = dict(
            processor(images=[[image] if nested else image], text=[prompt], return_tensors="pt")
        )
        said = torch.tensor([reference_ids(model, processor, prompt, example.references[0])])
        before = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], said], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if (kinds := inputs.get("mm_token_type_ids")) is not None:
            inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(said)], 1)
        with torch.inference_mode():
            logits = model(**inputs).logits[0, before - 1 : -1].log_softmax(-1)
        assert row["nll"] == pytest.approx(-logits.gather(1, said.T).mean().item(), abs=1e-4)
        assert row["kl"] == 0
    assert all(row["kl"] > 1e-4 for row in found["random"])
    single = divergence(model, processor, examples, pruners, batch_size=1, **how)
    same(single["random"], found["random"], 1e-4)


def test_what_captions_is_measured_on_the_way(ends, examples):
    """The same records as by a pass of its own, and the same captions."""
    model, processor = ends
    made = {slug: create(name, **options) for slug, (name, options) in PRUNERS.items()}
    pruners = {"unpruned": None, **made}
    how = {"batch_size": 2, "progress": False}
    found = {slug: [] for slug in pruners}

    def store(records):
        for slug, rows in records.items():
            found[slug] += rows

    listener = Overheard(model, processor, list(pruners), store)
    heard = caption_methods(model, processor, examples, pruners, None, listener=listener, **how)
    alone = caption_methods(model, processor, examples, pruners, None, **how)
    for slug, rows in alone.items():
        assert [row["caption"] for row in heard[slug]] == [row["caption"] for row in rows]
    expected = divergence(model, processor, examples, pruners, **how)
    for slug, rows in expected.items():
        for row, one in zip(found[slug], rows, strict=True):
            for name in ("kl", "nll"):
                assert row.pop(name) == pytest.approx(one.pop(name), rel=1e-5, abs=1e-7)
            assert row == one


def test_batches_not_wanted_and_methods_not_heard_leave_no_record(ends, examples):
    model, processor = ends
    pruners = {"unpruned": None, "random": create("random", keep=0.3)}
    stored = []
    how = {"batch_size": 1, "progress": False}
    first = examples[0].image_id
    listener = Overheard(
        model, processor, list(pruners), stored.append,
        wanted=lambda batch: batch[0].image_id == first,
    )  # fmt: skip
    caption_methods(model, processor, examples, pruners, None, listener=listener, **how)
    assert [[row["image_id"] for row in rows["random"]] for rows in stored] == [[first]]
    stored.clear()
    only = {"random": pruners["random"]}
    caption_methods(model, processor, examples, only, None, listener=listener, **how)
    caption_methods(model, processor, examples, {"unpruned": None}, None, listener=listener, **how)
    assert not stored
