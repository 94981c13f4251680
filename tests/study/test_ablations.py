"""Ablations vary one thing at a time."""

import json

import pytest

from lib.selection import STRATEGIES
from lib.study.ablations import ablations
from lib.study.models import read_config
from lib.study.profiles import load_profile

ALLOWED = {
    "clusters": {"n_clusters", "core_clusters", "tokens_per_cluster"},
    "layers": {"layers", "source", "layer"},
    "level": {"level", "count"},
    "tokens": {"cluster_on"},
}


@pytest.mark.parametrize("model", ["embedded", "shape:llava-1.5-7b", "shape:tiny"])
def test_ablations_vary_one_thing_at_a_time(model):
    table = ablations(load_profile("embedded"), read_config(model))
    groups = {group for method in table.values() for group in method.groups}
    assert groups == {"sweep", "clusters", "layers", "rollout", "tokens", "weighting", "level",
                      "strategy"}  # fmt: skip
    base = table["entropy-25"].create().options()
    assert set(table["entropy-25"].groups) == groups - {"strategy"}
    for slug, method in table.items():
        if method.name == "entropy" and "sweep" not in method.groups:
            (group,) = method.groups
            changed = {k for k, v in method.create().options().items() if v != base[k]}
            assert changed and changed <= ALLOWED.get(group, {group}), slug
    rules = {m.groups["strategy"] for m in table.values() if "strategy" in m.groups}
    assert rules == set(STRATEGIES)
    settings = [json.dumps(m.settings, sort_keys=True) for m in table.values()]
    assert len(set(settings)) == len(settings), "two slugs name one setting"


def test_the_default_is_the_paper_s():
    table = ablations(load_profile("embedded"), read_config("embedded"))
    groups = table["entropy-25"].groups
    assert groups["rollout"] == "literal (I + H), as printed" and groups["tokens"] == "raw (eq. 4)"
    varied = {m.groups["rollout"] for m in table.values() if "rollout" in m.groups}
    assert varied == {"literal (I + H), as printed", "scaled (I + H/L)", "scores (1 + S)"}
