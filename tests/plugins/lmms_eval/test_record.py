"""The recorded run of the real lmms-eval is whole, and everything in it held."""

import copy
import json

import pytest

from lib.study.paths import ROOT
from tests.plugins.lmms_eval import contract
from tests.plugins.lmms_eval.proof import plan
from tests.plugins.lmms_eval.proof.record import PATH, broken

RECORD = json.loads(PATH.read_text(encoding="utf-8"))


def test_everything_held():
    assert broken(RECORD) == []


def test_the_versions_are_those_that_make_pins():
    versions = RECORD["versions"]
    assert versions["lmms_eval"] == contract.recorded()["version"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ("lmms_eval", "torch", "torchvision", "transformers", "accelerate", "datasets"):
        pinned = f"{name.replace('_', '-')}=={versions[name]}"
        assert pinned in makefile.split("LMMS_EVAL := ")[1].split("\n")[0].split()


def test_the_shipped_model_describes_the_scenes():
    """Its captions are not noise, and pruning changes some."""
    captions = {r["method"]: r["captions"] for r in RECORD["rows"] if r["model"] == "embedded"}
    assert captions.keys() == plan.METHODS.keys()
    assert all(len(said) == plan.SCENES for said in captions.values())
    whole = next(r for r in RECORD["rows"] if (r["model"], r["method"]) == ("embedded", "none"))
    assert whole["tasks"]["scenes_caption"]["metrics"]["named"] > 0.5
    assert any(said != captions["none"] for said in captions.values())


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda r: r["rows"].pop(), "the rows are"),
        (lambda r: r["rows"][0]["tasks"]["scenes_pair"].update(equal=9), "equal is 9 of 10"),
        (lambda r: r["rows"][1]["tasks"]["scenes_yesno"].update(kept_tokens=256.0), "256.0 of 256"),
        (lambda r: r["rows"][2]["tasks"]["scenes_choice"].update(largest_difference=0.1), "0.1"),
        (lambda r: r["rows"][2]["tasks"].pop("scenes_choice"), "the tasks are"),
        (lambda r: r["resumed"].update(from_cache=0), "nothing was resumed"),
        (lambda r: r["two_processes"].pop("torchrun"), "not two processes"),
        (lambda r: r["two_processes"]["torchrun"].update(equal=1), "torchrun: 1 of"),
        (lambda r: r["refused"].clear(), "lmms-eval says nothing"),
        (lambda r: r.update(contract_kept=False), "contract.json"),
    ],
)
def test_what_does_not_hold_is_told(change, named):
    record = copy.deepcopy(RECORD)
    change(record)
    assert any(named in sentence for sentence in broken(record))


GPUS = json.loads((PATH.parent / "gpus.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", ["none", "entropy"])
@pytest.mark.parametrize("way", ["accelerate", "torchrun"])
def test_two_gpus_answered_as_one(method, way):
    runs = GPUS["runs"][method]
    assert [p["current_device"] for p in runs["one process"]["processes"]] == [0]
    assert sorted(p["current_device"] for p in runs[way]["processes"]) == [0, 1]
    assert {p["name"] for p in runs[way]["processes"]} == {"NVIDIA H200"}
    assert runs[way]["tasks"].keys() == set(GPUS["tasks"])
    for task in runs[way]["tasks"].values():
        told = [task[key] for key in ("documents", "logged_once", "equal", "counts_equal")]
        assert told == [GPUS["documents"]] * 4
        assert task["kept_tokens"] == [256 if method == "none" else 128]
    assert runs[way]["sha256_of_answers"] == runs["one process"]["sha256_of_answers"]
