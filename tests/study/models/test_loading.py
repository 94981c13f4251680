"""Names mean what they say, and options reach what is loaded."""

import re

import pytest

from lib.study import models
from lib.study.models import load, loading
from lib.study.profiles import load_profile


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("llava", {}, ValueError, "unknown model 'llava'"),
        ("shape:llava-2", {}, ValueError, "unknown shape 'shape:llava-2'"),
        ("./nowhere", {}, FileNotFoundError, "no model folder"),
        ("embedded", {"revision": "main"}, ValueError, "needs a hub id"),
        ("embedded", {"device": "cpu", "device_map": "auto"}, ValueError, "not both"),
        ("shape:llava-1.5-7b", {"device_map": "auto"}, ValueError, "device_map does not apply"),
        ("embedded", {"dtype": "float12"}, ValueError, "unknown dtype 'float12'"),
    ],
)
def test_load_refuses(name, options, error, message):
    with pytest.raises(error, match=message):
        load(name, **options)


def test_a_revision_reaches_processor_weights_and_configuration(monkeypatch):
    profile = load_profile("paper")
    assert re.fullmatch(r"[0-9a-f]{40}", profile.revision)
    asked = []

    def note(kind, result):
        def from_pretrained(source, **options):
            asked.append((kind, source, options.get("revision")))
            return result

        return type("Auto", (), {"from_pretrained": staticmethod(from_pretrained)})

    class Stub:
        def to(self, device):
            return self

        eval = lambda self: self  # noqa: E731

    monkeypatch.setattr(loading, "AutoProcessor", note("processor", object()))
    monkeypatch.setattr(loading, "AutoModelForImageTextToText", note("weights", Stub()))
    monkeypatch.setattr(loading, "AutoConfig", note("config", object()))
    models.load(profile.model, revision=profile.revision, device="cpu")
    models.read_config(profile.model, revision=profile.revision)
    assert asked == [
        (kind, "llava-hf/llava-1.5-7b-hf", profile.revision)
        for kind in ("config", "processor", "weights", "config")
    ]
