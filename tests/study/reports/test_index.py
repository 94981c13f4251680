"""The texts of the index page."""

from lib.study.reports.index import deviations


def test_every_difference_from_the_paper_is_named_and_explained():
    found = deviations()
    assert len(found) >= 8 and all(set(item) == {"what", "text"} for item in found)
    assert {"Rollout", "50 %", "FLOPs", "FastV"} <= {item["what"] for item in found}
    assert all(item["text"].endswith(".") and "\n" not in item["text"] for item in found)
