"""The grid of places has each criterion where it can stand."""

from collections import Counter
from dataclasses import replace

from lib.geometry import average_tokens
from lib.study.models import read_config
from lib.study.places import places
from lib.study.profiles import load_profile


def test_every_criterion_stands_before_every_layer_at_every_budget():
    profile = replace(load_profile("embedded"), places=(2, 0, 4), budgets=(0.25, 0.0625))
    table = places(profile, read_config("embedded"))
    made = {slug: method.create() for slug, method in table.items() if "even" not in slug}
    for slug, pruner in made.items():
        assert slug == f"{pruner.name}-at{pruner.layer}-{100 * pruner.keep:g}"
        about = {"place": str(pruner.layer), "budget": f"{100 * pruner.keep:g}"}
        assert table[slug].groups == about
    count = Counter((p.name, p.layer) for p in made.values())
    assert set(count.values()) == {2} and ("fastv", 0) not in count
    assert {layer for name, layer in count if name == "fastv"} == {2, 4}
    for name in ("random", "entropy", "selection"):
        assert {layer for other, layer in count if other == name} == {0, 2, 4}


def test_layers_that_a_model_does_not_have_are_left_out():
    profile = replace(load_profile("embedded"), places=(0, 7, 8, 31), budgets=(0.25,))
    table = places(profile, read_config("embedded"))
    assert {m.groups["place"] for m in table.values()} == {"0", "7"}, "and none is even with 2"
    assert places(replace(profile, places=()), read_config("embedded")) == {}


def test_criteria_stand_before_the_model_with_as_many_tokens_a_layer():
    profile = replace(load_profile("embedded"), places=(0, 2), budgets=(0.5, 0.25))
    config = read_config("embedded")
    table = places(profile, config)
    depth = config.get_text_config().num_hidden_layers
    even = {slug: method.create() for slug, method in table.items() if "even" in slug}
    assert set(even) >= {"random-even-50", "entropy-even-25"} and "fastv-even-50" not in even
    for slug, pruner in even.items():
        budget = table[slug].groups["even"]
        there = table[f"{pruner.name}-at2-{budget}"].create()
        kept = there.budget(256)
        average = average_tokens(kept, tokens=256, layer=2, layers=depth)
        assert pruner.layer == 0 and pruner.budget(256) == average
