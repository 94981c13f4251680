"""What two runs of the same settings share has one fingerprint everywhere."""

from lib.study.records import canonical, digest


def test_canonical_drops_timings_only():
    assert canonical([{"image_id": 1, "seconds": 1.0, "prefill_seconds": 2.0, "kept": 3}]) == [
        {"image_id": 1, "kept": 3}
    ]


def test_digest_is_the_same_everywhere():
    assert digest({"b": [1, 2.5, "é"], "a": None}) == digest({"a": None, "b": (1, 2.5, "é")})
    assert digest(1).startswith("6b86b273ff34fce1")  # sha256 of the character "1"
