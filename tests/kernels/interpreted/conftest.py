"""Kernels that the interpreter runs, on the processor."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lib.kernels import backend_for, dispatch
from tests.kernels.interpreted.kit import INSIDE


@pytest.fixture(autouse=True, scope="module")
def patched_once():
    """Triton patches its language for the interpreter at every launch, and in it at every call of a
    helper, which takes long: here once."""
    if not INSIDE:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    from lib.kernels import common
    from tests.kernels.interpreted.quick import quicken

    # no sum of integers here is near the end of its range
    options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        # our kernels name `triton.language`, Triton's own `triton.language.core`
        scopes = [interpreter._patch_lang(helper.fn) for helper in (common._tile, tl.sum)]
        patch.setattr(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope())
        patch.setattr(interpreter.interpreter_builder, "options", options)
        yield
        for scope in reversed(scopes):
            scope.restore()


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch):
    if not INSIDE:
        return
    from lib.kernels import blocks, common, operations

    monkeypatch.setattr(dispatch, "_devices", ("cuda", "cpu"))
    # programs run one after the other: one that waits for another needs it to be itself
    monkeypatch.setattr(common, "_room", lambda *_: 1)
    monkeypatch.setattr(blocks, "_ROWS", 64)
    assert backend_for(torch.zeros(1, 16, 8)).kernels is operations
