"""What is compared is declared: one place for criteria, one criterion for places."""

import pytest

from lib.study import comparisons
from lib.study.ablations import ablations
from lib.study.labels import BEFORE, DEEP, DIVERGENCE
from lib.study.methods import methods
from lib.study.models import read_config
from lib.study.places import places
from lib.study.profiles import load_profile


@pytest.fixture(scope="module")
def profile():
    return load_profile("embedded")


def families(found):
    return {family.name: family for family in found}


def test_every_pair_is_in_table_1_and_every_family_asks_something(profile):
    table = methods(profile)
    found = families(comparisons.captions(profile, table, ("CIDEr", "BLEU-4")))
    assert found.keys() <= comparisons.QUESTIONS.keys()
    for family in found.values():
        assert family.metrics == ("CIDEr", "BLEU-4")
        assert {slug for pair in family.pairs for slug in pair} <= table.keys()
        assert len(set(family.pairs)) == len(family.pairs)
    assert {a for a, _ in found["pruning"].pairs} == table.keys() - {"unpruned"}
    read = families(comparisons.divergences(profile, table))
    assert "pruning" not in read, "the unpruned model's divergence is 0 by definition"
    assert read.keys() == found.keys() - {"pruning"}


def test_criteria_are_compared_at_one_place_and_places_by_one_criterion(profile):
    table = methods(profile)
    found = families(comparisons.divergences(profile, table))
    for name, layer in ((BEFORE, 0), (DEEP, 2)):
        for pair in found[name].pairs:
            assert {table[slug].create().layer for slug in pair} == {layer}, pair
    assert ("entropy-layer2-50", "fastv-50") in found[DEEP].pairs
    assert {a for a, b in found["paper"].pairs if b == "random-50"} == {
        "entropy-50", "tome-50", "fastv-50",
    }  # fmt: skip
    for a, b in found["place"].pairs:
        one, other = table[a].create(), table[b].create()
        assert one.name == other.name and one.layer > other.layer


def test_ablations_stand_against_the_default_they_vary(profile):
    table = ablations(profile, read_config("embedded"))
    found = families(comparisons.ablated(profile, table))
    assert {b for _, b in found["ablations"].pairs} == {"entropy-25"}
    assert {b for _, b in found["strategies"].pairs} == {"selection-25"}
    compared = {a for family in found.values() for a, _ in family.pairs}
    varied = {slug for slug, method in table.items() if method.groups.keys() - {"sweep"}}
    assert compared == varied - {"entropy-25", "selection-25"}


def test_at_every_place_attention_is_the_rival_and_before_the_model_chance(profile):
    table = places(profile, read_config("embedded"))
    found = families(comparisons.placed(table))
    assert found["places"].metrics == (DIVERGENCE,)
    for a, b in found["places"].pairs:
        assert table[a].groups == table[b].groups
        assert table[b].name == ("random" if table[b].groups["place"] == "0" else "fastv")
    for a, b in found["even"].pairs:
        assert table[a].name == table[b].name and table[b].groups["even"] == "25"


def test_what_is_said_to_be_equal_is_tested_for_it(profile):
    assert ("fastv-mask-50", "fastv-50") in comparisons.equal(profile)
    assert {slug for pair in comparisons.equal(profile) for slug in pair} <= methods(profile).keys()
