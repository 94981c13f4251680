"""The text a rule reads before the language model does, against plain loops over strings."""

import pytest
import torch

from lib.pruning.engine.images import ImageTokens
from lib.pruning.engine.text import text_of
from tests.pruning.test_passes import ROWS, pass_of


@pytest.mark.parametrize(
    "rows", [ROWS, ["tIItt"], ["ttII", "ttII"], [".tII", "tIIt"], ["tIIt..", "tIIttt"]]
)
def test_it_is_what_stands_behind_the_image_or_all_where_nothing_does(rows):
    pass_ = pass_of(rows)
    pass_.entering = torch.arange(len(rows) * len(rows[0]) * 1.0).view(len(rows), -1, 1)
    row_of, columns, want = [], [], []
    for number, row in enumerate(rows):
        spots = [i for i, c in enumerate(row) if c == "I"]
        for first, last in zip(spots[0::2], spots[1::2]):
            row_of.append(number)
            columns.append([first, last])
            words = [i for i, c in enumerate(row) if c == "t"]
            behind = [i for i in words if i > last] or words
            want.append([float(number * len(row) + i) for i in behind])
    images = ImageTokens(
        torch.tensor(row_of), torch.tensor(columns), [*range(len(row_of))], pass_
    )  # fmt: skip
    states, real = text_of(images)
    beside = max(len(row) - row.count("I") for row in rows)
    assert real.shape == (len(want), beside) and states.shape == (*real.shape, 1)
    assert [own[mine, 0].tolist() for own, mine in zip(states, real)] == want
