"""What must hold of a record of the proof."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.plugins.lmms_eval.proof import plan

PATH = Path(__file__).parents[4] / "data" / "results" / "lmms-eval" / "proof.json"
#: likelihoods are sums of float32 in different orders: padded batches and single prompts
TOLERANCE = 1e-4


def broken(record: dict[str, Any]) -> list[str]:
    """Sentences about what is missing or does not hold; none of a good record."""
    return [*_whole(record), *_rows(record["rows"]), *_again(record), *_refused(record["refused"])]


def _whole(record: dict[str, Any]) -> Iterator[str]:
    if not record["contract_kept"]:
        yield "lmms-eval is not as contract.json has it"
    if record["scenes"] != plan.SCENES or record["batch_size"] != plan.BATCH:
        yield "the record is of other scenes or batches"
    have = [(row["model"], row["method"], row["options"]) for row in record["rows"]]
    want = [(model, *method) for model in plan.MODELS for method in plan.METHODS.items()]
    if have != want:
        yield f"the rows are {have}, not {want}"


def _rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        name = f"{row['model']}, {row['method']}"
        if row["tasks"].keys() != {*plan.GENERATED, plan.CHOSEN}:
            yield f"{name}: the tasks are {list(row['tasks'])}"
            continue
        for task in plan.GENERATED:
            yield from _generated(f"{name}, {task}", row["tasks"][task], row["options"])
        found = row["tasks"][plan.CHOSEN]
        if found["likelihoods"] != 3 * plan.SCENES or found["largest_difference"] > TOLERANCE:
            yield f"{name}: likelihoods differ by {found['largest_difference']}"
        if found["same_choice"] != plan.SCENES:
            yield f"{name}: {found['same_choice']} choices are the same"


def _generated(name: str, found: dict[str, Any], options: dict[str, Any]) -> Iterator[str]:
    for what in ("questions", "equal", "counts_equal", "first_token_logged"):
        if found[what] != plan.SCENES:
            yield f"{name}: {what} is {found[what]} of {plan.SCENES}"
    if found["different_answers"] < 2:
        yield f"{name}: every answer is the same"
    visual, kept = found["visual_tokens"], found["kept_tokens"]
    # budgets are rounded for each image, or each tile of it
    if not abs(kept / visual - options.get("keep", 1)) < 0.03 or not found["metrics"]:
        yield f"{name}: {kept} of {visual} tokens, metrics {found['metrics']}"


def _again(record: dict[str, Any]) -> Iterator[str]:
    resumed, two = record["resumed"], record["two_processes"]
    if not 0 < resumed["from_cache"] < resumed["answers"] or (
        resumed["from_cache"] + resumed["computed"] != resumed["answers"]
    ):
        yield f"nothing was resumed: {resumed}"
    if two.keys() != {"accelerate", "torchrun"} or any(
        run["processes"] != 2 for run in two.values()
    ):
        yield f"not two processes of either launcher: {two}"
    for name, found in (("resumed", resumed), *two.items()):
        if found["equal"] != found["answers"]:
            yield f"{name}: {found['equal']} of {found['answers']} answers are equal"


def _refused(refused: dict[str, str]) -> Iterator[str]:
    for wrong, names in plan.WRONG.items():
        said = refused.get(wrong, "nothing")
        if not all(name in said for name in names):
            yield f"of {wrong} lmms-eval says {said}"
