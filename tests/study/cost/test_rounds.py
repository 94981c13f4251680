"""Methods take turns, and a ratio is that of neighbours."""

import pytest
import torch

from lib.pruning import available, create
from lib.study.cost import rounds
from lib.study.cost.parts import Parts
from lib.study.cost.probe import Probe
from lib.study.cost.rounds import in_rounds
from tests.tiny import TOKENS, one, tiny_llava


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def probes(model, names, new_tokens=3):
    pruners = {name: None if name == "unpruned" else create(name) for name in names}
    return {name: Probe(model, one(), pruner, new_tokens) for name, pruner in pruners.items()}


def test_a_caption_is_split_into_its_parts(model, operations_clock):
    names = ["unpruned", *available()]
    found = in_rounds(probes(model, names), rounds=dict.fromkeys(names, 2))
    for name, row in found.items():
        vision, prefill, whole = (
            row[part]["median"] for part in ("vision", "prefill", "end_to_end")
        )
        assert 0 < vision < prefill < whole
        assert row["decode"]["median"] == pytest.approx((whole - prefill) / 2)
        assert (row["scorer"]["median"] > 0) == (name != "unpruned")
        left = TOKENS if name == "unpruned" else create(name).stage_counts(TOKENS, 5)[-1][1]
        assert row["kept"] == pytest.approx(left / TOKENS)
        assert row["new_tokens"] == 3 and row["flops_counted"] > 0
    assert found["unpruned"]["ratio"]["end_to_end"]["median"] == 1


def test_the_hash_of_the_pixels_is_no_work_of_the_tower(model, operations_clock):
    """RandomPrune knows an image by its pixels; the tower does the same for every method."""
    found = in_rounds(
        probes(model, ["unpruned", "random", "fastv"]),
        rounds=dict.fromkeys(["unpruned", "random", "fastv"], 1),
    )
    towers = {row["vision"]["median"] for row in found.values()}
    assert len(towers) == 1, "in operations, to the last one"
    assert found["random"]["scorer"]["median"] > 0


def test_methods_take_turns_there_and_back(model, monkeypatch):
    order, cases = [], probes(model, ["unpruned", "random", "fastv"])
    names = {id(probe): name for name, probe in cases.items()}
    clock = iter(range(1, 100))

    def caption(probe):
        order.append(names[id(probe)])
        seconds = float(next(clock))
        return {"end_to_end": seconds, "prefill": 1.0, "vision": 0.5, "scorer": 0.0, "decode": 0.1}

    monkeypatch.setattr(rounds, "_caption", caption)
    found = in_rounds(cases, rounds={"unpruned": 2, "random": 3, "fastv": 2}, warmup=1)
    assert order[:3] == ["unpruned", "random", "fastv"], "warm-up"
    assert order[3:] == [
        "unpruned", "random", "fastv", "fastv", "random", "unpruned", "unpruned", "random",
    ]  # fmt: skip
    # unpruned 4, 9, 10; random 5, 8, 11; fastv 6, 7
    assert found["random"]["ratio"]["end_to_end"]["median"] == pytest.approx(1.1)
    assert found["fastv"]["ratio"]["end_to_end"] == {
        "median": pytest.approx((6 / 4 + 7 / 9) / 2), "low": None, "high": None, "rounds": 2,
    }  # fmt: skip
    assert found["random"]["end_to_end"]["repeats"] == 3


def test_a_machine_that_slows_down_does_not_enter_the_ratio(model, monkeypatch):
    cases = probes(model, ["unpruned", "random"])
    pace = iter([1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64])
    speed = {id(cases["unpruned"]): 1.0, id(cases["random"]): 0.9}

    def caption(probe):
        seconds = next(pace) * speed[id(probe)]
        return {"end_to_end": seconds, "prefill": seconds, "vision": 0.5, "scorer": 0.0}

    monkeypatch.setattr(rounds, "_caption", caption)
    found = in_rounds(cases, rounds={"unpruned": 7, "random": 7})
    ratio = found["random"]["ratio"]["end_to_end"]
    assert ratio == {"median": 0.9, "low": 0.9, "high": 0.9, "rounds": 7}


@pytest.mark.parametrize("name", [None, *available()])
def test_watching_leaves_everything_as_it_was(model, name):
    pruner = create(name) if name else None
    tower = model.model.vision_tower

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return vars(tower).get("forward"), vars(model.model).get("get_image_features"), hooks

    model.model.vision_tower(one()["pixel_values"], output_hidden_states=True)  # stays recorded
    before, parts = state(), Parts(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), parts.watching(model, pruner):
        1 / 0  # noqa: B018
    assert state() == before
    assert pruner is None or not {"select", "score"} & vars(pruner).keys()


def test_a_pass_without_images_has_no_parts(model):
    parts = Parts(torch.device("cpu"))
    assert parts.seconds() == {"vision": 0.0, "scorer": 0.0, "prefill": 0.0}
    with parts.watching(model, None), torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))
    assert parts.seconds()["vision"] == 0.0 and parts.seconds()["prefill"] > 0
