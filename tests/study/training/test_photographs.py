"""Photographs: crops are what bilinear look-up at those places gives, mixtures stay in bounds."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.study.training import photographs as ph


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def ramps():
    """(2, 32, 32, 3): red grows to the right, green downwards, blue tells the two apart."""
    across = torch.arange(32).expand(32, 32) * 8
    first = torch.stack([across, across.T, torch.full((32, 32), 10)], -1)
    return torch.stack([first, first + torch.tensor([0, 0, 200])]).to(torch.uint8)


def test_a_plain_view_is_the_photograph(ramps):
    views = ph.crop(ramps, 32, ph.PLAIN, generator())
    assert torch.equal((views * 255).round().to(torch.uint8).permute(0, 2, 3, 1), ramps)


def test_crops_are_windows_flipped_half_the_time(ramps):
    many = ramps[:1].expand(400, -1, -1, -1)
    views = ph.crop(many, 16, ph.Augmentation(area=0.3), generator())
    red, green = views[:, 0] * 255 / 8, views[:, 1] * 255 / 8  # columns and rows of the source
    slope = (red[:, 8, 12] - red[:, 8, 4]) / 8 * 16
    assert 0.4 < (slope < 0).float().mean() < 0.6
    width, height = slope.abs() / 32, (green[:, 12, 8] - green[:, 4, 8]) / 8 * 16 / 32
    inside = (width < 0.98) & (height < 0.98)
    area, ratio = (width * height)[inside], (width / height)[inside]
    assert area.min() > 0.28 and area.max() < 1.02 and area.std() > 0.1
    assert ratio.min() > 0.73 and ratio.max() < 1.36
    assert green.min() >= -0.01 and green.max() <= 31.01


def test_jitter_keeps_the_range_and_can_be_off(ramps):
    views = ph.crop(ramps, 32, ph.PLAIN, generator())
    varied = ph.jitter(views, ph.Augmentation(jitter=0.4), generator())
    assert varied.min() >= 0 and varied.max() <= 1 and not torch.allclose(varied, views)
    assert ph.jitter(views, ph.PLAIN, generator()) is views


def test_mixtures_are_blends_or_pastes_of_two():
    black_and_white = torch.zeros(600, 3, 40, 40)
    black_and_white[::2] = 1
    mixed = ph.mix(black_and_white, ph.Augmentation(mix=0.9), generator())
    flat = mixed.flatten(1)
    whole = (flat == flat[:, :1]).all(1)
    pure = ((flat == 0) | (flat == 1)).all(1)
    assert (whole & pure).float().mean() == pytest.approx(0.1, abs=0.06)  # left alone
    assert (pure & ~whole).float().mean() == pytest.approx(0.3, abs=0.08)  # pasted
    assert (~pure).float().mean() == pytest.approx(0.6, abs=0.06)  # blended


def test_a_batch_draws_its_shares(ramps):
    small = torch.zeros((3, 8, 8, 3), dtype=torch.uint8)
    pool = ph.PhotoPool([ramps, torch.empty(0)], [0.25, 0.75])
    plain = ph.Augmentation(area=1.0, ratio=1.0, flip=0.5, jitter=0, mix=0)
    assert (pool.draw(40, 16, plain, generator())[:, 2].amax((1, 2)) > 0).all()  # one group so far
    pool.extend(1, small)
    drawn = pool.draw(40, 16, plain, generator())
    assert drawn.shape == (40, 3, 16, 16)
    assert (drawn[:, 2].amax((1, 2)) > 0).sum() == 10
    pool.extend(1, small)
    assert len(pool.groups[1]) == 6
    with pytest.raises(ValueError, match="shares that sum to 1"):
        ph.PhotoPool([ramps], [0.5])


def test_files_are_squashed_and_kept_in_order(tmp_path):
    paths = [tmp_path / f"{value}.png" for value in range(5)]
    for value, path in enumerate(paths):
        Image.fromarray(np.full((4, 4 + value, 3), value * 40, np.uint8)).save(path)
    squares = ph.read_squares(paths, 4, workers=2)
    assert squares.shape == (5, 4, 4, 3)
    assert squares[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160]
