"""A model for a notebook, without the progress bar that a cell's output would keep."""

from __future__ import annotations

from typing import Any

from transformers.utils import logging

from .. import models

__all__ = ["loaded_quietly"]


def loaded_quietly(name: str, **options: Any) -> models.Loaded:
    """`lib.study.models.load` without transformers' progress bar."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return models.load(name, **options)
    finally:
        if shown:
            logging.enable_progress_bar()
