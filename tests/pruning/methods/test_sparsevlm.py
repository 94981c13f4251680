"""SparseVLM against a prefill written out: raters, recycling, version 2's heads and bias."""

import math

import pytest
import torch

from lib.pruning import create
from lib.pruning.recycling import density_peaks, means, recycled_count
from lib.pruning.sparsevlm import SCHEDULES, raters
from tests.pruning.methods.loop import agrees, largest, rotate
from tests.tiny import TOKENS, ragged, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def rating(moment):
    """Places of the raters in the whole prompt, token by token."""
    total = {t: 0.0 for t in moment.behind}
    for v in moment.whole:
        logits = {t: float(moment.embedded[v].double() @ moment.embedded[t].double())
                  for t in moment.behind}  # fmt: skip
        top = max(logits.values())
        share = {t: math.exp(x - top) for t, x in logits.items()}
        for t in total:
            total[t] += share[t] / sum(share.values()) / len(moment.whole)
    mean = sum(total.values()) / len(total)
    above = [t for t in total if total[t] > mean * (1 + 1e-6)]
    return above or list(total)


def peaks(states, clusters):
    """Density peaks point by point: centres in rising order, and the label of each state."""
    size, width = states.shape
    far = [[float((a - b).norm()) / width**0.5 for b in states] for a in states]
    near = [sorted(row)[:clusters] for row in far]
    density = [math.exp(-sum(d * d for d in row) / clusters) for row in near]
    largest_of_all = max(map(max, far))
    height = []
    for i in range(size):
        denser = [j for j in range(size)
                  if density[j] > density[i] or (density[j] == density[i] and j < i)]  # fmt: skip
        height.append(min((far[i][j] for j in denser), default=largest_of_all))
    centres = largest([h * d for h, d in zip(height, density)], clusters)
    labels = [min(range(clusters), key=lambda c: far[i][centres[c]]) for i in range(size)]
    for c, centre in enumerate(centres):
        labels[centre] = c
    return centres, labels


def reference(plan, pruner):
    scale = pruner.scale(TOKENS)

    def choose(moment):
        chosen = [t for t in rating(moment)]
        voice = [now for now, place in zip(moment.text, moment.behind) if place in chosen]
        weights = moment.before["attention"].double()
        if pruner.version == "2":
            weights = weights / bias(moment)[None]
            rows = weights[:, voice][:, :, moment.columns]
            heads = largest(rows.sum((1, 2)), min(pruner.heads, len(rows)))
            weights = weights[heads]
        scores = weights.mean(0)[voice][:, moment.columns].mean(0)
        before = len(moment.columns)
        kept = max(1, min(int(pruner.shares[moment.stage] * scale * TOKENS + 0.5), before - 1))
        keep = largest(scores, kept)
        order = [moment.columns[i] for i in keep]
        if not pruner.recycle:
            return order, None
        dropped = [i for i in range(before) if i not in keep]
        number = int(len(dropped) * 0.3) + 1
        pool = [dropped[i] for i in largest(scores[dropped], number)]
        states = moment.states[[moment.columns[i] for i in pool]]
        clusters = int(number / 10) + 1
        centres, labels = peaks(states.double(), clusters)
        merged = torch.stack(
            [states[[i for i, own in enumerate(labels) if own == c]].mean(0)
             for c in range(clusters)]
        )  # fmt: skip
        order += [moment.columns[pool[c]] for c in centres]
        states = torch.cat([moment.states[order[:kept]], merged])
        assert len(order) == plan[moment.stage]
        if pruner.order == "raster":
            rank = sorted(range(len(order)), key=lambda i: order[i])
            order, states = [order[i] for i in rank], states[rank]
        return order, states

    return choose


def bias(moment):
    """Scaled products of rotated ones at the positions as the layer had them, bounded below."""
    language = moment.model.model.language_model
    cos, sin = (t[0].double() for t in language.rotary_emb(
        moment.states[None], moment.positions[None]))  # fmt: skip
    ones = torch.ones_like(cos)
    width = cos.shape[-1]
    turned = rotate(ones, cos, sin)
    return (turned @ turned.T / width**0.5).clamp(min=0.01 * width**0.5)


@pytest.mark.parametrize("options", [
    {}, {"schedule": "64"}, {"order": "raster"}, {"positions": "original"}, {"recycle": False},
    {"version": "2"}, {"version": "2", "heads": 2, "schedule": "128"},
])  # fmt: skip
def test_it_is_the_written_out_method(model, options):
    pruner = create("sparsevlm", **options)
    with pruner(model):
        plan = pruner.plan(TOKENS)
    agrees(model, pruner, reference(plan, pruner), ragged(seed=5))


@pytest.mark.parametrize("version, label, average", [
    ("1.5", "192", 206.5), ("1.5", "128", 145.4), ("1.5", "96", 114.1), ("1.5", "64", 82.3),
    ("2", "192", 206.8), ("2", "128", 144.1), ("2", "96", 113.9), ("2", "64", 81.8),
])  # fmt: skip
def test_released_schedules_do_not_average_to_their_label(version, label, average):
    counts = create("sparsevlm", version=version, schedule=label).layer_counts(576, 32)
    assert sum(counts) / 32 == pytest.approx(average, abs=0.06)
    kept = [counts[i] for i in (3, 7, 16)]
    if version == "2":
        assert tuple(kept) == SCHEDULES["2"][label]


def test_recycled_counts():
    assert [recycled_count(p) for p in (0, 1, 9, 33, 100)] == [
        (0, 0), (1, 1), (3, 1), (10, 2), (31, 4)
    ]  # fmt: skip


@pytest.mark.parametrize("clusters", [1, 3, 6])
def test_density_peaks_point_by_point(clusters):
    generator = torch.Generator().manual_seed(clusters)
    states = torch.randn(3, 20, 8, generator=generator)
    states[1, 5] = states[1, 3]  # copies are equally dense
    centres, labels = density_peaks(states, clusters)
    merged = means(states, labels, clusters)
    for item in range(3):
        want, own = peaks(states[item].double(), clusters)
        assert centres[item].tolist() == want and labels[item].tolist() == own
        for c in range(clusters):
            members = states[item][[i for i, label in enumerate(own) if label == c]]
            torch.testing.assert_close(merged[item, c], members.mean(0))


def test_identical_tokens_are_one_cluster_and_their_own_mean():
    states = torch.ones(1, 12, 4)
    centres, labels = density_peaks(states, 2)
    assert centres.tolist() == [[0, 1]] and labels[0, 0] == 0 and labels[0, 1] == 1
    torch.testing.assert_close(means(states, labels, 2), torch.ones(1, 2, 4))


def test_text_without_a_rater_above_the_mean_rates_as_a_whole():
    visual, rows = torch.ones(1, 4, 3), torch.ones(1, 6, 3)
    text = torch.tensor([[False, False, False, True, True, True]])
    assert torch.equal(raters(visual, rows, text), text)
    assert not raters(visual, rows, torch.zeros_like(text)).any()


def test_nothing_is_random(model):
    pruner = create("sparsevlm")
    with torch.inference_mode(), pruner(model):
        first = model(**ragged()).logits
        assert torch.equal(model(**ragged()).logits, first)


def test_an_average_scales_the_schedule():
    pruner = create("sparsevlm", average=192)
    counts = pruner.layer_counts(576, 32)
    assert 191 < sum(counts) / 32 <= 192
    shares = [c / counts[3] for c in (counts[3], counts[7], counts[16])]
    assert shares == pytest.approx([1, 200 / 300, 110 / 300], abs=0.02)
    with pytest.raises(ValueError, match=r"average of 50 tokens a layer is out of reach .* 57"):
        create("sparsevlm", average=50).layer_counts(576, 32)
