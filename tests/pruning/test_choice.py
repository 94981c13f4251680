"""From scores to kept sets, against sorting in Python."""

import torch

from lib.pruning.engine.choice import best, log_scale, ranks


def scores():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 6, (3, 40), generator=generator) / 8  # many ties


def sorted_places(row):
    return sorted(range(len(row)), key=lambda i: (-float(row[i]), i))


def test_the_best_are_the_largest_the_first_of_equals():
    found = scores()
    for count in (1, 7, 39, 40):
        mask = best(found, count)
        assert mask.shape == found.shape and mask.dtype == torch.bool
        for row, own in zip(found, mask):
            assert own.nonzero().squeeze(1).tolist() == sorted(sorted_places(row)[:count])


def test_a_rank_is_the_place_in_order():
    found = scores()
    for row, own in zip(found, ranks(found)):
        order = sorted_places(row)
        assert own.tolist() == [order.index(i) for i in range(len(row))]


def test_the_log_scale_keeps_the_order_and_ends_at_the_smallest_number():
    values = torch.tensor([0.0, 1e-42, 1e-30, 1e-6, 0.5, 1.0])
    found = log_scale(values)
    tiny = torch.tensor(torch.finfo(torch.float32).tiny)
    torch.testing.assert_close(found[2:], values[2:].double().log().float())
    assert found[0] == found[1] == tiny.log() and found.isfinite().all()
