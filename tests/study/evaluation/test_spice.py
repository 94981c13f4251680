"""SPICE's jar on files of its own, with a stand-in for the jar itself."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib.study.evaluation import JavaError, java, score
from tests.study.evaluation.corpora import corpus

module = importlib.import_module("lib.study.evaluation.spice")
REFERENCES = {5: ["a dog", "the dog"], 3: ["a cat"]}
RECORDS = [{"image_id": 3, "caption": "A boat."}, {"image_id": 5, "caption": "A dog!"}]


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """CoreNLP in place, and results in a folder of the test's."""
    monkeypatch.setattr(module, "corenlp_status", lambda: SimpleNamespace(installed=True))
    monkeypatch.setattr(module, "raw_dir", lambda: tmp_path / "raw")
    return tmp_path / "raw" / "spice"


def test_spice_is_a_dash_with_its_remedy_while_corenlp_is_missing(monkeypatch, tmp_path):
    status = SimpleNamespace(installed=False, folder=tmp_path, missing=("stanford-corenlp.jar",))
    monkeypatch.setattr(module, "corenlp_status", lambda: status)
    references, records = corpus(3)
    result = score(records["good"], references, metrics=["SPICE"], n_bootstrap=0)
    assert result.values == {"SPICE": None} and result.metrics == []
    assert "stanford-corenlp.jar" in result.reasons["SPICE"]
    assert "`make spice`" in result.reasons["SPICE"]
    with pytest.raises(JavaError, match="make spice"):
        module.spice(["a dog"], [["a dog"]])


def test_the_jar_gets_captions_and_gives_scores(monkeypatch, installed):
    calls = []

    def run(what, arguments, *, folder, text=b""):
        """Stands in for the jar: reads its input file, writes its output file."""
        if what != "SPICE":
            return real(what, arguments, folder=folder, text=text)
        calls.append(arguments)
        assert (folder / arguments[arguments.index("-jar") + 1]).is_file()
        documents = json.loads(Path(arguments[arguments.index("-jar") + 2]).read_text())
        scores = [
            {
                "image_id": row["image_id"],
                "scores": {"All": {"f": 1.0 if row["test"] in row["refs"] else 0.25}},
            }
            for row in reversed(documents)
        ]
        Path(arguments[arguments.index("-out") + 1]).write_text(json.dumps(scores))

    real = java.run
    monkeypatch.setattr(java, "run", run)
    result = score(RECORDS, REFERENCES, metrics=["SPICE"], n_bootstrap=20)
    (call,) = calls
    assert call[call.index("-cache") + 1] == str(installed) and "-subset" in call
    assert call[0].startswith(f"-Djava.io.tmpdir={installed}")  # not a folder that forbids running
    np.testing.assert_array_equal(result.image_ids, [3, 5])
    np.testing.assert_array_equal(result.per_image["SPICE"], [0.25, 1.0])
    assert result.values["SPICE"] == 0.625 and result.intervals["SPICE"] == (0.25, 1.0)
    assert list(installed.iterdir()) == []  # its files are gone


@pytest.mark.parametrize("answer", ["", "[]", '[{"image_id": 0, "scores": {}}]', "[3]"])
def test_an_incomplete_answer_is_an_error(monkeypatch, installed, answer):
    def run(what, arguments, **_):
        Path(arguments[arguments.index("-out") + 1]).write_text(answer)

    monkeypatch.setattr(java, "run", run)
    with pytest.raises(JavaError, match="SPICE did not score every caption"):
        module.spice(["a dog"], [["a dog"]])


def test_the_jar_that_is_there_says_why_it_cannot_run(installed):
    """Without CoreNLP pycocoevalcap's jar starts under our flags, and fails for that reason."""
    with pytest.raises(JavaError, match=r"SPICE failed \(exit code 1\)\n(?s:.*)(CoreNLP|nlp)"):
        module.spice(["a dog"], [["a dog"]])
