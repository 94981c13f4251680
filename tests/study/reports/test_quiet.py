"""The progress bar is off while a model loads and as before afterwards, whatever happens."""

import pytest
from transformers.utils import logging

from lib.study import models
from lib.study.reports.quiet import loaded_quietly


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_comes_back_even_after_an_error(monkeypatch, shown):
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    seen = []

    def load(name, **options):
        seen.append((name, options, logging.is_progress_bar_enabled()))
        raise OSError("no weights")

    monkeypatch.setattr(models, "load", load)
    try:
        with pytest.raises(OSError, match="no weights"):
            loaded_quietly("x", dtype="float32")
        assert seen == [("x", {"dtype": "float32"}, False)]
        assert logging.is_progress_bar_enabled() == shown
    finally:
        logging.enable_progress_bar()
