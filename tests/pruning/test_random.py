"""The draw of RandomPrune goes with the image's bits, on every machine alike."""

import torch

from lib.pruning.random_prune import content_key, mix


def splitmix(x):
    """The finaliser of SplitMix64 behind its increment, in whole numbers."""
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return x ^ x >> 31


def signed(x):
    return x - (1 << 64) if x >> 63 else x


def test_mixed_numbers_are_those_of_splitmix64():
    given = [0, 1, -1, 2**40 + 7, -(2**63), 2**63 - 1]
    wanted = [signed(splitmix(x % 2**64)) for x in given]
    assert mix(torch.tensor(given)).tolist() == wanted


def test_an_image_is_told_by_its_bits_and_their_places():
    rows = torch.tensor([[1.5, -2.0, 0.25], [-2.0, 1.5, 0.25]])
    bits = rows.view(torch.int32).tolist()
    wanted = [
        signed(splitmix(sum(splitmix(place) * bit for place, bit in enumerate(row)) % 2**64))
        for row in bits
    ]
    for _ in range(2):  # what was worked out once serves again
        assert content_key(rows).tolist() == wanted
    half = rows.bfloat16()
    assert content_key(half).tolist() != wanted and content_key(half[:1]).shape == (1,)
