"""What is taken of a sequence, against plain indexing."""

import pytest
import torch

from lib.pruning.engine.sequence import take_positions, take_rotary


@pytest.mark.parametrize("lead", [(), (3,)])  # a table, or one for each of three axes
@pytest.mark.parametrize("rows", [1, 2])  # one for all rows of the batch, or each its own
def test_rotary_tables_and_positions_are_those_of_the_tokens_that_stay(lead, rows):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(*lead, rows, 5, 4, generator=generator)
    ids = torch.randint(0, 99, (*lead, rows, 5), generator=generator)
    index = torch.tensor([[0, 2, 3], [1, 4, 4]])
    own = [(min(row, rows - 1), kept) for row, kept in enumerate(index)]
    wanted = torch.stack([table[..., row, kept, :] for row, kept in own], -3)
    assert torch.equal(take_rotary(table, index), wanted)
    wanted = torch.stack([ids[..., row, kept] for row, kept in own], -2)
    assert torch.equal(take_positions(ids, index), wanted)
