"""The page on serving is that of the stored record."""

from lib.study.reports import serving_page


def test_the_page_is_that_of_the_stored_record():
    said = serving_page.PAGE.read_text(encoding="utf-8")
    assert said == serving_page.stored_page()
    assert said.count("\n| ") == 1 + 3 * len(serving_page.SHOWN)
