"""Captions with the static decoder: those of `generate`, in batches of one shape."""

import json

import pytest

from lib.decoding import StaticDecoder
from lib.pruning import create
from lib.study.captioning import caption, caption_methods
from lib.study.records import ManifestMismatch, canonical, read_records
from tests.study.captioning.kit import METHODS, QUICK, pruners

BOTH = {"kept_indices": True, "token_ids": True} | QUICK


def fast(model):
    return StaticDecoder(model, capture_prefill="at once")


def test_the_captions_of_generate(kit, pictures, tmp_path):
    decoder = fast(kit[0])
    found = caption_methods(*kit, pictures, pruners(), tmp_path, decoder=decoder, **BOTH)
    expected = caption_methods(*kit, pictures, pruners(), None, **BOTH)
    for slug in METHODS:
        assert canonical(found[slug]) == canonical(expected[slug]), slug
        document = json.loads((tmp_path / slug / "manifest.json").read_text())
        assert document["parameters"]["decoding"]["decoder"] == decoder.options()
        assert document["runs"][0]["prefill"] == "plain: nothing is captured on device cpu"


def test_an_early_end_and_a_partial_batch(kit, pictures, monkeypatch):
    ids = [r["token_ids"] for r in caption(*kit, pictures, **BOTH)]
    monkeypatch.setattr(kit[0].generation_config, "eos_token_id", [ids[0][2], ids[3][0]])
    options = BOTH | {"pruner": create("random", keep=0.5)}
    expected = canonical(caption(*kit, pictures, **options))
    for size in (3, 16):
        options |= {"batch_size": size, "decoder": fast(kit[0])}
        assert canonical(caption(*kit, pictures, **options)) == expected


def test_a_torn_file_is_completed_and_generate_does_not_continue(kit, pictures, tmp_path):
    options = {"records": tmp_path, **BOTH}
    caption(*kit, pictures, decoder=fast(kit[0]), **options)
    path = tmp_path / "records.jsonl"
    expected = canonical(read_records(path))
    path.write_bytes(path.read_bytes()[:300])
    caption(*kit, pictures, decoder=fast(kit[0]), **options)
    assert canonical(read_records(path)) == expected
    with pytest.raises(ManifestMismatch, match=r"decoding\.decoder"):
        caption(*kit, pictures, **options)


def test_a_decoder_that_captures_late_is_refused(kit, pictures):
    with pytest.raises(ValueError, match="the first one's captions round otherwise"):
        caption(*kit, pictures, decoder=StaticDecoder(kit[0]), **QUICK)
