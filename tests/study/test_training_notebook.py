"""The training notebook, every line of it, in the smoke form that its profile describes."""

import json

import pytest
import yaml

from lib.study import models, paths
from lib.study.paths import ROOT
from lib.study.reports import notebooks


@pytest.mark.slow
def test_the_training_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # its output must not land in data/
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    parameters = yaml.safe_load((ROOT / "notebooks/profiles/90_smoke.yaml").read_text())
    assert not parameters["output"].startswith("data/")

    notebooks.execute(
        ROOT / "notebooks/90_train_embedded_model.ipynb", tmp_path / "90.ipynb", parameters,
        log=tmp_path / "log" / "90.log", progress=False, forked=True,
    )  # fmt: skip
    folder = tmp_path / parameters["output"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == sum(parameters["stages"])
    assert len(metrics["random_pruning"]) == 8
    rows = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {1, 2, 3}
    model, processor, _ = models.load(str(folder), device="cpu")
    assert model.config.image_seq_length == 256
    assert models.format_prompt(processor).startswith("USER: <image>\n")
