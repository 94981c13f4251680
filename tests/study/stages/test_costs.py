"""The study's own prompt is timed, in one thread, with every method in turn."""

import json

import pytest
import torch

from lib.study import paths
from lib.study.methods import methods, sweep
from lib.study.profiles import load_profile
from lib.study.stages import costs
from lib.study.stages.costs import make_costs
from lib.study.stages.study import Study
from tests import tiny_study


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_study.make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture
def study(root, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", root)
    path = paths.profiles_dir() / "tiny.yaml"
    text = path.read_text()
    wanted = "efficiency: {new_tokens: 2, repeats: 3, batches: [1, 2], fast_path: true}"
    path.write_text(text.replace("efficiency: {new_tokens: 2, repeats: 1, sweep: false}", wanted))
    (paths.run("tiny").results / "efficiency.json").unlink(missing_ok=True)
    yield Study(load_profile("tiny"), "cpu", progress=False)
    path.write_text(text)


def stored():
    return json.loads((paths.run("tiny").results / "efficiency.json").read_text())


def test_every_method_is_timed_and_the_sweep_once(study):
    before = torch.get_num_threads()
    assert make_costs(study)
    assert torch.get_num_threads() == before
    document = stored()
    assert document["machine"]["threads"] == 1, "as they were while the time was taken"
    assert document["prompt"] == study.profile.prompt
    main, others = methods(study.profile), sweep(study.profile)
    assert [(row["slug"], row["batch"]) for row in document["rows"]] == [
        *((slug, 1) for slug in (*main, *others)),
        *((slug, 2) for slug in main),
    ]
    prompt = study.loaded.processor.tokenizer("USER: \nDescribe the image briefly. ASSISTANT:")
    for row in document["rows"]:
        assert row["table"] == (row["slug"] in main)
        assert row["end_to_end"]["repeats"] == (3 if row["table"] else 1)
        assert row["ratio"]["end_to_end"]["rounds"] == row["end_to_end"]["repeats"]
        assert row["static_end_to_end"]["median"] > 0 and row["peak_bytes"] is None
        assert row["text"] == len(prompt["input_ids"])
        assert set(row["flops"]) == {"fastv", "sparsevlm", "exact", "vision", "scorer", "encoder"}
    assert document["rows"][0]["ratio"]["end_to_end"]["median"] == 1


def test_a_batch_size_that_is_there_is_not_measured_again(study, monkeypatch):
    asked = []

    def measured(run, table, batch):  # what is measured is the test's above
        asked.append(batch)
        return [{"batch": batch, "slug": slug} for slug in table], {}

    monkeypatch.setattr(costs, "_measured", measured)
    assert make_costs(study) and asked == [1, 2]
    document = stored()
    (paths.run("tiny").results / "efficiency.json").write_text(
        json.dumps(document | {"rows": [row for row in document["rows"] if row["batch"] == 1]})
    )
    assert make_costs(study) and asked == [1, 2, 2] and stored() == document
    assert not make_costs(study) and asked == [1, 2, 2]
    monkeypatch.setattr(costs, "costs_code", lambda: "another")
    assert make_costs(study) and asked == [1, 2, 2, 1, 2]
