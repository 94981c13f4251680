"""The pages: one profile in full, or all side by side."""

from lib.study.doctor import Finding, overview, ready, report
from tests.study.doctor.kit import EMBEDDED


def test_the_overview_shows_every_profile():
    examined = {
        "embedded": [Finding("model", True, "its own")],
        "shape": [Finding("model", False, "shape's")],
        "paper": [Finding("model", False, "paper's"), Finding("split", False, "absent")],
    }
    lines = overview(examined).splitlines()
    assert lines[0].split() == ["embedded", "shape", "paper", "found"]
    assert lines[1].split() == ["model", "ok", "MISSING", "MISSING", "paper's"]
    assert lines[2].split() == ["split", "-", "-", "MISSING", "absent"]
    assert lines[3].split() == ["can", "run", "yes", "no", "no"]
    assert lines[-1].endswith("make doctor PROFILE=paper")
    assert not any(line.endswith(" ") for line in lines)


def test_what_is_not_needed_is_told_apart():
    findings = [
        Finding("model", False, "absent", "get it", 2 * 10**9),
        Finding("SPICE", False, "absent", "make spice", 10**9, needed=False),
        Finding("GPU", False, "none", "not needed", needed=False),
    ]
    page = report(EMBEDDED, findings)
    assert "To do:\n  model: get it  (2.00 GB)\n" in page
    assert "Optional:\n  SPICE: make spice  (1.00 GB)\n" in page
    assert "To download: 2.00 GB" in page and page.endswith("Not ready: 1 to do.")
    assert ready(findings[1:]) and not ready(findings)
    assert report(EMBEDDED, findings[1:]).endswith("Ready.")


def test_numbers_are_shown_as_they_are_written():
    page = report(EMBEDDED, [Finding("Python", True, "3.10"), Finding("x", True, "007")])
    assert "3.10" in page and "007" in page
