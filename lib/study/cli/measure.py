"""Commands that measure: captions of any split, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Methods, Model, Quiet, several

Batches = Annotated[str, typer.Option(help="batch sizes, with commas between them")]
OwnModel = Annotated[str | None, typer.Option("--model", help="another model than the profile's")]
NewTokens = Annotated[int, typer.Option(min=1, help="length of a caption")]


def caption(
    profile: Annotated[str, typer.Option(help="results go to this profile's run")] = "embedded",
    results_dir: Annotated[Path | None, typer.Option(help="another folder for results")] = None,
    model: Model = "embedded",
    revision: Annotated[str | None, typer.Option(help="revision of a hub model")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16; default the model's own")
    ] = None,
    device: Device = None,
    data: Annotated[
        Path | None, typer.Option(help="JSON in Karpathy's layout; default the generated scenes")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="folder of the images; default the JSON's")
    ] = None,
    split: str = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="seeded subset of so many")] = None,
    random_state: Annotated[int, typer.Option(help="seed of the subset")] = 0,
    method: Methods = "unpruned",
    keep: Annotated[float, typer.Option(help="share of visual tokens kept")] = 0.5,
    prompt: str | None = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="record the generated ids, too")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    limit_seconds: Annotated[float | None, typer.Option(help="stop after so long")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="decode on the fast path")] = False,
    quiet: Quiet = False,
) -> None:
    """Caption a split with one method or several; run it again to continue."""
    from ...decoding import StaticDecoder
    from .. import paths
    from ..captioning import PROMPT, Settings
    from ..captioning.split import Split, caption_split

    lines = caption_split(
        Split(
            results=results_dir or paths.run_folder(profile) / "captions",
            model=model,
            revision=revision,
            dtype=dtype,
            device=device,
            data=data,
            image_root=image_root,
            split=split,
            limit=limit,
            random_state=random_state,
            methods=several(method, str, "--method"),
            keep=keep,
            settings=Settings(
                prompt=prompt or PROMPT,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                token_ids=token_ids,
                limit_seconds=limit_seconds,
                progress=not quiet,
            ),
            decoder=StaticDecoder.repeatable if fast else None,
        )
    )
    if lines:
        print("\n".join(lines))


def benchmark(
    profile: Annotated[str, typer.Option(help="whose run to write to")] = "embedded",
    model: OwnModel = None,
    methods: Annotated[
        str | None, typer.Option(help="with commas between them; '' for none; default all")
    ] = None,
    batches: Batches = "1,8",
    keep: Annotated[str, typer.Option(help="keep rates, with commas between them")] = "0.5",
    generate: Annotated[
        str | None, typer.Option(help="methods timed through generate, too; default all")
    ] = None,
    new_tokens: NewTokens = 64,
    repeats: Annotated[int, typer.Option(min=1)] = 7,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="fuse the fast path's small kernels")
    ] = False,
    growth: Annotated[str, typer.Option(help="numbers of visual tokens, with commas")] = "",
    agreement: Annotated[
        bool, typer.Option("--agreement", help="and nothing else, in float32")
    ] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="time the scores against their definition")
    ] = False,
    layers: Annotated[
        str, typer.Option(help="before these, time prompts and steps in turn, with commas")
    ] = "",
    against: Annotated[
        str, typer.Option(help="whom they are compared with")
    ] = "fastv,random,unpruned",
    step: Annotated[
        bool, typer.Option("--step", help="where the time of a decoding step goes")
    ] = False,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="first tokens of its runs, in turn with unpruned")
    ] = False,
) -> None:
    """What each method costs and saves on this machine, part by part."""
    from .. import paths
    from ..cost.benchmark import METHODS, Plan, run

    def named(text: str | None, option: str) -> list[str]:
        return list(METHODS) if text is None else several(text, str, option)

    plan = Plan(
        model=model or _model_of(profile),
        methods=named(methods, "--methods"),
        batches=several(batches, int, "--batches"),
        keep=several(keep, float, "--keep"),
        generate=named(generate, "--generate"),
        new_tokens=new_tokens,
        repeats=repeats,
        compiled=compiled,
        growth=several(growth, int, "--growth"),
        agreement=agreement,
        definition=leave_one_out,
        layers=several(layers, int, "--layers"),
        against=several(against, str, "--against"),
        catalogue=catalogue,
        step=step,
    )
    path = paths.run(profile).results / "benchmark.json"
    with paths.looking_at(paths.RUN):  # where the run has none, the reference's parts are kept
        earlier = paths.measured(profile, path.name)
    run(plan, path, earlier)


def scaling(
    profile: Annotated[str, typer.Option(help="whose run to write to")] = "embedded",
    model: OwnModel = None,
    processes: Annotated[str, typer.Option(help="counts, with commas between them")] = "1,2,4",
    images: Annotated[int, typer.Option(min=1)] = 1000,
    split: str = "test",
    method: str = "unpruned",
    batch_size: Batches = "16",
    new_tokens: NewTokens = 64,
    device: Device = None,
    fast: Annotated[bool, typer.Option("--fast", help="on the fast path, too")] = False,
) -> None:
    """Images a second by batch size and number of processes, and whether captions differ."""
    from .. import paths
    from ..cost.scaling import Scaling, measure, record_of

    options = Scaling(
        model=model or _model_of(profile),
        processes=several(processes, int, "--processes"),
        images=images,
        split=split,
        method=method,
        batch_size=several(batch_size, int, "--batch-size"),
        new_tokens=new_tokens,
        device=device,
        fast=fast,
    )
    measure(options, paths.run(profile).results / record_of(options))


def choices(
    profile: Annotated[str, typer.Option(help="whose run to write to")] = "shape",
    kept: Annotated[str, typer.Option(help="of an image, with commas between them")] = "64,288",
    batches: Batches = "1,32",
    repeats: Annotated[int, typer.Option(min=1)] = 21,
    device: Device = None,
    tokens: Annotated[int, typer.Option(min=1, help="of an image")] = 576,
    rule: Annotated[list[str] | None, typer.Option(help="may be repeated; default all")] = None,
) -> None:
    """What the rules cost alone, choosing some of an image's tokens without a model."""
    from .. import paths
    from ..cost.choices import RULES, choices

    choices(
        paths.run(profile).results / "choices.json",
        kept=several(kept, int, "--kept"),
        batches=several(batches, int, "--batches"),
        repeats=repeats,
        device=device,
        tokens=tokens,
        rules=rule or tuple(RULES),
    )


def bench(
    record: Annotated[Path | None, typer.Option(help="write the ratios here, too")] = None,
) -> None:
    """Speed ratios that the README quotes, measured now on the processor."""
    from ..cost.ratios import report

    report(record)


def trials(
    what: Annotated[str, typer.Argument(help="candidates, checkpoints, budgets or clusters")],
    limit: Annotated[int | None, typer.Option(min=1, help="photographs of each split")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="adapters to compare; default the published ones")
    ] = None,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Measure a side question about the photograph model; its card quotes the result."""
    from ..trials import measure

    how = {"limit": limit, "weights": weights or (), "device": device, "batch_size": batch_size}
    print(measure(what, **how))


def _model_of(profile: str) -> str:
    """The model of a profile; a folder of results need not be a profile's."""
    from ..profiles import load_profile, profile_path

    return load_profile(profile).model if profile_path(profile).is_file() else "embedded"


COMMANDS = (caption, benchmark, scaling, choices, bench, trials)
