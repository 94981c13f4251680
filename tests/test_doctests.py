"""Every example in a docstring of the library runs, and every module is asked for its own."""

import doctest
import importlib
import pkgutil

import pytest

import lib

#: what a module may lack where the library is installed alone
OPTIONAL = {"triton", "lmms_eval"}
RELAXED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    """Names of all modules of lib but those that run something when imported."""
    found = pkgutil.walk_packages(lib.__path__, "lib.", onerror=lambda name: None)
    return sorted(m.name for m in found if not m.name.endswith("__main__"))


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}, which is optional")
    result = doctest.testmod(module, optionflags=RELAXED)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name}"


def test_the_rooms_are_all_there():
    names = set(modules())
    for room in ("entropy", "clustering", "selection", "rollout", "merging", "pruning", "kernels"):
        assert f"lib.{room}" in names


@pytest.mark.parametrize(
    "room", ["entropy", "clustering", "selection", "rollout", "merging", "kernels.dispatch"]
)
def test_public_functions_of_the_pure_storey_have_examples(room):
    module = importlib.import_module(f"lib.{room}")
    names = getattr(module, "__all__", None) or [
        n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
    ]
    for name in names:
        value = getattr(module, name)
        if callable(value) and not name.startswith("_") and not isinstance(value, type):
            assert ">>>" in (value.__doc__ or ""), f"lib.{room}.{name} has no example"
