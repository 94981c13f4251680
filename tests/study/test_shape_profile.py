"""The `shape` profile on a tiny shape: every notebook runs, and no random number poses as a result.

The study, all figures and tables, the resumed scoring and the one-command run are those of the
profile; only the layers are small. The notebooks' code runs in this process, which is faster than a
kernel each; `tests/test_paper_profile.py` sends all of them through papermill.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lib.study import cli, models, paths
from lib.study import run as study
from lib.study.labels import UNSCORED
from lib.study.methods import methods, swept
from lib.study.paths import ROOT
from lib.study.profiles import Profile, load_profile
from lib.study.records import read_records
from lib.study.reports import notebooks, report
from lib.study.reports.kernel import ForkedKernel
from lib.study.reports.tables import comparisons, cost, divergence, format, paper, quality
from lib.study.stored import load_study, mark
from tests import tiny_study

REPRODUCE = ["reproduce", "--profile", "shape", "--device", "cpu", "--quiet"]
IMAGE = 2  # one of the four that are drawn


def make_root(folder):
    profiles = folder / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    for path in notebooks.notebooks():
        (folder / "notebooks" / path.name).symlink_to(path)
    (folder / "data").mkdir()
    (folder / "data" / "embedded").symlink_to(ROOT / "data" / "embedded")
    listing = tiny_study.few_scenes(folder / "scenes", test=4)
    document = yaml.safe_load((ROOT / "notebooks" / "profiles" / "shape.yaml").read_text())
    document |= {
        "model": "shape:tiny", "json_path": str(listing), "limit": 4, "ablation_limit": 1,
        "max_new_tokens": 3,
        "efficiency": {"batches": [1], "new_tokens": 2, "repeats": 1, "fast_path": True},
    }  # fmt: skip
    (profiles / "shape.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A root in which the profile was computed and every notebook's code has run."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_root(tmp_path_factory.mktemp("shape"))
        patch.setattr(paths, "ROOT", folder)
        patch.setenv(paths.VARIABLE, paths.RUN)
        # networks are trained for it, on numbers that no profile changes
        known = Path("figures", "dependence_known.npz")
        stored = paths.results_dir("shape") / known
        stored.parent.mkdir(parents=True)
        shutil.copy(paths.PACKAGE.parent / "data" / "results" / "embedded" / known, stored)
        study.run(load_profile("shape"), device="cpu", progress=False)
        given = notebooks.parameters
        patch.setattr(notebooks, "parameters", lambda *asked: given(*asked) | {"image": IMAGE})
        report.figures("shape", progress=False)
    return folder


@pytest.fixture
def root(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    monkeypatch.setenv(paths.VARIABLE, paths.RUN)
    return computed


def test_every_method_and_keep_rate_ran(root):
    profile = load_profile("shape")
    assert profile.random_weights and profile.model == "shape:tiny"
    folder = paths.results_dir("shape")
    wanted = methods(profile)
    others = swept(profile)
    assert len(others) > 8
    for slug in wanted:
        assert len(read_records(folder / "captions" / slug)) == 4
    for slug in set(others) - set(wanted):
        assert len(read_records(folder / "ablations" / slug)) == 1
    names = {p.name for p in folder.iterdir()}
    assert names >= {"captions", "ablations", "figures", "scores.json", "efficiency.json"}
    assert not names & {"divergence", "divergence.json"}, "nothing there that could be moved"


def test_every_figure_says_what_it_is_and_on_which_machine(root):
    about = {p.stem: json.loads(p.read_text()) for p in paths.figures_dir("shape").glob("*.json")}
    drawn = " ".join(about)
    for name in ("walkthrough", *(f"figure{n}" for n in range(1, 6)), "ablation_keep_rate",
                 "efficiency_split"):  # fmt: skip
        assert name in drawn, name
    for name, record in about.items():
        for text in (record["caption"], record["alt"]):
            assert text.startswith("Random weights, a CPU."), name
        curve = paths.figures_dir("shape") / f"{name}.svg"
        assert not curve.is_file() or "(random weights, a CPU)" in curve.read_text(), name
    assert len(list(paths.figures_dir("shape").glob("*.svg"))) >= 5
    assert not {"table1_differences", "ablation_choices"} & set(about), "they would show chance"
    assert "ms of all methods" in about["ablation_keep_rate"]["caption"]


def test_table_1_measures_the_cost_and_refuses_the_quality(root):
    table = quality.table("shape")
    scores = table[["BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE"]]
    assert (scores == format.DASH).all(axis=None)
    assert table.loc["Entropy-Prune", "Kept (%)"] == "50.0"
    (reason,) = table.attrs["notes"].values()
    assert reason == UNSCORED
    bill = cost.table("shape")
    assert (bill[["full count", "end to end (ms)"]] > 0).all(axis=None)
    first, whole = bill["fast path, first token (ms)"], bill["fast path, end to end (ms)"]
    assert (first > 0).all() and (whole > 0).all()
    latency = paper.ratios("shape")["latency, ours"]
    five = whole[latency.index]
    pd.testing.assert_series_equal(latency, (100 * five / five.iloc[0]).round(1), check_names=False)
    assert comparisons.families("shape") == {} and quality.losses("shape").empty
    assert comparisons.equal("shape").empty and divergence.choices("shape") == {}
    assert "random weights mean nothing" in divergence.about("shape")
    assert np.isnan(divergence.each("shape", "Entropy-Prune")).all()
    assert not [c for c in paper.ratios("shape").columns if "CIDEr, ours" in c]
    text = (paths.figures_dir("shape") / "table1.md").read_text()
    first = text.splitlines()[0]
    assert "Random weights, a CPU: captions of random weights mean nothing" in first
    titles = re.findall(r"^Ours: .*", text, re.MULTILINE)
    assert len(titles) == 5 and all("(random weights)" in title for title in titles)


def test_scoring_elsewhere_needs_no_model(root, monkeypatch):
    path = paths.results_dir("shape") / "scores.json"
    before, made = path.read_bytes(), load_study("shape")
    path.unlink()
    monkeypatch.setattr(models, "load", None)
    study.run(load_profile("shape"), stages=("scores",), progress=False)
    assert path.read_bytes() == before
    assert load_study("shape")["environment"] == made["environment"]
    with pytest.raises(ValueError, match="has no scores to print"):
        study.table(load_profile("shape"))
    with pytest.raises(ValueError, match="unknown stage 'score'"):
        study.run(load_profile("shape"), stages=("score",))


@pytest.fixture
def forked(monkeypatch):
    """A single kernel forked, too, as they are where several notebooks run."""
    monkeypatch.setattr(notebooks, "OwnKernel", ForkedKernel)


def name_notebook(root, number):
    """Let the profile run one notebook."""
    profile = root / "notebooks" / "profiles" / "shape.yaml"
    document = yaml.safe_load(profile.read_text()) | {"notebooks": number}
    profile.write_text(yaml.safe_dump(document))


def test_one_command_does_it_all_and_the_page_says_so_first(root, forked, capsys):
    name_notebook(root, "06")
    assert cli.main(REPRODUCE) == 0
    said = capsys.readouterr().out
    assert said.startswith("shape: nothing is committed") and said.count("Open ") == 1
    assert said.splitlines()[-1].endswith("build/reproduce/shape/reports/index.html")
    assert [path.name for path in report.executed("shape")] == ["06_table1.ipynb"]
    for name in ("06_table1.html", "index.html"):
        page = (paths.reports_dir("shape") / name).read_text()
        assert '<p class="banner">Random weights, a CPU: ' in page, name


def test_one_command_names_every_failure(root, forked, capsys):
    source = root / "notebooks" / "09_wrong.ipynb"
    document = json.loads((root / "notebooks" / "06_table1.ipynb").read_text())
    (cell,) = [c for c in document["cells"] if "parameters" in c["metadata"].get("tags", ())]
    cell["source"] = "profile = 1 / 0"
    source.write_text(json.dumps(document))
    name_notebook(root, "09")
    assert cli.main(REPRODUCE) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    source.unlink()


def test_other_profiles_are_not_marked():
    assert mark("embedded") == "" and mark("nobody's") == ""


def test_a_random_shape_must_say_so():
    with pytest.raises(ValueError, match="say 'random_weights: true'"):
        Profile(profile="x", model="shape:tiny")
