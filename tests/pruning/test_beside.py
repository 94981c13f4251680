"""A choice beside the language layers: when it begins, what it is for, and the cores left to it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib.pruning.engine import beside
from lib.pruning.engine.hooks import Hooks
from lib.pruning.engine.images import ImageTokens
from lib.pruning.engine.passes import Pass
from lib.pruning.engine.vision import VisionRecord, attach


class Stream:
    waited = ()

    def wait_stream(self, other):
        self.waited = (*self.waited, other)


class Noting(nn.Module):
    """Notes that it ran."""

    def __init__(self, said, name):
        super().__init__()
        self.said, self.name = said, name

    def forward(self, hidden_states):
        self.said.append(self.name)
        return hidden_states


class Layer(nn.Module):
    def __init__(self, said, name):
        super().__init__()
        self.mlp = Noting(said, name)

    def forward(self, hidden_states):
        return self.mlp(hidden_states=hidden_states)


def carrying(record):
    features = SimpleNamespace()
    if record is not None:
        attach(features, record)
    return features


def images_of(record, count, encoded, tokens):
    """`count` images of equal length in one prompt, of which the tower encoded `encoded`."""
    pass_ = Pass(count * tokens, 0, count, None, lengths=[tokens] * count, row_of=[*range(count)])
    pass_.encoded_images = encoded
    pass_.features = [("image", carrying(record))]
    rows, columns = torch.arange(count), torch.arange(tokens).expand(count, -1)
    return ImageTokens(rows, columns, [*range(count)], pass_)


def test_what_was_chosen_ahead_is_for_exactly_the_images_that_were_encoded(monkeypatch):
    chosen, mine, other = object(), Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: mine)
    record = VisionRecord()
    assert beside.chosen_ahead(images_of(record, 2, 2, 3)) is None
    record.extra["ahead"] = other, chosen
    whole = images_of(record, 2, 2, 3)
    assert beside.chosen_ahead(whole) is chosen and mine.waited == (other,)
    assert beside.chosen_ahead(images_of(record, 4, 2, 3)) is None  # copies for beams
    whole.ordinals, whole.columns = [0], whole.columns[:1]  # a part of the pass's images
    assert beside.chosen_ahead(whole) is None
    whole.prefill.lengths, whole.prefill.row_of = [3], [0]  # fewer than the tower encoded
    assert beside.chosen_ahead(whole) is None
    assert mine.waited == (other,)


def model_of(said, record, layer, *, projector=True, mlps=2, keeps_all=False, **options):
    """A pruner before a layer, and what runs its model: a record of the tower, or none."""
    family = SimpleNamespace(
        projector=Noting(said, "projector") if projector else None,
        language=Noting(said, "language"),
        layers=[Layer(said, f"mlp {i}") for i in range(mlps)],
        blocks=lambda: blocks,
    )
    blocks = [Noting(said, f"block {i}") for i in range(2 * ("last" in options))]
    current = SimpleNamespace(record=record, pass_=None, tower_alone=False)
    pruner = SimpleNamespace(
        family=family, hooks=Hooks(), _current=current, stages=lambda: (layer,), keeps_all=keeps_all
    )
    beside.ahead(pruner, lambda given: said.append("chosen") or ("choice", given), **options)

    def run(rows=600, records=(record,)):
        states = torch.zeros(1, rows, 3)
        for block in blocks:
            block(states)
        if projector:
            family.projector(states)
        current.record, current.pass_ = None, SimpleNamespace(
            features=[("image", carrying(one)) for one in records]
        )  # fmt: skip
        family.language(states)
        for one in family.layers:
            one(states)
        current.record, current.pass_ = record, None

    return pruner, run


@pytest.fixture
def captured(monkeypatch):
    """A device that captures, its streams, and what is asked of its products."""
    there = SimpleNamespace(main=Stream(), made=Stream(), used=[], spared=[])
    monkeypatch.setattr(torch.cuda, "Stream", lambda: there.made)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: there.main)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: there.used.append(s) or nullcontext())
    monkeypatch.setattr(beside, "spare", there.spared.append)
    return there


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_in_a_capture_the_choice_is_made_on_a_stream_of_its_own(layer, captured):
    said, record = [], VisionRecord()
    pruner, run = model_of(said, record, layer)
    run()
    assert said == ["projector", "chosen", "language", "mlp 0", "mlp 1"]
    assert record.extra["ahead"] == (captured.made, ("choice", record))
    assert captured.used == [captured.made] and captured.made.waited == (captured.main,)
    pruner.hooks.close()
    said.clear()
    run()
    assert said == ["projector", "language", "mlp 0", "mlp 1"]


def test_where_layers_do_not_wait_the_choice_begins_once_the_images_are_found(captured):
    said = []
    pruner, run = model_of(said, VisionRecord(), 2, projector=False)
    pruner.hooks.close()
    pruner.hooks.add(pruner.family.language, lambda *_: said.append("located"), before=True)
    beside.ahead(pruner, lambda given: said.append("chosen"))
    run()
    assert said[:3] == ["located", "chosen", "language"]


def test_a_long_choice_begins_behind_the_projector_and_what_follows_knows_the_places(captured):
    said, record = [], VisionRecord()
    pruner, run = model_of(said, record, 2, long=True)
    located = []
    pruner.family.language.register_forward_pre_hook(
        lambda *_: located.append(captured.made.waited), prepend=True
    )
    run()
    assert said[:3] == ["projector", "chosen", "language"]
    assert record.extra["ahead"] == (captured.made, ("choice", record))
    assert located == [(captured.main,)], "begun before the images are found"
    assert captured.made.waited == (captured.main,) * 2
    assert captured.spared == [beside._SPARED_LONG, 0]


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("rows, last, begun", [(1024, 1, 1), (1025, 1, 3), (600, 2, 3)])
def test_a_long_choice_of_few_positions_begins_with_the_last_state_it_reads(
    layer, rows, last, begun, captured
):
    said, record = [], VisionRecord()
    pruner, run = model_of(said, record, layer, long=True, last=last)
    run(rows)
    assert said.index("chosen") == begun and said.count("chosen") == 1
    assert captured.made.waited == (captured.main,) * (2 if layer else 1)
    record.extra.clear()
    said.clear()
    pruner._current.tower_alone = True  # the prefill is not captured: nobody would wait
    pruner.family.blocks()[1](torch.zeros(1, 600, 3))
    assert said == ["block 1"]


def test_products_leave_a_long_choice_cores_from_the_first_layer_on(captured):
    said = []
    pruner, _ = model_of(said, VisionRecord(), 2, long=True)
    pruner._current.record = None
    record = VisionRecord(extra={"ahead": (captured.made, "choice")})
    pruner._current.pass_ = SimpleNamespace(features=[("image", carrying(record))])
    first, second = pruner.family.layers
    first.mlp(torch.zeros(1, 600, 3))
    assert captured.spared == []
    first(torch.zeros(1, 600, 3))
    assert captured.spared == [beside._SPARED_LONG]
    second(torch.zeros(1, 600, 3))
    assert captured.spared == [beside._SPARED_LONG, 0]


def test_what_follows_from_a_choice_made_ahead_is_worked_out_beside_it(captured):
    record, own = VisionRecord(), Stream()
    whole = images_of(record, 2, 2, 3)
    with beside.following([whole], 2):
        assert not captured.used  # nothing was chosen ahead
    record.extra["ahead"] = own, "choice"
    for groups, layer in (([whole], 0), ([whole, whole], 2), ([images_of(record, 4, 2, 3)], 2)):
        with beside.following(groups, layer):
            assert not captured.used and not captured.main.waited
    with beside.following([whole], 2):
        assert captured.used == [own] and not captured.main.waited
    assert captured.main.waited == (own,)
    with pytest.raises(ZeroDivisionError), beside.following([whole], 2):
        raise ZeroDivisionError
    assert captured.main.waited == (own, own)  # a stream that is not joined hides what went wrong


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("absent", ["device", "capture", "record"])
def test_else_nothing_is_chosen_ahead(layer, absent, captured, monkeypatch):
    name = {"device": "is_available", "capture": "is_current_stream_capturing"}.get(absent)
    if name is not None:
        monkeypatch.setattr(torch.cuda, name, lambda: False)
    said, record = [], None if absent == "record" else VisionRecord()
    _, run = model_of(said, record, layer)
    run()
    assert said == ["projector", "language", "mlp 0", "mlp 1"] and not captured.used
    assert record is None or not record.extra
    if name is not None:
        assert not captured.spared


@pytest.mark.parametrize("layer", [0, 2])
def test_where_nothing_is_dropped_nothing_is_chosen_ahead(layer, captured):
    said = []
    _, run = model_of(said, VisionRecord(), layer, keeps_all=True)
    run()  # a choice that nobody waits for would spoil the capture
    assert "chosen" not in said and not captured.used and not captured.spared


def test_features_of_several_calls_are_not_chosen_ahead(captured):
    said = []
    _, run = model_of(said, VisionRecord(), 2)
    run(records=(VisionRecord(), VisionRecord()))
    run(records=())
    assert "chosen" not in said


@pytest.mark.parametrize("layer, rows, mlps, spared", [
    (2, 636, 2, [beside.SPARED, 0]), (5, 636, 3, [beside.SPARED, 0]),
    (2, 8 * 636, 2, []),  # products of many rounds
    (1, 636, 2, []), (0, 636, 2, []),  # nothing to run beside
])  # fmt: skip
def test_products_leave_cores_from_the_first_mlp_to_the_second(layer, rows, mlps, spared, captured):
    _, run = model_of([], VisionRecord(), layer, mlps=mlps)
    run(rows)
    assert captured.spared == spared


def test_a_step_leaves_no_cores(captured):
    pruner, run = model_of([], VisionRecord(), 2)
    run()
    del captured.spared[:]
    for layer in pruner.family.layers:  # as `lib.decoding` runs and captures it
        layer.mlp(torch.zeros(2, 1, 3))
    assert captured.spared == []


def test_layers_without_an_mlp_of_that_name_leave_none(captured):
    pruner, _ = model_of([], VisionRecord(), 2)
    pruner.hooks.close()
    pruner.family.layers[1] = nn.Identity()
    beside.ahead(pruner, lambda given: None)
    pruner.family.layers[0].mlp(torch.zeros(1, 636, 3))
    assert captured.spared == []


class Products:
    """cuBLAS, which notes what it is asked for."""

    def __init__(self):
        self.asked = []

    def cublasSetSmCountTarget(self, handle, count):
        self.asked.append((handle.value, count))


@pytest.mark.parametrize("cores, count", [(16, 116), (0, 0), (132, 0), (400, 0)])
def test_products_are_asked_for_all_cores_but_some(cores, count, monkeypatch):
    library, device = Products(), SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(beside, "_cublas", lambda: library)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(torch.cuda, "current_blas_handle", lambda: 77)
    beside.spare(cores)
    assert library.asked == [(77, count)]


def test_without_cublas_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(beside, "_cublas", lambda: None)
    beside.spare(16)


@pytest.mark.parametrize("version", [None, "13.0"])
def test_a_cublas_that_pytorch_has_not_loaded_is_left_alone(version, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", version)
    asked = []

    def refused(name, mode):
        asked.append((name, mode))
        raise OSError

    monkeypatch.setattr(beside.ctypes, "CDLL", refused)
    assert beside._cublas.__wrapped__() is None
    wanted = [("libcublas.so.13", beside.os.RTLD_NOLOAD)] if version else []
    assert asked == wanted
