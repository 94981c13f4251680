"""Run the proof and write its record; says at the end what did not hold."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

import torch

from lib.study.files import write_json
from lib.study.paths import ROOT
from tests.plugins.lmms_eval import contract
from tests.plugins.lmms_eval.proof import again, host, material, plan, record, rows

VERSIONS = (
    "entropy-prune", "lmms_eval", "torch", "torchvision", "transformers", "accelerate", "datasets",
)  # fmt: skip


def main(target: Path) -> int:
    torch.set_num_threads(1)
    examples = material.scenes()
    documents = material.write(examples)
    lmms = importlib.metadata.version("lmms_eval")
    made = {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONS},
        "contract_kept": contract.found() | {"version": lmms} == contract.recorded(),
        "scenes": len(documents),
        "batch_size": plan.BATCH,
        "rows": [],
    }
    for model in plan.MODELS:
        for method in plan.METHODS:
            print(f"{model}, {method}", flush=True)
            made["rows"].append(rows.row(model, method, examples, documents))
    print("a killed run, two processes, refusals", flush=True)
    before = host.read(again.RUNS / "-".join(plan.AGAIN) / "chat", plan.GENERATED)
    made |= {"resumed": again.resumed(before), "two_processes": {}}
    for launcher in host.TWICE:
        made["two_processes"][launcher] = again.by_two(launcher, before)
    made["refused"] = again.refused()
    write_json(target, made)
    broken = record.broken(made)
    print("\n".join(broken) or f"everything held; the record is {target.relative_to(ROOT)}")
    return len(broken)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if sys.argv[1:] else record.PATH))
