"""MMTok: coverage of text and picture, against its definition."""

import pytest
import torch

from lib.pruning import create
from tests.pruning.methods.reference import Tower, cosines, kept_by
from tests.pruning.test_contract import next_inputs
from tests.tiny import IMAGE, TOKENS, batch, prompt, ragged


def definition(features, tokens, text, budget, alpha=0.5, hot=0.02, mild=0.2):
    """The picks of one image; text `(m, D)`."""
    unit = [torch.nn.functional.normalize(one.double(), dim=-1) for one in (text, tokens)]
    rows = [torch.softmax(unit[1] @ t / hot, 0) / len(text) for t in unit[0]]
    similar = cosines(features)
    rows += [alpha * torch.softmax(row / mild, 0) / len(features) for row in similar]
    best, chosen = [0.0] * len(rows), []
    for _ in range(budget):
        gains = []
        for i in range(len(tokens)):
            gain = sum(max(0.0, row[i].item() - b) for row, b in zip(rows, best))
            gains.append(-1.0 if i in chosen else round(gain, 9))
        pick = max(range(len(gains)), key=lambda i: (gains[i], -i))
        chosen.append(pick)
        best = [max(b, row[pick].item()) for row, b in zip(rows, best)]
    return chosen


def words_behind(ids, mask, image):
    """Embedding indices of the text behind the image number `image` of a row."""
    columns = [i for i, token in enumerate(ids) if token == IMAGE]
    last = columns[(image + 1) * TOKENS - 1]
    return [i for i in range(last + 1, len(ids)) if ids[i] != IMAGE and mask[i]]


def test_follows_its_definition_with_ragged_text_and_two_images(model):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    embed = model.get_input_embeddings()
    wanted = []
    for image, (row, nth) in enumerate([(0, 0), (1, 0), (1, 1), (2, 0)]):
        ids, mask = inputs["input_ids"][row].tolist(), inputs["attention_mask"][row].tolist()
        text = embed(inputs["input_ids"][row, words_behind(ids, mask, nth)])
        wanted.append(definition(tower.features[image], tokens[image], text, 18))
    for keep in (0.1, 0.25, 0.5):  # smaller choices are prefixes
        budget = create("mmtok", keep=keep).budget(TOKENS)
        got = kept_by("mmtok", model, inputs, keep=keep)
        assert got == [sorted(picks[:budget]) for picks in wanted]


def test_the_question_matters_and_padding_does_not(model):
    first = batch([prompt(before=3, after=6)], 1)
    other = {**first, "input_ids": first["input_ids"].clone()}
    other["input_ids"][0, -6:] = torch.tensor([7, 19, 33, 47, 61, 75])
    kept = kept_by("mmtok", model, first, keep=0.25)
    assert kept != kept_by("mmtok", model, other, keep=0.25)
    assert kept_by("mmtok", model, first, keep=0.25, alpha=1e6) == kept_by(
        "mmtok", model, other, keep=0.25, alpha=1e6
    )


def test_where_nothing_follows_the_image_all_text_counts(model):
    ids = prompt(before=5, after=4)
    ids = ids[: len(ids) - 4]  # ends with the image
    inputs = batch([ids], 1)
    tower = Tower(model, inputs["pixel_values"])
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    text = model.get_input_embeddings()(torch.tensor(ids[:6]))
    wanted = sorted(definition(tower.features[0], tokens, text, 9))
    assert kept_by("mmtok", model, inputs, keep=0.25) == [wanted]


def test_a_permutation_of_the_tokens_permutes_the_choice():
    pruner, generator = create("mmtok"), torch.Generator().manual_seed(0)
    features, tokens, text = (
        torch.randn(1, n, 8, generator=generator) for n in (20, 20, 5)
    )  # fmt: skip
    real = torch.tensor([[True, True, False, True, True]])
    order = torch.randperm(20, generator=generator)
    whole = pruner.rule([features, tokens, text, real], quota=7)
    turned = pruner.rule([features[:, order], tokens[:, order], text, real], quota=7)
    assert torch.equal(order[turned[0]], whole[0])
    less = pruner.rule([features, tokens, text[:, real[0]], real[:, real[0]]], quota=7)
    assert torch.equal(less, whole)


def test_tiles_are_covered_together(tiled):
    inputs, lengths = next_inputs(tiled)
    for own, length in zip(kept_by("mmtok", tiled, inputs, keep=0.2), lengths):
        assert len(own) == create("mmtok", keep=0.2).budget(length)


def test_bad_options():
    with pytest.raises(ValueError, match="text_temperature must be positive, got 0"):
        create("mmtok", text_temperature=0)
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        create("mmtok", alpha=-1)
