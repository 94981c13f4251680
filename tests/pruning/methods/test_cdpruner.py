"""CDPruner: a conditional determinantal process, against its definition."""

import math

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

from lib.pruning import create
from lib.pruning.cdpruner import mean_cosine
from tests.pruning.methods.reference import Tower, cosines, kept_by
from tests.pruning.methods.test_mmtok import words_behind
from tests.pruning.test_contract import next_inputs
from tests.tiny import TOKENS, batch, prompt, ragged


def scaled(relevance):
    low, high = relevance.min(), relevance.max()
    return (relevance - low + 1e-6) / (high - low)


def definition(tokens, quality, budget):
    """The pick that adds most to log det, from the determinant itself."""
    kernel = cosines(tokens) * quality.double()[:, None] * quality.double()
    chosen, size = [], len(tokens)
    for _ in range(budget):
        values = [
            -math.inf
            if i in chosen
            else round(torch.logdet(kernel[[*chosen, i]][:, [*chosen, i]]).item(), 9)
            for i in range(size)
        ]  # fmt: skip
        chosen.append(max(range(size), key=lambda i: (values[i], -i)))
    return chosen


@pytest.mark.parametrize("sign", [1, -1])
def test_follows_its_definition_and_budgets_are_nested(model, sign):
    inputs = ragged()
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    embed, wanted = model.get_input_embeddings(), []
    for image, (row, nth) in enumerate([(0, 0), (1, 0), (1, 1), (2, 0)]):
        ids, mask = inputs["input_ids"][row].tolist(), inputs["attention_mask"][row].tolist()
        text = embed(inputs["input_ids"][row, words_behind(ids, mask, nth)]).double()
        unit = torch.nn.functional.normalize(tokens[image].double(), dim=-1)
        relevance = (unit @ torch.nn.functional.normalize(text, dim=-1).T).mean(1)
        wanted.append(definition(tokens[image], scaled(sign * relevance), 14))
    name = {1: "published", -1: "negative"}[sign]
    for keep in (0.1, 0.25, 0.4):
        budget = create("cdpruner", keep=keep).budget(TOKENS)
        got = kept_by("cdpruner", model, inputs, keep=keep, sign=name)
        assert got == [sorted(picks[:budget]) for picks in wanted]


def test_without_relevance_it_is_greedy_log_det(model):
    inputs = ragged()
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    got = kept_by("cdpruner", model, inputs, keep=0.25, relevance="none")
    one = torch.ones(TOKENS)
    # the first pick is a tie: all tokens are as long
    assert got == [sorted(definition(own, one, 9)) for own in tokens]


def clip_of(model):
    """A CLIP whose vision tower is the model's."""
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=60, max_position_embeddings=16, eos_token_id=59, bos_token_id=58,
    )  # fmt: skip
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=model.config.vision_config.to_dict(),
        projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(3)
    clip = CLIPModel(config).eval()
    for parameter in clip.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return clip


def questions():
    words = torch.Generator().manual_seed(5)
    chunk = [torch.randint(1, 57, (n, 7), generator=words) for n in (1, 2, 1)]
    return [
        torch.cat([torch.full((len(c), 1), 58), c, torch.full((len(c), 1), 59)], 1) for c in chunk
    ]


def test_with_clip_relevance_is_negative_in_the_joint_space(model):
    inputs, clip, asked = ragged(), clip_of(model), questions()
    tower = Tower(model, inputs["pixel_values"])
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    wanted = []
    for image, row in enumerate([0, 1, 1, 2]):
        text = clip.text_projection(clip.text_model(asked[row]).pooler_output).double()
        normed = clip.vision_model.post_layernorm(tower.features[image].float())
        patches = clip.visual_projection(normed).double()
        cos = torch.nn.functional.normalize(patches, dim=-1) @ (
            torch.nn.functional.normalize(text, dim=-1).T
        )
        wanted.append(sorted(definition(tokens[image], scaled(-cos.mean(1)), 9)))
    with create("cdpruner", keep=0.25, relevance="clip")(model) as pruner:
        pruner.ask(clip, asked)
        model(**inputs)
        assert [own.tolist() for own in pruner.kept] == wanted
        model.generate(**batch_of_three(), max_new_tokens=2, do_sample=False, num_beams=2)
        assert len(pruner.kept) == 6  # the copies for beams ask what their row asks
        assert pruner.kept[0].tolist() == pruner.kept[1].tolist()


def batch_of_three():
    return batch([prompt(before=3, after=4, seed=s) for s in range(3)], 3)


def test_clip_without_questions_says_what_to_do(model):
    message = r"needs a question for each of the 3 rows, but none were given: call pruner.ask"
    with create("cdpruner", relevance="clip")(model), pytest.raises(ValueError, match=message):
        model(**ragged())
    with create("cdpruner", relevance="clip")(model) as pruner:
        pruner.ask(clip_of(model), questions()[:2])
        with pytest.raises(ValueError, match="3 rows, but 2 were given"):
            model(**ragged())


def test_relevance_is_of_the_image_alone():
    """The code's extremes are those of the batch: a second image would change the first one's."""
    pruner, generator = create("cdpruner"), torch.Generator().manual_seed(1)
    relevance = torch.rand(2, 9, generator=generator) * torch.tensor([[1.0], [50.0]])
    assert torch.equal(pruner.scaled(relevance)[:1], pruner.scaled(relevance[:1]))
    assert torch.equal(pruner.scaled(torch.full((1, 4), 0.3)), torch.ones(1, 4))


def test_strength_is_the_published_exponential():
    relevance = torch.rand(1, 7)
    plain = create("cdpruner").scaled(relevance)
    strong = create("cdpruner", strength=0.5).scaled(relevance)
    torch.testing.assert_close(strong, torch.exp(0.5 * plain))
    assert torch.equal(create("cdpruner", strength=0).scaled(relevance), torch.ones(1, 7))
    with pytest.raises(ValueError, match=r"strength must be in \[0, 1\), got 1"):
        create("cdpruner", strength=1)


def test_the_mean_cosine_ignores_what_is_not_real():
    tokens, text = torch.randn(2, 4, 6), torch.randn(2, 3, 6)
    real = torch.tensor([[True, True, False], [True, True, True]])
    wanted = torch.nn.functional.cosine_similarity(tokens[:, :, None], text[:, None], dim=-1)
    got = mean_cosine(tokens, text, real)
    torch.testing.assert_close(got[0], wanted[0, :, :2].mean(1))
    torch.testing.assert_close(got[1], wanted[1].mean(1))


def test_each_tile_has_its_share(tiled):
    inputs, lengths = next_inputs(tiled)
    for own, length in zip(kept_by("cdpruner", tiled, inputs, keep=0.2), lengths):
        assert len(own) == create("cdpruner", keep=0.2).budget(length)
        assert 7 <= sum(place < 36 for place in own) <= 9
