"""The greedy draw of centres against a loop, alone and in a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.clustering.seeding import draws, greedy_centres, item_seeds, uniforms

CPU = torch.device("cpu")


def naive_centres(distance, numbers):
    """By lists: the first centre anywhere, then the best of the drawn candidates."""
    size = len(distance)
    centres = [min(int(numbers[0][0] * size), size - 1)]
    closest = distance[centres[0]]
    for row in numbers[1:]:
        options = []
        for number in row:
            target, total = number * sum(closest), 0
            token = size - 1
            for i, value in enumerate(closest[:-1]):
                total += value
                if total > target:
                    token = i
                    break
            nearer = [min(a, b) for a, b in zip(closest, distance[token])]
            options.append((sum(nearer), token, nearer))
        best = min(options, key=lambda option: option[0])
        centres.append(best[1])
        closest = best[2]
    return centres


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 12), clusters=st.integers(1, 12), seed=st.integers(0, 99))
def test_centres_are_those_of_the_loop(size, clusters, seed):
    clusters = min(clusters, size)
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, 6, (3, size, 2), generator=generator).double()
    distance = (points.unsqueeze(2) - points.unsqueeze(1)).square().sum(-1)
    for seeds in ((seed,), (seed, seed + 1, seed + 2)):
        numbers = uniforms(seeds, clusters, torch.float64, CPU).tolist()
        together = greedy_centres(distance, draws(seeds, clusters, CPU))
        assert together.shape == (3, clusters)
        for item in range(3):
            own = numbers[item % len(seeds)]
            assert together[item].tolist() == naive_centres(distance[item].tolist(), own)
            alone = draws((seeds[item % len(seeds)],), clusters, CPU)
            assert torch.equal(greedy_centres(distance[item : item + 1], alone)[0], together[item])


def test_seeds_give_their_own_numbers():
    a, b = uniforms((3, 4), 5, torch.float64, CPU)
    assert torch.equal(a, uniforms((3,), 5, torch.float64, CPU)[0]) and not torch.equal(a, b)
    assert ((a >= 0) & (a < 1)).all()
    assert item_seeds(3, 2) == (3,) and item_seeds([3, 4], 2) == (3, 4)
    with pytest.raises(ValueError, match=r"one per item \(3\), got 2"):
        item_seeds([3, 4], 3)
