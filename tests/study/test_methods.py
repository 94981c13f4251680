"""Table 1 has the paper's rows, and criteria stand at one place beside each other."""

from dataclasses import replace

import pytest

from lib.pruning import available
from lib.study.labels import BEFORE, DEEP, PAPER
from lib.study.methods import methods, placed, sweep, swept, table_1
from lib.study.profiles import load_profile


@pytest.fixture(scope="module")
def profile():
    return load_profile("embedded")


def part(profile, name):
    return {k: m for k, m in methods(profile).items() if m.groups["table"] == name}


def test_the_paper_s_rows_come_first(profile):
    first = ["unpruned", "random-50", "tome-50", "fastv-50", "entropy-printed", "entropy-50"]
    assert table_1(profile) == first == list(methods(profile))[:6]
    assert methods(profile)["unpruned"].settings == {"method": "unpruned"}
    fastv = methods(profile)["fastv-50"]
    assert fastv.settings == fastv.create().options()


def test_the_row_as_printed_is_algorithm_1_with_the_paper_s_numbers(profile):
    printed = methods(profile)["entropy-printed"].create()
    assert printed.most(256) == 32 == printed.core_clusters * printed.tokens_per_cluster
    assert (printed.n_clusters, printed.count, printed.rollout) == (32, "adaptive", "literal")
    assert printed.cluster_on == "raw" and printed.source == "vision" and printed.layer == 0
    chance = methods(profile)["random-printed"].create()
    assert chance.budget(256) == 21, "what the paper's Figure 5 keeps"


def test_every_other_row_has_the_budget_of_the_profile(profile):
    rows = {k: m for k, m in methods(replace(profile, keep=0.25)).items() if m.name}
    assert all(m.create().budget(256) == 64 for k, m in rows.items() if "printed" not in k)
    assert {"fastv-25", "fastv-mask-25", "entropy-layer2-25"} <= rows.keys()
    assert rows["fastv-mask-25"].create().mode == "mask"


def test_criteria_stand_at_one_place(profile):
    for name, layer in ((BEFORE, 0), (DEEP, 2)):
        assert {m.create().layer for m in part(profile, name).values()} == {layer}
    assert {m.create().name for m in part(profile, DEEP).values()} == placed(2).keys() - {"fastv"}
    assert {"random", "entropy", "selection"} <= placed(0).keys() <= set(available())
    assert "fastv" not in placed(0) and placed(2)["fastv"] == {}
    assert part(profile, PAPER)["fastv-50"].create().layer == 2
    labels = [m.label for m in methods(profile).values()]
    assert len(set(labels)) == len(labels)


def test_the_sweep_is_the_other_keep_rates_of_table_1(profile):
    profile = replace(profile, sweep=(0.25, 0.5, 0.75))
    table = sweep(profile)
    assert {m.options["keep"] for m in table.values()} == {0.25, 0.75}
    assert not table.keys() & methods(profile).keys()
    whole = swept(profile)
    assert whole.keys() - table.keys() == {"unpruned"} | {
        f"{m.name}-50" for m in whole.values() if m.name
    }
    assert {m.groups["sweep"] for m in whole.values()} == {"1", "0.25", "0.5", "0.75"}
