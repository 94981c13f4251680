"""Batches are prepared ahead of time."""

import threading

import pytest
import torch

from lib.study.captioning import ImageError, Loader, caption
from lib.study.models import full_prompt
from lib.study.records import canonical
from tests.study.captioning.kit import QUICK, Picture

CPU = torch.device("cpu")


def test_threads_pin_memory_on_the_device_of_their_process(kit, pictures, monkeypatch):
    (_, processor), examples = kit, pictures
    seen = []
    here = threading.local()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(here, "device", device))
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: seen.append(getattr(here, "device", None)) or self
    )
    device = torch.device("cuda:1")
    prompt = full_prompt(processor, "What is it?")
    with Loader(processor, prompt, device, workers=2) as loader:
        batches = list(loader([examples[:2], examples[2:4], examples[4:5]]))
    assert [len(inputs["input_ids"]) for _, inputs in batches] == [2, 2, 1]
    assert seen and set(seen) == {device}
    seen.clear()
    with Loader(processor, prompt, CPU, workers=1) as loader:
        assert len(list(loader([examples[:2]]))) == 1
    assert not seen


@pytest.fixture
def loader(kit):
    _, processor = kit
    with Loader(processor, full_prompt(processor, "What is it?"), CPU, workers=2) as loader:
        yield loader


def test_batches_begun_early_are_not_prepared_again(loader, pictures, monkeypatch):
    prepared = []
    original = loader.prepare
    monkeypatch.setattr(
        loader, "prepare", lambda batch: prepared.append(len(batch)) or original(batch)
    )
    batches = [pictures[:3], pictures[3:6], pictures[6:]]
    loader.start(batches)
    for future in loader.started.values():
        future.result()
    assert sorted(prepared) == [2, 3, 3], "before anybody asks"
    made = list(loader(batches))
    assert [batch for batch, _ in made] == batches and len(prepared) == 3
    expected = list(loader(batches))
    assert len(prepared) == 6
    for (_, early), (_, late) in zip(made, expected):
        assert all(torch.equal(early[name], late[name]) for name in late)


def test_the_first_batch_begun_early_is_prepared_alone(loader, pictures, monkeypatch):
    first, release = threading.Event(), threading.Event()
    after = []

    def prepare(batch):
        if batch == pictures[:3]:
            first.set()
            assert release.wait(60)
        else:
            after.append(release.is_set())

    monkeypatch.setattr(loader, "prepare", prepare)
    loader.start([pictures[:3], pictures[3:6], pictures[6:]])
    assert first.wait(60)
    other = loader.started[tuple(p.image_id for p in pictures[3:6])]
    with pytest.raises(TimeoutError):
        other.result(timeout=0.2)
    assert not after
    release.set()
    for future in loader.started.values():
        future.result(60)
    assert after == [True, True]


def test_batches_begun_early_that_nobody_wants_do_no_harm(loader, pictures, tmp_path):
    loader.start([[Picture(1, tmp_path / "gone.png")], pictures[:2]])
    ((batch, _),) = loader([pictures[2:4]])
    assert batch == pictures[2:4] and not loader.started
    with pytest.raises(ImageError, match="gone"):
        list(loader([[Picture(1, tmp_path / "gone.png")]]))


def test_captions_of_a_loader_that_has_begun_are_the_same(kit, pictures):
    model, processor = kit
    expected = caption(model, processor, pictures, **QUICK)
    with Loader(processor, full_prompt(processor, "Describe the image briefly."), CPU) as loader:
        loader.start([pictures[:3], pictures[3:6]])
        records = caption(model, processor, pictures, loader=loader, **QUICK)
    assert canonical(records) == canonical(expected)
