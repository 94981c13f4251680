"""What the plug-in relies on in lmms-eval: names, parameters and their defaults, abstract methods.

`contract.json` holds it of the release named there; the stand-in must agree, and so must the
installed lmms-eval (`proof.py` looks).
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("contract.json")
#: module: what the plug-in uses of it
USED = {
    "lmms_eval.api.instance": ("GenerationResult", "Instance", "TokenCounts"),
    "lmms_eval.api.model": ("lmms",),
    "lmms_eval.models.model_utils.gen_metrics": ("log_metrics",),
    "lmms_eval.models.registry_v2": ("ModelManifest",),
}
#: of the base class of models
METHODS = (
    "__init__", "_apply_system_prompt", "_resolve_system_prompt", "clean", "generate_until",
    "generate_until_multi_round", "loglikelihood", "rank", "world_size",
)  # fmt: skip


def found() -> dict[str, Any]:
    """The contract as the importable lmms-eval keeps it."""
    things = {
        f"{module}.{name}": getattr(importlib.import_module(module), name)
        for module, names in USED.items()
        for name in names
    }
    base = things["lmms_eval.api.model.lmms"]
    counts = things["lmms_eval.api.instance.TokenCounts"]
    told = {name: parameters(thing) for name, thing in things.items()}
    told |= {f"lmms.{name}": parameters(getattr(base, name)) for name in METHODS}
    told["TokenCounts.to_dict"] = parameters(counts.to_dict)
    return {
        "parameters": told,
        "abstract": sorted(base.__abstractmethods__),
        "is_simple": base.is_simple,
    }


def parameters(thing: Any) -> list[str] | str:
    """Names of parameters, `=` behind those with a default; "property" for one."""
    if isinstance(thing, property):
        return "property"
    return [
        name + ("" if p.default is p.empty else "=")
        for name, p in inspect.signature(thing).parameters.items()
    ]


def recorded() -> dict[str, Any]:
    """The contract of the recorded release, and its `version`."""
    return json.loads(RECORD.read_text(encoding="utf-8"))
