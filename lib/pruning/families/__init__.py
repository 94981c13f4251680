"""One adapter a model family; the engine knows none of them by name."""

import importlib
import pkgutil

from .base import Family, Layout, Projection, TowerAttention, resolve, supported, unwrap

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Family",
    "Layout",
    "Projection",
    "TowerAttention",
    "resolve",
    "supported",
    "unwrap",
]
