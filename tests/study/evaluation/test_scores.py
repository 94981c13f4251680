"""Scores survive a file."""

import json

import pytest

from lib.study.evaluation import Scores, compare


def test_scores_survive_json(scored, tmp_path):
    *_, results = scored
    for one in results.values():
        again = Scores.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again.to_dict() == one.to_dict()
        one.save(tmp_path / "s.json")
        assert Scores.load(tmp_path / "s.json").to_dict() == one.to_dict()
    assert compare(again, results["good"]) == compare(results["poor"], results["good"])
    with pytest.raises(ValueError, match=r"not a document of Scores\.to_dict"):
        Scores.from_dict({"values": {}})
