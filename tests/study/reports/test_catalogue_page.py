"""The catalogue page is what the methods say, and its averages are what arithmetic says."""

import pytest

from lib.pruning import available, create
from lib.pruning.registry import method
from lib.study.reports.catalogue_page import PAGE, keeps, page, place, published


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m lib report docs`"


def test_every_method_is_on_the_page_and_says_what_it_is():
    text = page()
    for name in available():
        assert f"## {name}\n" in text and f"](#{name})" in text
        assert len(method(name).__doc__ or "") > 80, name


def test_published_settings_average_to_this():
    """By hand: 576 tokens before the first stage, then what each stage leaves, of 32 layers."""
    rows = {(who, setting): average for who, setting, _, average in published()}
    want = {
        ("FastV", "K = 2, 64 kept"): (2 * 576 + 30 * 64) / 32,
        ("PyramidDrop", "default"): 576 * 15 / 32,
        ("SparseVLM 1.5", "192"): (3 * 576 + 4 * 309 + 9 * 204 + 16 * 113) / 32,
        ("SparseVLM+", "128"): (3 * 576 + 4 * 238 + 9 * 108 + 16 * 60) / 32,
        ("DART", "128 (r = .778)"): (2 * 576 + 30 * 124) / 32,
        ("DART", "64 (r = .889)"): (2 * 576 + 30 * 60) / 32,
        ("V2Drop", "default"): (3 * 576 + 14 * 288 + 5 * 144 + 10) / 32,
        ("EntropyPrune (namesake)", "192"): (2 * 576 + 30 * 166) / 32,
        ("LLaVolta", "heavy: stride 8 before layer 2"): 103.5,
        ("LLaVolta", "light: stride 8 before layer 16"): 324,
    }
    for row, average in want.items():
        assert rows[row] == pytest.approx(average), row
    labelled = [average for (who, _), average in rows.items() if who.startswith("SparseVLM")]
    assert [round(average) for average in labelled] == [206, 145, 114, 82, 207, 144, 114, 82]


def test_places_and_what_is_kept_in_words():
    assert place(create("fastv", layer=3)) == "before layer 3"
    assert place(create("sparsevlm")) == "before layers 3, 7 and 16"
    assert keeps(create("sparsevlm")) == (
        "exactly the budget, merged tokens among them, renumbered, reordered"
    )
    assert keeps(create("entropy", count="adaptive")) == (
        "a number that varies by image, at its place, in raster order"
    )
