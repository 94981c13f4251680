"""Two places hold what belongs to a profile; one of them is looked at."""

import os
import subprocess
import sys

import pytest

from lib.study import paths


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    return tmp_path


def test_the_reference_is_looked_at_unless_a_run_is_asked_for(root, monkeypatch):
    assert paths.results_dir("x") == root / "data" / "results" / "x"
    assert paths.figures_dir("x") == root / "figures" / "x"
    assert paths.reports_dir("x") == root / "reports" / "x"
    with paths.looking_at(paths.RUN):
        for name in ("results", "figures", "reports"):
            place = getattr(paths, f"{name}_dir")("x")
            assert place == root / "build" / "reproduce" / "x" / name
        with paths.looking_at(paths.REFERENCE):
            assert paths.current("x") == paths.reference("x")
        assert paths.current("x") == paths.run("x")
    assert paths.VARIABLE not in os.environ
    monkeypatch.setenv(paths.VARIABLE, "run")
    assert paths.current("x") == paths.run("x")
    monkeypatch.setenv(paths.VARIABLE, "both")
    with pytest.raises(ValueError, match="ENTROPY_PRUNE_PLACE must be 'reference' or 'run'"):
        paths.current("x")


def test_processes_started_inside_look_there_too(root):
    code = "from lib.study import paths; print(paths.results_dir('x'))"
    with paths.looking_at(paths.RUN):
        environment = os.environ | {"ENTROPY_PRUNE_ROOT": str(root)}
        said = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=paths.PACKAGE.parent,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    assert said.strip() == str(paths.run("x").results)


def test_a_run_without_measurements_of_its_own_looks_at_the_references(root):
    reference, run = paths.reference("x").results, paths.run("x").results
    assert paths.measured("x", "scaling.json") == reference / "scaling.json"
    with paths.looking_at(paths.RUN):
        assert paths.measured("x", "scaling.json") == reference / "scaling.json"
        run.mkdir(parents=True)
        (run / "scaling.json").write_text("{}")
        assert paths.measured("x", "scaling.json") == run / "scaling.json"
    assert paths.measured("x", "scaling.json") == reference / "scaling.json"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_profile_is_a_plain_folder_name(name):
    with pytest.raises(ValueError, match="plain folder name"):
        paths.results_dir(name)
