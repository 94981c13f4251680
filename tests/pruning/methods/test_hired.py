"""HiRED: budgets of tiles by early attention, tokens by late attention."""

import pytest
import torch

from lib.pruning import create
from lib.pruning.families import Layout
from lib.pruning.hired import HiRED, covering
from tests.pruning.methods.reference import Tower, kept_by, top
from tests.pruning.test_contract import next_inputs
from tests.tiny import ragged


def layout(rows, columns, side=6):
    """An image of `rows` x `columns` tiles without padding, `side` tokens each way."""
    tile = torch.arange(rows * columns).view(rows, columns) + 1
    mosaic = tile.repeat_interleave(side, 0).repeat_interleave(side, 1)
    wide = torch.cat([mosaic, torch.full((rows * side, 1), -1)], 1)  # newlines
    tiles = torch.cat([torch.zeros(side * side, dtype=torch.int64), wide.flatten()])
    source = torch.where(tiles >= 0, torch.arange(len(tiles)), -1)[:, None]
    places = torch.arange(side * side, len(tiles)).view(rows * side, -1)[:, :-1]
    return Layout(source, None, tiles), [torch.arange(side * side).view(side, side), places]


def shares(pruner, hot, rows, columns, budget, side=6):
    """Tokens that each tile keeps where the class token early looks at `hot` `(side, side)`."""
    one, own = layout(rows, columns, side)
    tiles = one.tiles[one.source[:, 0] >= 0]
    early = torch.zeros(len(tiles))
    early[: side * side] = hot.flatten()
    late = -torch.arange(len(tiles), dtype=torch.float32)
    region = covering(one, own, bands=pruner.regions == "bands")
    kept = pruner.shared(late, early, tiles, region, budget)
    return torch.bincount(tiles[kept], minlength=rows * columns + 1).tolist()


def test_one_hot_quadrant_gives_its_tile_what_the_tiles_share():
    hot = torch.zeros(6, 6)
    hot[:3, 3:] = 1 + torch.rand(3, 3)  # upper right: nine patches
    pruner = HiRED(alpha=0.75)  # so nine are marked
    assert shares(pruner, hot, 2, 2, 20) == [15, 0, 5, 0, 0]


def test_bands_take_the_quadrant_for_two_tiles():
    """As in the code: raster runs of the image are taken for its tiles."""
    hot = torch.zeros(6, 6)
    hot[:3, 3:] = 1 + torch.rand(3, 3)
    # runs of nine patches: three hot ones lie in the first, six in the second; what rounding down
    # leaves over goes to the best token left, here one of the whole image
    assert shares(HiRED(alpha=0.75, regions="bands"), hot, 2, 2, 40) == [31, 3, 6, 0, 0]


def test_floors_and_full_tiles_lose_nothing():
    hot = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    for budget in (1, 2, 3, 7, 50, 100, 150, 179):
        for alpha in (0.0, 0.3, 0.5, 1.0):
            got = shares(HiRED(alpha=alpha), hot, 2, 2, budget)
            assert sum(got) == budget and max(got) <= 36


def test_on_one_tile_it_is_the_top_by_the_sum(model):
    inputs = ragged()
    tower = Tower(model, inputs["pixel_values"])
    weights = tower.attention(tower.last - 1)[:, :, 0, 1:].sum(1)
    assert kept_by("hired", model, inputs, keep=0.25) == [top(own, 9) for own in weights]
    assert kept_by("hired", model, inputs) == kept_by("fastervlm", model, inputs)


def test_llava_next_follows_its_definition(tiled):
    inputs, lengths = next_inputs(tiled)
    pruner = create("hired", keep=0.3, alpha=0.4)
    with pruner(tiled):
        tiled(**inputs)
        kept = [own.tolist() for own in pruner.kept]
        from lib.pruning.engine.tower import layouts_of
        from lib.pruning.engine.vision import record_of

        features = tiled.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
        layouts = layouts_of(pruner.family, record_of(features))
    for image, (own, tokens) in enumerate(zip(layouts, lengths)):
        tower = Tower(tiled, inputs["pixel_values"][image])
        late = tower.attention(tower.last - 1)[:, :, 0, 1:].sum(1)
        early = tower.attention(0)[:, :, 0, 1:].sum(1)
        first = int(own.tiles[0])
        budget = create("hired", keep=0.3).budget(tokens)
        whole = int(0.4 * budget)
        marked = top(early[0], int(36 * 0.6))
        tall = inputs["image_sizes"][image, 0] > inputs["image_sizes"][image, 1]
        region = [1 + ((p // 6 if tall else p % 6) >= 3) for p in range(36)]
        count = [sum(region[p] == t for p in marked) for t in (1, 2)]
        share = {0: whole} | {t: int(count[t - 1] * (budget - whole) / len(marked)) for t in (1, 2)}
        real = [i for i in range(tokens) if own.tiles[i] >= 0]
        score = {i: late.flatten()[int(own.source[i, 0]) - 36 * first].item() for i in real}
        chosen = []
        for tile, number in share.items():
            inside = [i for i in real if int(own.tiles[i]) - first == tile]
            chosen += sorted(inside, key=lambda i: (-score[i], i))[:number]
        rest = sorted(set(real) - set(chosen), key=lambda i: (-score[i], i))
        assert kept[image] == sorted(chosen + rest[: budget - len(chosen)])


def test_bad_options():
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 2"):
        HiRED(alpha=2)
    with pytest.raises(ValueError, match="regions must be one of"):
        HiRED(regions="circles")
