"""The catalogue's runs: every one can be made, at the average it says; the candidates, too."""

import pytest

from lib.pruning import available, create
from lib.study.grid import AVERAGES, CONTROLS, candidates, catalogue, grid, questions, tail_of

DEPTHS = {32: 576, 30: 256, 8: 256}


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_run_keeps_within_its_average_and_uses_it(depth):
    tokens = DEPTHS[depth]
    for slug, (name, options) in grid(depth).items():
        pruner = create(name, **options)
        counts = pruner.layer_counts(tokens, depth)
        average, wanted = sum(counts) / depth, options["average"] * tokens
        assert average <= wanted + 1e-9, slug
        # a smaller picture has whole rows and columns
        assert average > (0.93 if pruner.exact else 0.87) * wanted - 1, slug
        assert min(counts) >= 1, slug


def test_every_method_is_there_wherever_it_fits():
    runs = grid(32)
    for average in AVERAGES:
        here = {name for name, options in runs.values() if options["average"] == average}
        assert here == set(available())
    assert {name for name, _ in grid(8).values()} == set(available())
    shallow = [slug for slug in grid(8) if slug.endswith("-a11")]  # one layer of eight is too many
    assert "fastv-a11" not in shallow and "random-a11" in shallow


def test_controls_stand_at_fastvs_layer_too():
    for name in CONTROLS:
        assert grid(32)[f"{name}-layer2-a11"][1]["layer"] == 2
        assert "layer" not in grid(32)[f"{name}-a11"][1]
        assert grid(8)[f"{name}-layer1-a22"][1]["layer"] == 1


@pytest.mark.parametrize("depth", DEPTHS)
def test_rows_have_labels_of_their_own_at_each_average(depth):
    table = catalogue(depth)
    assert list(table) == list(grid(depth))
    for average in AVERAGES:
        rows = [row for row in table.values() if row.groups["average"] == tail_of(average)]
        assert len({row.label for row in rows}) == len(rows)
        assert {row.options["average"] for row in rows} == {average}


def test_everything_is_compared_with_chance_and_fastv_at_its_own_average():
    table = catalogue(8)
    families = {family.name: family for family in questions(table, ("divergence", "CIDEr"))}
    tails = [tail_of(average) for average in AVERAGES]
    rivals = [f"{rival}-a{tail}" for tail in tails for rival in ("random", "fastv")]
    # FastV needs a layer of eight in front of it, which is more than a ninth
    assert families.keys() == {
        f"{rival} {metric}"
        for rival in rivals if rival != "fastv-a11" for metric in ("divergence", "CIDEr")
    }  # fmt: skip
    for name, family in families.items():
        rival, metric = name.split(" ")
        own = [slug for slug in table if slug.endswith(rival[-4:])]
        assert family.metrics == (metric,) and {b for _, b in family.pairs} == {rival}
        assert [a for a, _ in family.pairs] == [slug for slug in own if slug != rival]


@pytest.mark.parametrize("slug", candidates())
def test_candidates_can_be_made_at_any_budget_and_layer(slug):
    name, options = candidates()[slug]
    for layer in (1, 8):
        assert create(name, keep=0.25, layer=layer, **options).budget(256) == 64


def test_candidates_are_as_many_as_a_night_allows_and_all_different():
    settings = [create(name, **options).options() for name, options in candidates().values()]
    assert 12 <= len(settings) <= 60
    assert all(a != b for i, a in enumerate(settings) for b in settings[:i])
