"""The stand-in for lmms-eval, or the installed one, keeps the contract that was recorded."""

import importlib

from lmms_eval.api.model import lmms

from lib.plugins.lmms_eval import manifest
from tests.plugins.lmms_eval import contract


def test_the_contract_is_the_recorded_one():
    recorded = contract.recorded()
    assert recorded.pop("version") == "0.7.3"
    assert contract.found() == recorded


def test_the_manifest_names_two_classes_that_lmms_eval_accepts():
    made = manifest()
    assert made.model_id == "entropy_prune"
    for path, is_simple in ((made.simple_class_path, True), (made.chat_class_path, False)):
        module, name = path.rsplit(".", 1)
        kind = getattr(importlib.import_module(module), name)
        assert issubclass(kind, lmms) and kind.is_simple is is_simple
        assert not kind.__abstractmethods__
