"""Table 1 has its five rows, and ablations vary one thing at a time."""

import json
from dataclasses import replace

import pytest

from lib.selection import STRATEGIES
from lib.study.methods import ablations, methods, sweep, table_1
from lib.study.models import read_config
from lib.study.profiles import load_profile


@pytest.fixture(scope="module")
def profile():
    return load_profile("embedded")


def test_table_1_has_its_five_rows(profile):
    table = methods(profile)
    assert list(table)[:5] == table_1(profile)
    assert table_1(profile) == ["unpruned", "random-50", "tome-50", "fastv-50", "entropy-50"]
    assert all(m.name is None or m.create().keep == 0.5 for m in table.values())
    assert table["unpruned"].settings == {"method": "unpruned"}
    assert table["fastv-50"].settings == table["fastv-50"].create().options()


@pytest.mark.parametrize("model", ["embedded", "shape:llava-1.5-7b", "shape:tiny"])
def test_ablations_vary_one_thing_at_a_time(profile, model):
    table = ablations(profile, read_config(model))
    groups = {group for method in table.values() for group in method.groups}
    assert groups == {"sweep", "clusters", "layers", "rollout", "weighting", "level", "strategy",
                      "place"}  # fmt: skip
    base = table["entropy-25"].create().options()
    for slug, method in table.items():
        if method.name == "entropy" and "sweep" not in method.groups:
            (group,) = method.groups
            changed = {k for k, v in method.create().options().items() if v != base[k]}
            allowed = {
                "clusters": {"n_clusters", "core_clusters", "tokens_per_cluster"},
                "layers": {"layers", "source", "layer"},
                "level": {"level", "count"},
                "place": {"layer"},
            }.get(group, {group})
            assert changed and changed <= allowed, slug
    rules = {m.groups["strategy"] for m in table.values() if "strategy" in m.groups}
    assert rules == set(STRATEGIES)
    settings = [json.dumps(m.settings, sort_keys=True) for m in table.values()]
    assert len(set(settings)) == len(settings), "two slugs name one setting"


def test_the_sweep_is_the_other_keep_rates_of_table_1(profile):
    table = sweep(replace(profile, sweep=(0.25, 0.5, 0.75)))
    assert {m.options["keep"] for m in table.values()} == {0.25, 0.75}
    assert not table.keys() & methods(profile).keys()
