"""MODEL in place of a profile's: the command line on models of other families, without the hub.

Tiny models lie in a hub cache of their own under the names of those people use. Each command is a
process, since the hub's client reads where its cache is when it is imported.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
import yaml
from huggingface_hub import constants

from lib.study import cli, paths
from lib.study.ablations import ablations
from lib.study.doctor import Finding, machine
from lib.study.doctor.models import check_model
from lib.study.fitting import check, fits, fitted
from lib.study.methods import methods
from lib.study.models import read_config
from lib.study.paths import ROOT
from lib.study.profiles import load_profile, with_model
from lib.study.records import read_records
from lib.study.reports import notebooks, report
from tests import tiny_study
from tests.study.models.families import save

QWEN, INTERN = "Qwen/Qwen2.5-VL-7B-Instruct", "OpenGVLab/InternVL3-8B-hf"
OTHER = "owner/other"
REVISION = "a" * 40
IMAGES = 3


def snapshot(cache, model):
    """The folder of a model in a hub cache."""
    repository = cache / ("models--" + model.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    return repository / "snapshots" / REVISION


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with the paper profile in small, and a hub cache."""
    folder = tmp_path_factory.mktemp("models")
    profiles = folder / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    for path in notebooks.notebooks():
        (folder / "notebooks" / path.name).symlink_to(path)
    listing = tiny_study.few_scenes(folder / "scenes", test=IMAGES)
    document = yaml.safe_load((ROOT / "notebooks" / "profiles" / "paper.yaml").read_text())
    document |= {
        "json_path": str(listing), "image_root": str(listing.parent), "limit": IMAGES,
        "batch_size": 2, "max_new_tokens": 3, "ablation_limit": 2, "sweep": [0.5],
        "metrics": ["BLEU-4", "CIDEr"], "n_bootstrap": 20, "places": [0, 2], "budgets": [0.25],
        "catalogue_limit": 1, "efficiency": {"new_tokens": 2, "repeats": 1, "fast_path": True},
    }  # fmt: skip
    (profiles / "paper.yaml").write_text(yaml.safe_dump(document))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model, family in ((QWEN, "qwen2_5_vl"), (INTERN, "internvl")):
            save(family, snapshot(folder / "hub", model))
    unknown = snapshot(folder / "hub", OTHER)
    unknown.mkdir(parents=True)
    (unknown / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    return folder


@pytest.fixture
def lib(root):
    """Runs a command of the library as a user would; returns exit code, output and errors."""
    here = {
        "ENTROPY_PRUNE_ROOT": str(root), "HF_HUB_CACHE": str(root / "hub"), "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip

    def run(*arguments):
        command = [sys.executable, "-m", "lib", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | here, cwd=root
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def here(root, monkeypatch, capsys):
    """The same without a process of its own: the hub's client is told again where its cache is."""
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(root)

    def run(*arguments):
        return cli.main(arguments), *capsys.readouterr()

    return run


def results(root, profile):
    return root / "build" / "reproduce" / profile / "results"


# ---- one command --------------------------------------------------------------------------------


def checked_study(root, profile):
    """What a study left: every method but those that refuse the model, on every image."""
    folder = results(root, profile)
    slugs = {path.name for path in (folder / "captions").iterdir()}
    assert {"unpruned", "random-50", "fastv-50", "entropy-50", "selection-50"} <= slugs
    assert not [slug for slug in slugs if slug.startswith("tome")]
    for slug in slugs:
        records = read_records(folder / "captions" / slug)
        assert len(records) == IMAGES
        if slug in ("random-50", "fastv-50", "entropy-50"):
            for record in records:
                assert abs(record["kept"] - record["visual_tokens"] / 2) <= 5
    prompt = json.loads((folder / "captions" / "unpruned" / "manifest.json").read_text())
    asked = prompt["parameters"]["prompt"]
    assert "Provide a one-sentence caption" in asked and "<image>" not in asked
    read = json.loads((folder / "divergence" / "table" / "manifest.json").read_text())
    assert set(read["parameters"]["methods"]) == slugs
    rows = json.loads((folder / "efficiency.json").read_text())["rows"]
    assert {row["slug"] for row in rows if row["table"]} == slugs
    unpruned, half = (next(r for r in rows if r["slug"] == s) for s in ("unpruned", "entropy-50"))
    assert half["flops"]["exact"] < unpruned["flops"]["exact"]
    assert unpruned["flops"]["vision"] == half["flops"]["vision"] > 0 < half["flops"]["scorer"]
    counted = unpruned["flops"]["exact"] + unpruned["flops"]["vision"]
    assert unpruned["flops_counted"] == pytest.approx(counted, rel=1e-3)
    assert unpruned["static_end_to_end"]["median"] > 0
    return asked


@pytest.mark.slow
def test_one_command_reproduces_a_profile_with_qwen(root, lib):
    profile = with_model("paper", QWEN)
    code, _, errors = lib("reproduce", "--profile", profile, "--jobs", "1", "--quiet")
    assert code == 0, errors[-2000:]
    assert checked_study(root, profile).count("<|image_pad|>") == 1
    run = root / "build" / "reproduce" / profile
    pages = {path.stem for path in (run / "reports").glob("*.html")}
    assert pages == {"index", "comparison", "06_table1", "07_ablations", "08_efficiency"}
    assert QWEN in (run / "reports" / "06_table1.html").read_text()
    assert "does not apply" in (run / "notebooks" / "06_table1.ipynb").read_text()
    ablated = json.loads((run / "results/divergence/ablations/manifest.json").read_text())
    assert {"entropy-t1-25", "selection-greedy-25"} <= ablated["parameters"]["methods"].keys()
    ranked = json.loads((run / "results" / "catalogue.json").read_text())["methods"]
    positions = {row["method"]: row["options"].get("positions") for row in ranked.values()}
    assert positions["entropy"] is None and positions["pyramiddrop"] == "original"
    assert "tome" not in positions


@pytest.mark.slow
def test_a_study_of_internvl(root, here):
    profile = with_model("paper", INTERN)
    code, _, errors = here("study", "--profile", profile, "--workers", "1", "--quiet")
    assert code == 0, errors[-2000:]
    assert "<IMG_CONTEXT>" in checked_study(root, profile)


@pytest.mark.slow
def test_a_dry_run_knows_the_model_s_size(here, monkeypatch):
    # METEOR takes seconds to start, and is the doctor's own tests' business
    monkeypatch.setattr(machine, "check_meteor", lambda: Finding("METEOR", True, "spared"))
    _, said, errors = here("doctor", "--profile", with_model("paper", QWEN))
    assert f"model: {QWEN}" in said and f"{QWEN} at {REVISION[:12]}" in said, errors
    assert re.search(r"^images\s+ok", said, re.M)
    assert re.search(r"^GPU\s+MISSING +none; needs 1\d\.\d GB for 16\.6 GB", said, re.M)


def test_the_doctor_knows_that_a_model_has_no_adapter(root):
    found = check_model(load_profile(with_model("paper", OTHER)), root / "hub")
    assert not found.good and found.remedy == "choose another model"
    assert found.detail == f"{OTHER}: nothing here prunes models of type 'blip-2'"


# ---- a model that cannot be used ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, reason",
    [
        (OTHER, "nothing here prunes models of type 'blip-2'; choose one of idefics3, internvl"),
        ("nobody/nothing", "cannot be used: "),
    ],
)
def test_an_unusable_model_is_one_line(here, model, reason):
    code, said, errors = here("study", "--profile", with_model("paper", model), "--quiet")
    assert code == 1 and said == ""
    lines = [line for line in errors.splitlines() if "Warning" not in line]
    assert len(lines) == 1, errors
    assert lines[0].startswith(f"error: model {model!r} cannot be used: ") and reason in lines[0]


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "../x", ""])
def test_a_model_must_be_of_the_hub(name):
    with pytest.raises(ValueError, match=f"MODEL must be a hub id .*got '{re.escape(name)}'"):
        with_model("paper", name)


def test_a_profile_of_no_hub_name_is_refused():
    with pytest.raises(ValueError, match=r"MODEL must be a hub id .*got 'gpt2'"):
        load_profile("paper@gpt2")


def test_the_folder_of_an_unknown_model(tmp_path):
    profile = replace(load_profile("paper"), model=str(tmp_path), revision=None)
    with pytest.raises(ValueError, match="cannot be used: "):
        check(profile)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    with pytest.raises(ValueError, match=r"of type 'blip-2'; choose one of .*qwen2_5_vl"):
        check(profile)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ValueError, match=r"cannot be used: .*no-such-type"):
        check(profile)
    check(load_profile("embedded"))
    check(replace(load_profile("shape"), model="shape:tiny"))


# ---- what a profile with another model is -------------------------------------------------------


def test_a_profile_with_another_model_differs_in_the_model_alone():
    paper, other = load_profile("paper"), load_profile(with_model("paper", QWEN))
    assert (other.model, other.revision, other.notebooks) == (QWEN, None, "06 07 08")
    assert other.profile == "paper@Qwen--Qwen2.5-VL-7B-Instruct" and QWEN in other.description
    same = {"profile": "paper", "model": paper.model, "revision": paper.revision,
            "description": paper.description, "notebooks": ""}  # fmt: skip
    assert replace(other, **same) == paper
    assert paths.run_folder(other.profile) != paths.run_folder("paper")


@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_methods_that_refuse_a_model_are_left_out(model):
    profile = replace(load_profile("shape"), model=f"shape:{model}")
    every = methods(load_profile("shape"))
    assert [slug for slug in every if slug not in methods(profile)] == ["tome-50"]
    table = ablations(profile, read_config(profile.model))
    clusters = {slug for slug, method in table.items() if "clusters" in method.groups}
    assert clusters == {"entropy-t1-25", "entropy-t2-25", "entropy-25"}
    assert not fits(profile, "random", positions="contiguous")
    assert fits(load_profile("shape"), "random", positions="contiguous")
    assert not fits(profile, "no such method")
    keep = {"keep": 0.25}
    assert fitted(profile, "fastv", keep) == keep and fitted(profile, "tome", keep) is None
    assert fitted(profile, "pyramiddrop", keep) == keep | {"positions": "original"}
    assert fitted(load_profile("shape"), "pyramiddrop", keep) == keep


def test_looking_for_refusals_makes_no_weights(monkeypatch):
    made = []
    monkeypatch.setattr(torch.nn.init, "normal_", lambda tensor, *_, **__: made.append(tensor))
    profile = replace(load_profile("shape"), model="shape:tiny-qwen3-vl")
    assert fits(profile, "entropy", keep=0.123) and not fits(profile, "tome")
    assert all(tensor.device.type == "meta" for tensor in made)


def test_make_takes_the_model_in_place_of_the_profile_s(tmp_path):
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.symlink_to(sys.executable)
    (tmp_path / ".ready").touch()
    ready = {"VENV": str(tmp_path), "PROFILE": "paper", "MODEL": QWEN}
    settings = [f"{name}={value}" for name, value in ready.items()]

    def dry(*targets):
        command = ["make", "-n", *targets, *settings]
        made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        return made.stdout

    profile = with_model("paper", QWEN)
    for target in (["reproduce", "DRY_RUN=1"], ["doctor"]):
        assert f"-m lib doctor --profile {profile}" in dry(*target)
    said = dry("reproduce")
    # every notebook
    assert re.search(rf"-m lib reproduce --profile {profile} --jobs [0-9]+ *$", said, re.M)
    assert [path.name[:2] for path in report.chosen(profile)] == ["06", "07", "08"]
    # with nothing to do the last command is this one alone
    assert f"-q --no-print-directory build/reproduce/{profile}/reports/index.html; then" in said
    assert f"-m lib compare --profile {profile}; " in said
