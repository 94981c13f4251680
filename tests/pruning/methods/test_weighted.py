"""Weighted choices in a prefill written out: which attention weighs, and what is chosen then."""

from types import SimpleNamespace

import pytest
import torch

from lib.entropy import effective_rank
from lib.pruning import create
from lib.selection import Worth, typical_rank, weighted
from tests.pruning.methods.loop import agrees, run
from tests.tiny import TOKENS, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def weight_of(pruner, moment, layers):
    if pruner.attention == "mean":
        parts = [made["attention"] for made in layers]
    elif pruner.attention == "value":
        made = layers[-1]
        share = len(made["attention"]) // len(made["values"])
        length = made["values"].norm(dim=-1).repeat_interleave(share, 0)
        parts = [made["attention"] * length[:, None]]
    else:
        parts = [layers[-1]["attention"]]
    rows = torch.stack([part.double().mean(0) for part in parts]).mean(0)[:, moment.columns]
    row = rows[-1] if pruner.query == "last" else rows[moment.text].mean(0)
    return row**pruner.power / (row**pruner.power).mean()


def reference(pruner):
    """All layers before the pruning one are run again, since the weights may need any of them."""

    def choose(moment):
        states, layers = moment.embedded, []
        for block in moment.model.model.language_model.layers[: moment.index]:
            states, made = run(moment.model, block, states, torch.arange(len(states)))
            layers.append(made)
        weights = weight_of(pruner, moment, layers)
        terms = {n: getattr(pruner, n) for n in ("cover", "entropy", "volume", "relevance")}
        budget = pruner.budget(TOKENS)
        order = weighted(
            moment.states[moment.columns].double(),
            budget,
            weights * (1 - pruner.uniform) + pruner.uniform,
            worth=Worth(**terms),
            first=int(pruner.floor * budget + 0.5),
            priority=weights,
            one_shot=pruner.form == "one-shot",
            nodes=40,
        )
        return [moment.columns[i] for i in sorted(order.tolist())], None

    return choose


@pytest.mark.parametrize("options", [
    {}, {"attention": "mean", "query": "text"}, {"attention": "value", "layer": 3},
    {"power": 0.5, "uniform": 0.3}, {"floor": 0.5, "keep": 0.25}, {"cover": 0.0, "volume": 1.0},
    {"cover": 0.0, "entropy": 1.0, "form": "one-shot"}, {"floor": 0.4, "uniform": 1.0},
    {"relevance": 1.0, "layer": 1},
])  # fmt: skip
def test_it_is_the_written_out_method(model, options):
    pruner = create("weighted", **options)
    agrees(model, pruner, reference(pruner), ragged(seed=7))


def test_without_weights_it_is_the_studys_other_rule(model):
    """Entropy and coverage of equal tokens: `selection` with its "adaptive" strategy."""
    options = {"source": "language", "layer": 2, "keep": 0.3}
    kept = []
    for name, more in (
        ("selection", {}),
        ("weighted", {"entropy": 1.0, "attention": "none"}),
    ):
        with torch.inference_mode(), create(name, **options, **more)(model) as pruner:
            model(**ragged())
        kept.append([k.tolist() for k in pruner.kept])
    assert kept[0] == kept[1]


def test_budgets_follow_the_rank_and_average_to_the_wanted_one(model):
    inputs, seen = ragged(), {}

    class Watched(type(create("weighted"))):
        def spans(self, states, weights):
            seen["states"] = states
            return super().spans(states, weights)

    with torch.inference_mode(), Watched(keep=0.25, count="adaptive", typical=5.0)(model):
        model(**inputs)
    ranks = effective_rank(seen["states"].double())
    typical = typical_rank(ranks, 9, TOKENS)
    with (
        torch.inference_mode(),
        create("weighted", keep=0.25, count="adaptive", typical=typical)(model) as pruner,
    ):
        model(**inputs)
        assert pruner.most(TOKENS) == 18
    counts = torch.tensor(pruner.kept_counts).double()
    assert abs(counts.mean() - 9) <= 0.5
    assert counts.argsort().tolist() == ranks.argsort().tolist() or counts.unique().numel() < 4
    expected = (9 * ranks / typical + 0.5).floor().clamp(1, 18)
    assert counts.tolist() == expected.tolist()
    smaller = [k.tolist() for k in pruner.kept]
    with torch.inference_mode(), create("weighted", keep=0.5)(model) as fixed:
        model(**inputs)
    assert all(set(a) <= set(b.tolist()) for a, b in zip(smaller, fixed.kept))  # nested


def test_adaptive_counts_do_not_depend_on_how_wide_the_states_are():
    generator = torch.Generator().manual_seed(0)
    pruner = create("weighted", count="adaptive", typical=2.0)
    for width in (3, 40):
        given = [torch.randn(2, 20, width, generator=generator), torch.ones(2, 20)]
        own = pruner.budgets(*given, 10)
        assert int(own.max()) > 10
        assert torch.equal(pruner._select(given, budget=10).sum(1), own)


def test_tokens_that_nobody_attends_to_weigh_alike():
    pruner = create("weighted")
    pruner._watched = [SimpleNamespace(taken=lambda pass_: None)]
    found = torch.tensor([[0.0] * 4, [0.2, 0.0, 0.4, 0.2]])
    pruner._attended = lambda images, taken: found
    images = SimpleNamespace(prefill=None, columns=torch.zeros(2, 4))
    want = torch.tensor([[1.0] * 4, [1.0, 0.0, 2.0, 1.0]])
    torch.testing.assert_close(pruner.weights(images), want)


@pytest.mark.parametrize("options, message", [
    ({"layer": 0}, "none before 0"),
    ({"count": "adaptive"}, "needs typical"),
    ({"count": "adaptive", "typical": -1.0}, "typical and power must be positive"),
    ({"count": "adaptive", "typical": 2.0, "bound": 0.5}, "bound must be at least 1"),
    ({"uniform": 1.5}, "uniform must be in"),
    ({"floor": -0.1}, "floor must be in"),
    ({"floor": 1.5}, "floor must be in"),
    ({"power": -1.0}, "power must be in"),
    ({"cover": 0.0}, "must be positive, all are 0"),
    ({"entropy": float("nan")}, "entropy must be finite"),
    ({"attention": "first"}, "attention must be one of"),
])  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        create("weighted", **options)
