"""Distillation: a perfect student has no loss, a learning one loses it, a stopped run goes on."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, CLIPVisionConfig

from lib.study.training import distillation as di
from lib.study.training.photographs import Augmentation, PhotoPool
from lib.study.training.runs import Run
from lib.study.training.teacher import Knowledge

VISION = CLIPVisionConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
    image_size=224, patch_size=14,
)  # fmt: skip


class Brightness(nn.Module):
    """A teacher that knows the colours of each place."""

    width = 3

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 5)

    @torch.no_grad()
    def forward(self, images):
        maps = nn.functional.avg_pool2d(images, 16).flatten(2).transpose(1, 2)
        places = nn.functional.avg_pool2d(images, 32).flatten(2).transpose(1, 2)
        return Knowledge(maps, places, places.mean(1))


@pytest.fixture
def distiller():
    torch.manual_seed(0)
    teacher = Brightness()
    tower = AutoModel.from_config(VISION)
    photographs = torch.randint(0, 255, (12, 4, 4, 3), dtype=torch.uint8)
    pool = PhotoPool([photographs.repeat_interleave(56, 1).repeat_interleave(56, 2)], [1.0])
    return di.Distiller(tower, 2, di.Heads(32, teacher), teacher, pool, Augmentation(mix=0.5))


def test_what_is_predicted_exactly_costs_nothing(distiller):
    images = torch.rand(2, 3, 256, 256)
    known, heads = distiller.teacher(images), distiller.heads
    heads.measure([known])

    class Perfect(di.Heads):
        def forward(self, states):
            return Knowledge(*(self.standard(n, getattr(known, n)) for n in Knowledge._fields))

    perfect = Perfect(32, distiller.teacher)
    perfect.load_state_dict(heads.state_dict())
    states = torch.randn(2, 257, 32)
    weights = di.DistillWeights()
    loss, agreed = di.distillation_loss(
        perfect, states, known, distiller.teacher.classifier, weights
    )
    assert loss.item() == pytest.approx(0, abs=1e-5) and agreed == 1
    loss, _ = di.distillation_loss(heads, states, known, distiller.teacher.classifier, weights)
    assert loss > 0.1


def test_features_are_standardised(distiller):
    known = [distiller.teacher(torch.rand(8, 3, 256, 256) * 0.3) for _ in range(3)]
    distiller.heads.measure(known)
    values = torch.cat([distiller.heads.standard("places", k.places).flatten(0, 1) for k in known])
    assert values.mean(0).abs().max() < 1e-4 and (values.std(0) - 1).abs().max() < 1e-3
    back = distiller.heads.original("places", distiller.heads.standard("places", known[0].places))
    assert torch.allclose(back, known[0].places, atol=1e-5)


def test_the_tower_learns_and_a_stopped_run_goes_on(distiller, tmp_path):
    parts = {"tower": distiller.tower, "heads": distiller.heads}
    plan = di.DistilPlan(batch_size=6, learning_rate=3e-3, warmup=3)
    untouched = distiller.tower.encoder.layers[2].mlp.fc1.weight.detach().clone()
    run = Run("distil", tmp_path, parts, {}, steps=30)
    di.distil(distiller, plan, run, report_every=10)
    losses = [row["loss"] for row in run.rows]
    assert len(losses) == 3 and losses[-1] < 0.7 * losses[0]
    assert torch.equal(distiller.tower.encoder.layers[2].mlp.fc1.weight, untouched)  # never read
    assert 0 <= distiller.agreement(distiller.pool.groups[0], batch_size=5) <= 1
    run.checkpoint()
    again = Run("distil", tmp_path, parts, {}, steps=34)
    di.distil(distiller, plan, again, report_every=4)
    assert again.step == 34 and len(again.rows) == 5
