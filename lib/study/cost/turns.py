"""The time to the first token, or to the next, of two methods in turn: a ratio and its interval.

Methods that were timed one after the other cannot be told apart by a per cent: the machine drifts.
Here each round runs a baseline and a method, in changing order, and what counts is their ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from tqdm.auto import tqdm

from ...decoding import StaticDecoder
from ...pruning import create
from ...pruning.families import resolve
from ...pruning.support import refusal
from ..grid import catalogue
from ..methods import placed
from .plan import Measurements, Plan
from .probe import Probe
from .prompts import random_prompts
from .timing import Stopwatch, Timing, free_peak, once, paired_ratio

#: what is timed: a prompt read through the model as `generate` does, or captured with its vision
#: tower, or a step of decoding behind a prompt, through the model, too
WAYS: dict[str, Callable[[Probe], Callable[[], Any]]] = {
    "plain": lambda probe: probe.prefill,
    "captured": lambda probe: probe.static_prefill,
    "step": lambda probe: probe.following(),
}

#: what tells a row of `first_token` from another
KEYS = ("way", "method", "against", "batch", "layer", "keep", "catalogue")


def in_turn(
    baseline: Probe, probe: Probe, *, way: str, rounds: int, warmup: int = 3
) -> dict[str, Any]:
    """Seconds of both, and the median of the rounds' ratios to the baseline.

    way: of `WAYS`; a captured one needs decoders of their own. Returns `seconds` and `baseline` as
    `Timing` dictionaries and `ratio` with the bounds of its 95 % interval (None below six rounds).
    """
    call, both = WAYS[way], (baseline, probe)
    for _ in range(warmup):
        for one in both:
            _seconds(one, call)
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for of_baseline in (True, False) if number % 2 == 0 else (False, True):
            found[of_baseline].append(_seconds(baseline if of_baseline else probe, call))
    return {
        "seconds": asdict(Timing.of(found[False])),
        "baseline": asdict(Timing.of(found[True])),
        "ratio": paired_ratio(found[False], found[True]),
    }


def _seconds(probe: Probe, call: Callable[[Probe], Any]) -> float:
    watch = Stopwatch(probe.device)
    with probe.active():
        once(call(probe), watch)
    (seconds,) = watch.seconds()
    return seconds


def first_tokens(model: Any, record: Measurements, plan: Plan) -> None:
    """Every method of `plan.layers` against `plan.against` at its place; the catalogue's, too.

    Prompts are captured, so that the host is no brake. Against the unpruned model one prompt is
    read plainly, and followed by a step: who calls it so wants to know that pruning is no slower.
    """
    for batch in plan.batches:
        inputs = random_prompts(model, batch)
        bare = Probe(model, inputs, None, 1)
        for layer in plan.layers:
            options = {"unpruned": None, **placed(layer)}
            pruners = {
                name: None if given is None else create(name, keep=plan.keep[0], **given)
                for name, given in options.items()
            }
            probes = {name: replace(bare, pruner=pruner) for name, pruner in pruners.items()}
            about = {"batch": batch, "layer": layer, "keep": plan.keep[0]}
            for against in plan.against:
                plainly = ("plain", "step") if batch == 1 else ()
                ways = plainly if against == "unpruned" else ("captured",)
                for way in ways if against in probes else ():
                    _compare(record, probes, against, plan, {"way": way, **about})
    if plan.catalogue:
        bare = Probe(model, random_prompts(model, 1), None, 1)
        probes = {"unpruned": bare} | {
            slug: replace(bare, pruner=pruner) for slug, pruner in _catalogue(model)
        }
        about = {"way": "captured", "batch": 1, "catalogue": True}
        _compare(record, probes, "unpruned", plan, about)


def _catalogue(model: Any) -> Iterator[tuple[str, Any]]:
    """The runs of `lib.study.grid` that the model takes, each where it prunes there."""
    layers = len(resolve(model).layers)
    for slug, method in catalogue(layers).items():
        if refusal(method.name, model, **method.options) is None:
            yield slug, method.create()


def _compare(
    record: Measurements,
    probes: Mapping[str, Probe],
    against: str,
    plan: Plan,
    about: Mapping[str, Any],
) -> None:
    way = about["way"]
    captured = way == "captured"
    baseline = _with_decoder(probes[against], plan) if captured else probes[against]
    for name, probe in tqdm(probes.items(), desc=f"in turn, {way}", disable=None):
        if name == against:
            continue
        free_peak(probe.device)
        probe = _with_decoder(probe, plan) if captured else probe
        row = {"method": name, "against": against, **about}
        row |= in_turn(baseline, probe, way=way, rounds=plan.repeats)
        if captured:  # a method that looks at what it chose runs through the plain model
            row |= {"replayed": probe.decoder.captured, "compiled": plan.compiled}
        record.put("first_token", row, *KEYS)
        ratio = row["ratio"]
        print(
            f"{way:<8} {name:<22} batch {about['batch']:>2}: "
            f"{1e3 * row['seconds']['median']:.2f} ms, {ratio['median']:.4f} of {against}'s "
            f"[{ratio['low'] or 0:.4f}, {ratio['high'] or 0:.4f}]",
            flush=True,
        )


def _with_decoder(probe: Probe, plan: Plan) -> Probe:
    return replace(probe, decoder=StaticDecoder(probe.model, compiled=plan.compiled))
