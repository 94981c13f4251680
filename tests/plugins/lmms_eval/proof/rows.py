"""A model under a method: lmms-eval's samples beside our own answers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lib.study.data import Example
from tests.plugins.lmms_eval.proof import host, material, plan
from tests.plugins.lmms_eval.proof.own import Own, Said


def given(model: str, method: str) -> str:
    """lmms-eval's `--model_args` for a row."""
    # as the study runs it: pixels by PIL, and its half-precision weights in full precision
    pil = {"processor": '{"backend":"pil"}'} if model == "embedded" else {}
    options = {
        "method": method, **plan.METHODS[method], "device": "cpu", "dtype": "float32", **pil,
    }  # fmt: skip
    return host.arguments(str(material.folder(model)), options)


def row(model: str, method: str, examples: Sequence[Example], documents: list[dict]) -> dict:
    """Run a row of the plan and compare."""
    own = Own(model, None if method == "none" else method, plan.METHODS[method])
    said = answers(own, examples, documents)
    out, batch = material.FOLDER / "runs" / f"{model}-{method}", ("--batch_size", str(plan.BATCH))
    chat = host.evaluate(given(model, method), plan.GENERATED, out / "chat", *batch)
    simple = host.evaluate(
        given(model, method), (plan.CHOSEN,), out / "simple", "--force_simple", *batch
    )
    made: dict[str, Any] = {"model": model, "method": method, "options": plan.METHODS[method]}
    tasks = {task: compared(chat.samples[task], said[task]) for task in plan.GENERATED}
    tasks[plan.CHOSEN] = chosen(simple.samples[plan.CHOSEN], own.losses(documents))
    for task in tasks:
        tasks[task]["metrics"] = metrics((chat.results | simple.results)[task])
    made["tasks"] = tasks
    if model == "embedded":
        made["captions"] = texts(chat.samples["scenes_caption"])
    return made


def answers(own: Own, examples: Sequence[Example], documents: list[dict]) -> dict[str, list[Said]]:
    """Our own answers to the tasks that generate."""
    return {
        "scenes_caption": own.captions(examples),
        "scenes_yesno": own.answers(documents, "visual"),
        "scenes_pair": own.answers(documents, "pair"),
    }


def texts(samples: list[dict]) -> list[str]:
    return [" ".join(sample["filtered_resps"].split()) for sample in samples]


def compared(samples: list[dict], said: list[Said]) -> dict[str, Any]:
    """How many samples have the answer and the token counts that we have, and a time."""
    counts = [sample["token_counts"][0] for sample in samples]
    pairs = [(count["visual_tokens"], count["kept_tokens"]) for count in counts]
    return {
        "questions": len(said),
        "equal": sum(a == b.text for a, b in zip(texts(samples), said, strict=True)),
        "different_answers": len({one.text for one in said}),
        "counts_equal": sum(a == (b.visual, b.kept) for a, b in zip(pairs, said, strict=True)),
        "first_token_logged": sum(count["first_token_seconds"] > 0 for count in counts),
        "visual_tokens": fmean(one.visual for one in said),
        "kept_tokens": fmean(one.kept for one in said),
    }


def chosen(samples: list[dict], losses: list[list[float]]) -> dict[str, Any]:
    """How far the likelihoods are from ours, and whether the likeliest choice is the same."""
    logged = [[float(loss) for loss, _ in sample["filtered_resps"]] for sample in samples]
    gaps = [
        abs(a - b)
        for theirs, ours in zip(logged, losses, strict=True)
        for a, b in zip(theirs, ours, strict=True)
    ]
    return {
        "questions": len(losses),
        "likelihoods": len(gaps),
        "largest_difference": float(f"{max(gaps):.1e}"),
        "same_choice": sum(
            a.index(min(a)) == b.index(min(b)) for a, b in zip(logged, losses, strict=True)
        ),
    }


def metrics(results: dict[str, Any]) -> dict[str, float]:
    """lmms-eval's own means."""
    means = {name.partition(",")[0]: value for name, value in results.items() if "," in name}
    return {n: round(v, 6) for n, v in means.items() if "stderr" not in n}
