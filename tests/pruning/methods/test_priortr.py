"""PriorTR against a prefill written out, and its score's sign."""

import math

import pytest
import torch

from lib.pruning import create
from lib.pruning.priortr import information
from tests.pruning.methods.loop import agrees, largest
from tests.tiny import TOKENS, batch, prompt, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def reference(pruner):
    def choose(moment):
        weights = moment.before["attention"].double().mean(0)[:, moment.columns]
        asked = weights[moment.text].mean(0) if pruner.query == "question" else weights[-1]
        prior = weights[moment.text[0]]
        asked, prior = (row / row.sum() for row in (asked, prior))
        scores = [float(p) * math.log((float(p) + 1e-10) / (float(q) + 1e-10))
                  for p, q in zip(asked, prior)]  # fmt: skip
        keep = largest(scores, pruner.budget(TOKENS))
        return [moment.columns[i] for i in keep], None

    return choose


@pytest.mark.parametrize("query", ["question", "last"])
@pytest.mark.parametrize("layer", [1, 3])
def test_it_is_the_written_out_method(model, query, layer):
    pruner = create("priortr", keep=0.3, query=query, layer=layer)
    agrees(model, pruner, reference(pruner), ragged(seed=4))


def test_scores_add_up_to_a_divergence():
    p, q = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    scores = information(p, q)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(p), torch.distributions.Categorical(q)
    )
    torch.testing.assert_close(scores.sum(-1), kl)
    assert information(p, p).abs().max() < 1e-6
    assert information(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).isfinite().all()


def test_a_token_that_the_prior_ignores_counts_as_one_in_ten_thousand_million():
    found = information(torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double())
    torch.testing.assert_close(found, torch.tensor([math.log(1e10), 0.0]), atol=1e-4, rtol=0)


def test_one_text_token_is_its_own_prior(model):
    pruner = create("priortr", keep=0.25)
    with torch.inference_mode(), pruner(model):
        model(**batch([prompt(before=3, after=1)], 1))
    assert pruner.kept[0].tolist() == list(range(9))
