"""What a profile needs, computed once: captions of every method, their scores, their cost.

    python -m lib.study.run --profile embedded

Everything lands in `data/results/<profile>/`: `captions/<slug>/` and `ablations/<slug>/` (records
and manifest, see `lib.study.records`), `scores/<slug>.json` (scores of every image), `scores.json`
(the
summary that tables and figures read), `efficiency.json` and `study.json` (environment, timings). A
killed run continues where it stopped. Records whose settings, weights or computing code changed are
computed again, and only those.

Every GPU of the machine captions its share. For several machines with one folder let accelerate
start the processes (`accelerate launch ... -m lib.study.run --profile paper`): they only caption, a
share each, and the command above does the rest.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import time
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm.auto import tqdm

from . import paths
from .records import canonical, digest, environment, read_records, write_atomically

__all__ = [
    "Method",
    "Profile",
    "ablations",
    "code_digest",
    "examples",
    "fetch",
    "load_profile",
    "load_scores",
    "mark",
    "methods",
    "run",
    "table",
]

#: What of `lib/study` decides the captions, beside the whole library storey.
DECIDES = ("models", "data", "captioning")
OBJECT_F1 = "Object F1"
RANDOM = "random weights"
#: why a profile with random weights has no scores
UNSCORED = "captions of random weights mean nothing, so they are not scored"
#: what a study consists of, in order; "scores" alone needs the records, but no model
STAGES = ("captions", "scores", "efficiency")
#: Table 1's rows, in the paper's order; the rest of `methods` stands in Table 1's second part.
TABLE_1 = ("unpruned", "random", "tome", "fastv", "entropy")


# ---------------------------------------------------------------------------- profiles


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The parameters of a profile, as `notebooks/profiles/<name>.yaml` gives them.

    profile, description: its name, and one line for people.
    model, revision, dtype, device_map: see `lib.study.models.load`; the notebooks load the same.
    json_path, image_root, split, limit: the images, see `lib.study.data.coco.read_karpathy`;
    without a
        `json_path`, a hub model captions COCO and any other model the generated scenes.
    prompt: the question, put into the model's chat template. The published scores of a model belong
        to one kind of prompt, so `paper` has its own; every manifest records the whole text.
    keep: share of visual tokens kept in Table 1.
    random_weights: the captions mean nothing: everything runs, but nothing is scored, and every
        figure, table and page says so first (see `mark`).
    ablation_limit, ablation_keep, sweep: images and keep rate of the ablations, and the keep rates
        of the sweep.
    efficiency: options of the timing, see `_efficiency`.
    notebooks: numbers of the notebooks to run, such as "06 08"; all by default.
    metrics: those of Table 1; the ablations take the ones that need no METEOR and no SPICE.
    """

    profile: str
    description: str = ""
    model: str = "embedded"
    revision: str | None = None
    dtype: str | None = None
    device_map: str | None = None
    split: str = "test"
    limit: int | None = 200
    json_path: str | None = None
    image_root: str | None = None
    prompt: str = "Describe the image briefly."
    batch_size: int = 16
    max_new_tokens: int = 64
    keep: float = 0.5
    random_state: int = 0
    random_weights: bool = False
    ablation_limit: int = 48
    ablation_keep: float = 0.25
    sweep: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    metrics: tuple[str, ...] = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE")
    ablation_metrics: tuple[str, ...] = ("BLEU-4", "CIDEr")
    n_bootstrap: int = 1000
    efficiency: dict[str, Any] = field(default_factory=dict)
    notebooks: str = ""

    def __post_init__(self) -> None:
        for name in ("keep", "ablation_keep"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if any(not 0 < keep <= 1 for keep in self.sweep):
            raise ValueError(f"sweep must hold keep rates in (0, 1], got {list(self.sweep)}")
        for name in ("batch_size", "max_new_tokens", "ablation_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.model.startswith("shape:") and not self.random_weights:
            raise ValueError(f"{self.model!r} has random weights: say 'random_weights: true'")


def profile_names() -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in (paths.ROOT / "notebooks" / "profiles").glob("[a-z]*.yaml"))


def load_profile(name: str) -> Profile:
    """Read `notebooks/profiles/<name>.yaml`.

    Raises `ValueError` for an unknown profile, an unknown or misspelt entry, or a value out of
    range; the message names the file.
    """
    path = paths.ROOT / "notebooks" / "profiles" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no profile {name!r}; there are {', '.join(profile_names())}")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a mapping of parameters")
    known = {f.name for f in dataclasses.fields(Profile)}
    if unknown := set(document) - known:
        raise ValueError(
            f"{path} has unknown entries {', '.join(sorted(map(repr, unknown)))}; known are "
            + ", ".join(sorted(known))
        )
    if document.get("profile") != name:
        raise ValueError(f"{path} must say 'profile: {name}', got {document.get('profile')!r}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
    try:
        return Profile(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def examples(profile: Profile, *, limit: int | None = None, progress: bool = True) -> list:
    """The images of a profile, drawn on first use (scenes) or read from a download (COCO).

    limit: fewer images than the profile's; a smaller subset lies within the larger ones.
    """
    from .data import coco

    listing, root = _listing(profile, progress=progress)
    return coco.read_karpathy(
        listing, profile.split, image_root=root, limit=limit or profile.limit,
        random_state=profile.random_state,
    )  # fmt: skip


def _on_coco(profile: Profile) -> bool:
    return "/" in profile.model and not Path(profile.model).is_dir()


def _listing(profile: Profile, *, progress: bool = True) -> tuple[Path, Path | None]:
    """The Karpathy JSON and, where it is elsewhere, the folder of the images."""
    from .data import coco, scenes

    root = Path(profile.image_root).expanduser() if profile.image_root else None
    if profile.json_path:
        return Path(profile.json_path).expanduser(), root
    if _on_coco(profile):
        return coco.karpathy_json(), root or coco.coco_dir()
    return scenes.ensure_scenes(profile.split, progress=progress), None


def mark(profile: str) -> str:
    """What everything shown of a profile says first; empty unless its weights are random.

    The machine is the one that computed the profile.
    """
    try:
        if not load_profile(profile).random_weights:
            return ""
    except ValueError:  # not one of `notebooks/profiles`
        return ""
    path = paths.results_dir(profile) / "study.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    device = made.get("environment", {}).get("device")
    return f"random weights, {'a CPU' if device == 'cpu' else device}" if device else RANDOM


def fetch(profile: Profile, *, progress: bool = True) -> list:
    """Get the images of a profile: draw the scenes, or download COCO's split and images."""
    from .data import coco

    if not _on_coco(profile):
        return examples(profile, progress=progress)
    return coco.download(
        profile.split, image_root=profile.image_root, json_path=profile.json_path,
        limit=profile.limit, random_state=profile.random_state, progress=progress,
    )  # fmt: skip


# ---------------------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Method:
    """A registered pruning method with its options; `name` None is the unpruned model.

    label: for tables and legends. groups: `{ablation: label within it}`.
    """

    label: str
    name: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def create(self) -> Any:
        """The pruner, None for the unpruned model."""
        from .. import pruning

        return None if self.name is None else pruning.create(self.name, **self.options)


LABELS = {
    "random": "RandomPrune",
    "tome": "ToMe",
    "fastv": "FastV",
    "entropy": "Entropy-Prune",
    "selection": "Entropy + coverage (ours)",
}
#: methods of the keep-rate sweep
SWEPT = tuple(LABELS)


def percent(keep: float) -> str:
    """A keep rate as slugs name it.

    >>> percent(0.5), percent(0.125)
    ('50', '12.5')
    """
    return f"{100 * keep:g}"


def methods(profile: Profile) -> dict[str, Method]:
    """`{slug: method}` of Table 1 and its variants, those that are registered."""
    from .. import pruning

    keep, tail = profile.keep, percent(profile.keep)
    table = {"unpruned": Method("Unpruned", None)}
    for name, label in LABELS.items():
        table[f"{name}-{tail}"] = Method(label, name, {"keep": keep})
    # the paper's t_pc: nothing fills up small clusters here, so more from each would leave fewer
    table[f"entropy-adaptive-{tail}"] = Method(
        "Entropy-Prune, adaptive count", "entropy",
        {"keep": keep, "count": "adaptive", "tokens_per_cluster": 2},
    )  # fmt: skip
    # two layers already mix the visual tokens: chance at that layer is the control for the others
    table[f"random-layer2-{tail}"] = Method(
        "RandomPrune at FastV's layer", "random", {"keep": keep, "layer": 2}
    )
    table[f"entropy-layer2-{tail}"] = Method(
        "Entropy-Prune at FastV's layer", "entropy", {"keep": keep, "layer": 2}
    )
    table[f"selection-layer2-{tail}"] = Method(
        "Entropy + coverage at FastV's layer", "selection", {"keep": keep, "layer": 2}
    )
    return {k: m for k, m in table.items() if m.name is None or m.name in pruning.available()}


def ablations(profile: Profile, config: Any) -> dict[str, Method]:
    """`{slug: method}` of all ablations of a model with this configuration.

    Each entry differs from Entropy-Prune at `ablation_keep` in one respect, or belongs to the sweep
    of keep rates. One entry can serve several groups.
    """
    from .. import pruning
    from ..selection import STRATEGIES, proportions

    keep, tail = profile.ablation_keep, percent(profile.ablation_keep)
    table: dict[str, Method] = {"unpruned": Method("Unpruned", None, {}, {"sweep": "1"})}

    def add(slug: str, label: str, name: str, group: str, value: str, **options: Any) -> None:
        if name in pruning.available():
            groups = {**(table[slug].groups if slug in table else {}), group: value}
            table[slug] = Method(label, name, options, groups)

    for share in sorted({*profile.sweep, keep}):
        for name in SWEPT:
            slug = f"{name}-{percent(share)}"
            add(slug, LABELS[name], name, "sweep", f"{share:g}", keep=share)

    def vary(group: str, slug: str | None, value: str, **options: Any) -> None:
        """One entry of an ablation of Entropy-Prune; `slug` None is the default setting."""
        full = f"entropy-{slug}-{tail}" if slug else f"entropy-{tail}"
        add(full, LABELS["entropy"], "entropy", group, value, keep=keep, **options)

    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    budget = max(1, int(keep * patches + 0.5))
    standard = proportions(patches, budget)
    _, usual_cores, usual = standard
    numbers = {(min(patches, int(f * usual_cores)), usual_cores, usual) for f in (1.5, 2, 3)}
    numbers |= {proportions(patches, budget, tokens_per_cluster=t) for t in (1, 2, 4)}
    for clusters, cores, per_cluster in sorted(numbers, key=lambda n: (n[2], n[0])):
        if clusters >= cores:
            named = {"n_clusters": clusters, "core_clusters": cores,
                     "tokens_per_cluster": per_cluster}  # fmt: skip
            is_usual = (clusters, cores, per_cluster) == standard
            vary(
                "clusters", None if is_usual else f"m{clusters}-k{cores}-t{per_cluster}",
                f"M={clusters}, k_c={cores}, t_pc={per_cluster}", **({} if is_usual else named),
            )  # fmt: skip

    last = _feature(config)
    for first in sorted({last, last - 1, last - 3, last // 2, 0}, reverse=True):
        if first >= 0:
            usual = first == max(0, last - 3)
            vary("layers", None if usual else f"layers{first}-{last}", f"vision {first}–{last}",
                 **({} if usual else {"layers": (first, last)}))  # fmt: skip
    deep = min(2, config.get_text_config().num_hidden_layers - 1)
    vary("layers", "language", f"language 0–{deep}", source="language", layer=deep)

    vary("rollout", None, "scaled (I + H/L)")
    vary("rollout", "literal", "literal (I + H)", rollout="literal")
    vary("rollout", "scores", "scores (1 + S)", rollout="scores")
    vary("weighting", None, "unit")
    vary("weighting", "mass", "mass", weighting="mass")
    vary("weighting", "tokensum", "token-sum", weighting="token-sum")
    vary("level", None, "cluster, exact count")
    vary("level", "adaptive", "cluster, adaptive count", count="adaptive")
    vary("level", "token", "token", level="token")

    # FastV prunes at layer 2, after two layers have read every token: the others there, too
    for name in ("random", "entropy", "selection"):
        add(f"{name}-{tail}", LABELS[name], name, "place", f"{LABELS[name]}, layer 0", keep=keep)
        add(f"{name}-layer{deep}-{tail}", f"{LABELS[name]}, layer {deep}", name, "place",
            f"{LABELS[name]}, layer {deep}", keep=keep, layer=deep)  # fmt: skip
    if deep == 2:
        add(f"fastv-{tail}", LABELS["fastv"], "fastv", "place", "FastV, layer 2", keep=keep)

    for strategy in STRATEGIES:
        usual = strategy == "adaptive"
        slug = f"selection-{tail}" if usual else f"selection-{strategy}-{tail}"
        add(slug, LABELS["selection"] if usual else strategy, "selection", "strategy", strategy,
            keep=keep, **({} if usual else {"strategy": strategy}))  # fmt: skip
    return table


def _feature(config: Any) -> int:
    """The hidden state of the vision tower that the projector reads (0: the embeddings)."""
    feature = config.vision_feature_layer
    last = feature if isinstance(feature, int) else feature[-1]
    return last if last >= 0 else config.vision_config.num_hidden_layers + 1 + last


# ---------------------------------------------------------------------------- code


@functools.cache
def code_digest() -> str:
    """A fingerprint of the code that decides the captions; see `_statements` for what counts."""
    folder = paths.PACKAGE
    library = [
        file for file in folder.rglob("*.py") if file.relative_to(folder).parts[0] != "study"
    ]
    study = [
        file
        for name in DECIDES
        for file in [*folder.glob(f"study/{name}.py"), *folder.glob(f"study/{name}/**/*.py")]
    ]
    files = sorted([*library, *study])
    sources = {
        str(file.relative_to(folder)): _statements(file.read_text(encoding="utf-8"))
        for file in files
    }
    return digest(sources)[:16]


def _statements(source: str) -> list[str]:
    """The lines of a module without comments, docstrings and empty lines.

    Taken from the text: what `ast` unparses to differs between versions of Python, and a newer one
    would take every record for stale.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            first, last = node.body[0].lineno, node.body[0].end_lineno
            lines[first - 1 : last] = [""] * (last - first + 1)
    return [line.rstrip() for line in lines if line.strip()]


# ---------------------------------------------------------------------------- the run


def shipped_dir(profile: str) -> Path:
    """Where the results that came with the checkout wait while this machine makes its own."""
    return paths.raw_dir() / "shipped" / profile


#: records of a profile that other commands measure: `lib.study.cost.bench`,
#: `lib.study.cost.benchmark`, `lib.study.cost.scaling`
MEASURED = ("bench.json", "benchmark.json", "scaling.json")


def set_aside(profile: str) -> None:
    """Move a profile's results out of the way, once: what follows is computed on this machine.

    What the study does not compute (`MEASURED`) stays.
    """
    shipped, results = shipped_dir(profile), paths.results_dir(profile)
    if shipped.exists():
        return
    shipped.parent.mkdir(parents=True, exist_ok=True)
    if not results.exists():
        shipped.mkdir()
        return
    results.rename(shipped)
    results.mkdir()
    for name in MEASURED:
        if (shipped / name).is_file():
            shutil.copy2(shipped / name, results / name)


def run(
    profile: Profile,
    *,
    fresh: bool = False,
    device: str | None = None,
    progress: bool = True,
    workers: int = 1,
    stages: Sequence[str] = STAGES,
) -> dict[str, Any]:
    """Compute what is missing of a profile; returns `study.json` as a dict.

    fresh: set results that came with the checkout aside first (see `set_aside`).
    workers: processes that caption; they change no caption.
    stages: some of `STAGES`; "scores" continues from records made elsewhere, without the model.
    """
    if unknown := set(stages) - set(STAGES):
        raise ValueError(f"unknown stage {min(unknown)!r}: choose from {', '.join(STAGES)}")
    if fresh:
        set_aside(profile.profile)
    folder = paths.results_dir(profile.profile)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    earlier = before.get("environment", {})
    clock: dict[str, float] = dict(before.get("seconds", {}))
    loaded = _Lazy(profile, device)

    work = {
        "captions": lambda: _caption(profile, loaded, folder, progress, workers),
        "scores": lambda: _score(profile, folder, progress),
        "efficiency": lambda: _efficiency(profile, loaded, folder, progress),
    }
    for stage in STAGES:
        begin = time.monotonic()
        if stage in stages and work[stage]():
            clock[stage] = time.monotonic() - begin
    # without the model, this machine only scored what another one computed
    made_here = loaded.device is not None or not earlier
    document = {
        "profile": dataclasses.asdict(profile),
        "environment": environment(device=loaded.device) if made_here else earlier,
        "code": code_digest() if made_here else before.get("code"),
        "seconds": {name: round(seconds, 1) for name, seconds in clock.items()},
    }
    if agreement := _agreement(profile.profile, folder):
        document["agreement"] = agreement
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document


class _Lazy:
    """The model, loaded when first asked for: a finished study needs none."""

    def __init__(self, profile: Profile, device: str | None) -> None:
        self.profile, self.where, self.device = profile, device, None

    @functools.cached_property
    def loaded(self) -> Any:
        from . import models

        made = models.load(
            self.profile.model, device=self.where, dtype=self.profile.dtype,
            revision=self.profile.revision, device_map=self.profile.device_map,
        )  # fmt: skip
        import torch

        kind = made.model.device.type
        self.device = torch.cuda.get_device_name() if kind == "cuda" else kind
        return made


def table(
    profile: Profile, *, device: str | None = None, progress: bool = True, workers: int = 1
) -> str:
    """Caption with the five methods of Table 1 alone and score them: Markdown with intervals.

    The records go where `run` looks for them, so that a whole run continues from them.
    """
    from .evaluation import metrics

    if profile.random_weights:
        raise ValueError(f"profile {profile.profile!r} has no scores to print: {UNSCORED}")
    folder, slugs = paths.results_dir(profile.profile), _table_1(profile)
    _caption(profile, _Lazy(profile, device), folder, progress, workers, only=slugs)
    records = {slug: read_records(folder / "captions" / slug) for slug in slugs}
    images = examples(profile, progress=progress)
    scored = metrics.score_many(
        records, images, metrics=profile.metrics, n_bootstrap=profile.n_bootstrap,
        random_state=profile.random_state,
    )  # fmt: skip
    rows = methods(profile)
    return metrics.format_table(
        {rows[k].label: _with_objects(s, records[k], images, profile) for k, s in scored.items()},
        markdown=True,
    )


def _table_1(profile: Profile) -> list[str]:
    """The slugs of Table 1's five rows."""
    slugs = [name if name == "unpruned" else f"{name}-{percent(profile.keep)}" for name in TABLE_1]
    return [slug for slug in slugs if slug in methods(profile)]


def _caption(
    profile: Profile, loaded: _Lazy, folder: Path, progress: bool, workers: int = 1,
    only: Sequence[str] | None = None,
) -> bool:  # fmt: skip
    """Caption what is missing, with `workers` processes if there is enough; False: nothing was.

    only: slugs of Table 1 to caption; by default all methods and ablations.
    """
    jobs = _jobs(profile, loaded, folder, progress)
    for job in jobs:
        _drop_stale(job.folder, job.pruners, job.settings)
    jobs = _restrict(jobs, only)
    missing = 0
    for job in jobs:
        for slug in job.pruners:
            with contextlib.suppress(FileNotFoundError):
                missing -= len(read_records(job.folder / slug))
            missing += len(job.images)
    if workers > 1 and missing > WORTH_SHARING:
        _share(jobs, profile, loaded, workers, progress, only)
    for job in jobs:
        job.run(loaded, profile, progress)
    return missing > 0


@dataclass(frozen=True)
class _Job:
    """Methods to caption one set of images with."""

    folder: Path
    images: Sequence[Any]
    pruners: Mapping[str, Any]
    settings: Mapping[str, Any]  # of the manifest
    extra: Mapping[str, Any]
    prompt: str

    def run(self, loaded: _Lazy, profile: Profile, progress: bool, **place: int) -> None:
        from . import captioning

        captioning.caption_methods(
            loaded.loaded.model, loaded.loaded.processor, self.images, self.pruners, self.folder,
            prompt=self.prompt, parameters=self.extra, batch_size=profile.batch_size,
            max_new_tokens=profile.max_new_tokens, progress=progress, **place,
        )  # fmt: skip


def _jobs(profile: Profile, loaded: _Lazy, folder: Path, progress: bool) -> list[_Job]:
    from . import captioning

    model, processor, name = loaded.loaded
    prompt = captioning._full_prompt(processor, profile.prompt)
    source = {
        "model": Path(name).name if Path(name).is_dir() else name,
        "revision": profile.revision, "split": profile.split,
        "random_state": profile.random_state,
    }  # fmt: skip
    extra = {"source": source, "code": code_digest()}
    main = methods(profile)
    # what Table 1 already captions is not captioned again for the ablations
    rest = {k: m for k, m in ablations(profile, model.config).items() if k not in main}
    few = examples(profile, limit=_few(profile), progress=progress)
    parts = [("captions", main, examples(profile, progress=progress)), ("ablations", rest, few)]
    return [
        _Job(
            folder / part,
            images,
            {slug: method.create() for slug, method in table.items()},
            captioning._parameters(model, prompt, profile.max_new_tokens, images, extra),
            extra,
            prompt,
        )
        for part, table, images in parts
    ]


#: image-captions below which one process is as fast as several
WORTH_SHARING = 200


def _restrict(jobs: list[_Job], only: Sequence[str] | None) -> list[_Job]:
    """The first job with the named methods alone, or all jobs as they are."""
    if not only:
        return jobs
    return [dataclasses.replace(jobs[0], pruners={slug: jobs[0].pruners[slug] for slug in only})]


def _share(
    jobs: Sequence[_Job], profile: Profile, loaded: _Lazy, workers: int, progress: bool,
    only: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """This process and others caption a share each; batches are the same as those of one process.

    The others are started as accelerate would. On GPUs each takes the next one after this one's.
    """
    import torch

    device = loaded.loaded.model.device
    threads, gpus = max(1, (os.cpu_count() or 1) // workers), torch.cuda.device_count()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "WORLD_SIZE": str(workers),
                   "ENTROPY_PRUNE_ROOT": str(paths.ROOT)}  # fmt: skip
    command = [sys.executable, "-m", "lib.study.run", "--profile", profile.profile]
    command += [] if device.type == "cuda" else ["--device", str(device)]
    command += ["--table"] * bool(only) + ["--quiet"] * (not progress)
    running = []
    for rank in range(1, workers):
        gpu = ((device.index or 0) + rank) % max(gpus, 1)
        place = {"RANK": str(rank), "LOCAL_RANK": str(gpu)}
        running.append(
            subprocess.Popen(command, env=environment | place, cwd=Path(__file__).parents[2])
        )
    try:
        with _threads(device, threads):
            for job in jobs:
                job.run(loaded, profile, progress, rank=0, world_size=workers)
        failed = [process.wait() for process in running]
    finally:
        for process in running:
            process.kill()
    if any(failed):
        raise RuntimeError(
            "a captioning process stopped (its message is above). All records are kept: run the "
            "same command again to continue."
        )


def _caption_share(
    profile: Profile, device: str | None, progress: bool, only: Sequence[str] | None = None
) -> None:
    """What one of several launched processes does: its share of the captions, nothing else."""
    from .captioning import own_gpu

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    loaded = _Lazy(profile, device or own_gpu())
    progress = progress and rank == 0
    jobs = _jobs(profile, loaded, paths.results_dir(profile.profile), progress)
    for job in _restrict(jobs, only):
        job.run(loaded, profile, progress, rank=rank, world_size=world_size)


def _few(profile: Profile) -> int:
    """Number of images of the ablations: never more than Table 1 has."""
    return min(profile.ablation_limit, profile.limit or profile.ablation_limit)


def _drop_stale(folder: Path, pruners: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Delete the records of other settings, weights or code, and of methods no longer studied."""
    plain = json.loads(json.dumps(settings, default=str))
    for stored in sorted(folder.glob("*/manifest.json")):
        slug = stored.parent.name
        if slug in pruners:
            pruner = pruners[slug]
            method = pruner.options() if pruner is not None else {"method": "unpruned"}
            try:
                parameters = json.loads(stored.read_text())["parameters"]
            except (ValueError, KeyError, TypeError):
                parameters = None
            if parameters == {"method": json.loads(json.dumps(method)), **plain}:
                continue
        tqdm.write(f"{stored.parent}: made with other settings or code, computed again")
        shutil.rmtree(stored.parent)


# ---------------------------------------------------------------------------- scores


def _score(profile: Profile, folder: Path, progress: bool) -> bool:
    """Score all records; False: neither records nor settings changed, nothing was done."""
    main = methods(profile)
    config = _config(profile)
    others = ablations(profile, config)
    records = {slug: read_records(folder / "captions" / slug) for slug in main}
    images = examples(profile, progress=progress)
    few = examples(profile, limit=_few(profile), progress=progress)
    wanted = {example.image_id for example in few}
    small = {
        slug: [r for r in records[slug] if r["image_id"] in wanted]
        if slug in main
        else read_records(folder / "ablations" / slug)
        for slug in others
    }
    key = digest({
        "records": {slug: canonical(rows) for slug, rows in records.items()},
        "ablations": {slug: canonical(rows) for slug, rows in small.items()},
        "metrics": [profile.metrics, profile.ablation_metrics, profile.n_bootstrap],
        "references": {str(e.image_id): list(e.references) for e in images},
        "spice": None if profile.random_weights else _has_spice(),
        "groups": {slug: dict(m.groups) for slug, m in others.items()},
    })  # fmt: skip
    path = folder / "scores.json"
    if path.is_file() and json.loads(path.read_text()).get("key") == key:
        return False
    if profile.random_weights:
        scored, minor = _unscored(profile.metrics, main), _unscored(profile.ablation_metrics, small)
        versus: dict[str, Any] = {}
    else:
        scored, minor, versus = _scored(profile, records, small, images, few, progress)
        for slug, one in scored.items():
            one.save(folder / "scores" / f"{slug}.json")
    document = {
        "key": key,
        "images": len(images),
        "ablation_images": len(few),
        "ablation_keep": profile.ablation_keep,
        "keep": profile.keep,
        "methods": {k: _summary(main[k], scored[k], records[k]) for k in main},
        "differences": [] if profile.random_weights else _differences(profile, scored),
        "ablations": {
            k: _summary(others[k], minor[k], small[k]) | {"versus": versus.get(k)} for k in others
        },
    }
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return True


@dataclass(frozen=True)
class _NotScored:
    """In place of `lib.study.evaluation.metrics.Scores`: every metric is a dash with its reason."""

    values: Mapping[str, None]
    reasons: Mapping[str, str]
    intervals: Mapping[str, None] = field(default_factory=dict)


def _unscored(metrics: Sequence[str], slugs: Mapping[str, Any]) -> dict[str, _NotScored]:
    one = _NotScored(dict.fromkeys(metrics), dict.fromkeys(metrics, UNSCORED))
    return dict.fromkeys(slugs, one)


def _has_spice() -> bool:
    from .evaluation.java import spice_missing

    return spice_missing() is None


def _scored(
    profile: Profile, records: Mapping, small: Mapping, images: Sequence, few: Sequence,
    progress: bool,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Scores of Table 1, of the ablations, and of these against Entropy-Prune's default."""
    from .evaluation import metrics

    with tqdm(total=2, desc="scores", unit="set", disable=not progress) as bar:
        scored = metrics.score_many(
            records, images, metrics=profile.metrics, n_bootstrap=profile.n_bootstrap,
            random_state=profile.random_state,
        )  # fmt: skip
        bar.update()
        minor = metrics.score_many(
            small, few, metrics=profile.ablation_metrics, n_bootstrap=profile.n_bootstrap,
            random_state=profile.random_state,
        )  # fmt: skip
        bar.update()
    scored = {k: _with_objects(s, records[k], images, profile) for k, s in scored.items()}
    minor = {k: _with_objects(s, small[k], few, profile) for k, s in minor.items()}
    default = minor.get(f"entropy-{percent(profile.ablation_keep)}")
    versus = {
        k: {m: list(gap) for m, gap in metrics.compare(s, default, n_bootstrap=2000).items()}
        for k, s in minor.items()
        if default is not None
    }
    return scored, minor, versus


def _config(profile: Profile) -> Any:
    """The model's configuration, without its weights."""
    from . import models

    return models.read_config(profile.model, revision=profile.revision)


def _with_objects(scores: Any, records: Sequence[Mapping], images: Sequence, profile: Profile):
    """The scores with the mean F1 of the named objects, where the images say what they show."""
    from .data.scene_captions import object_f1

    objects = {e.image_id: e.extra.get("objects") for e in images}
    if any(item is None for item in objects.values()):
        return scores
    captions = {r["image_id"]: r["caption"] for r in records}
    values = np.array([object_f1(captions[i], objects[i]).f1 for i in scores.image_ids.tolist()])
    interval = _interval(values, profile.n_bootstrap, profile.random_state)
    return dataclasses.replace(
        scores,
        per_image={**scores.per_image, OBJECT_F1: values},
        values={**scores.values, OBJECT_F1: float(values.mean())},
        intervals={**scores.intervals, OBJECT_F1: interval},
    )


def _interval(values: np.ndarray, samples: int, seed: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap of a mean over images."""
    if not samples:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


def _summary(method: Method, scores: Any, records: Sequence[Mapping]) -> dict[str, Any]:
    shares = np.array([r["kept"] / r["visual_tokens"] for r in records])
    return {
        "label": method.label,
        "method": method.name or "unpruned",
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in method.options.items()},
        "groups": dict(method.groups),
        "kept": {
            "mean": float(shares.mean()), "low": float(shares.min()), "high": float(shares.max()),
            "tokens": float(np.mean([r["kept"] for r in records])),
            "of": int(records[0]["visual_tokens"]),
        },
        "values": scores.values,
        "intervals": {k: None if v is None else list(v) for k, v in scores.intervals.items()},
        "reasons": scores.reasons,
    }  # fmt: skip


def _differences(profile: Profile, scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Paired differences: everything against the unpruned model, and Entropy-Prune's rivals."""
    from .evaluation.metrics import compare

    ours = f"entropy-{percent(profile.keep)}"
    pairs = [(slug, "unpruned") for slug in scored if slug != "unpruned"]
    pairs += [(ours, slug) for slug in scored if slug not in ("unpruned", ours)]
    found = []
    for a, b in pairs:
        gaps = compare(scored[a], scored[b], random_state=profile.random_state)
        found.append({"a": a, "b": b, "metrics": {k: list(gap) for k, gap in gaps.items()}})
    return found


def load_scores(profile: str) -> dict[str, Any]:
    """`scores.json` of a profile.

    Raises `FileNotFoundError` with the command that computes it.
    """
    return _load(profile, "scores.json")


def load_study(profile: str) -> dict[str, Any]:
    """`study.json` of a profile: its parameters, environment and timings."""
    return _load(profile, "study.json")


def load_efficiency(profile: str) -> dict[str, Any]:
    """`efficiency.json` of a profile."""
    return _load(profile, "efficiency.json")


def _load(profile: str, name: str) -> dict[str, Any]:
    path = paths.results_dir(profile) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: compute it with 'make reproduce PROFILE={profile}', or "
            f"'python -m lib.study.run --profile {profile}'"
        )
    return json.loads(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------- cost, agreement


def _efficiency(profile: Profile, loaded: _Lazy, folder: Path, progress: bool) -> bool:
    """Time and count Table 1's methods and the sweep; rows are kept as they are measured.

    False: nothing was missing.

    `efficiency` of the profile: `batches`, `new_tokens`, `repeats`, `sweep` (False leaves the other
    keep rates out) and `fast_path` (time `lib.decoding.StaticDecoder`, too, if the model is on one
    device). The sweep is timed at the first batch size only.
    """
    options = {"batches": [1], "new_tokens": 32, "repeats": 3, "sweep": True, "fast_path": False,
               **profile.efficiency}  # fmt: skip
    table = methods(profile)
    work = [(slug, batch) for batch in options["batches"] for slug in table]
    if options["sweep"]:
        table |= {
            f"{name}-{percent(keep)}": Method(LABELS[name], name, {"keep": keep})
            for keep in sorted({*profile.sweep, profile.ablation_keep} - {profile.keep})
            for name in SWEPT
            if f"{name}-{percent(profile.keep)}" in table
        }
        work += [(s, options["batches"][0]) for s in table if s not in methods(profile)]
    path = folder / "efficiency.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = {"options": options, "keep": profile.keep, "code": code_digest()}
    rows = stored.get("rows", []) if stored.get("settings") == settings else []
    done = {(row["slug"], row["batch"]) for row in rows}
    todo = [item for item in work if item not in done]
    if not todo:
        return False

    from ..decoding import StaticDecoder
    from ..pruning.tome import schedule
    from .cost.benchmark import analytic, prompts
    from .cost.efficiency import Shape, latency, machine, vision_flops

    model, _, name = loaded.loaded
    shape = Shape.of(model.config)
    inputs = {batch: prompts(model, batch) for batch in options["batches"]}
    fast = options["fast_path"] and len({p.device for p in model.parameters()}) == 1
    decoder = StaticDecoder(model) if fast else None
    for slug, batch in tqdm(todo, desc="efficiency", unit="method", disable=not progress):
        pruner = table[slug].create()
        text = inputs[batch]["input_ids"].shape[1] - shape.visual_tokens
        row = {"slug": slug, "label": table[slug].label, "method": table[slug].name or "unpruned",
               "keep": dict(table[slug].options).get("keep", 1.0),
               "table": slug in methods(profile)}  # fmt: skip
        # several threads that wait for each other time whatever else the machine does
        with _threads(model.device, 1):
            row |= latency(
                model, inputs[batch], pruner, new_tokens=options["new_tokens"],
                decoder=decoder, warmup=2 if fast else 1,  # the second call captures
                repeats=options["repeats"],
            )  # fmt: skip
        chosen = pruner.options() if pruner is not None else None
        row["flops"] = analytic(shape, chosen, row["kept"], text)
        if chosen and chosen["method"] == "tome":  # it also spares the vision tower work
            tokens = shape.visual_tokens
            plan = schedule(tokens, max(1, round(chosen["keep"] * tokens)), _feature(model.config))
            row["flops"]["vision"] = vision_flops(shape, merged=plan)
        rows.append(row)
        document = {
            "settings": settings, "model": "embedded" if name == "embedded" else profile.model,
            "dtype": str(model.dtype).removeprefix("torch."), "machine": machine(), "rows": rows,
        }  # fmt: skip
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return True


@contextmanager
def _threads(device: Any, count: int) -> Iterator[None]:
    """So many threads inside the block for work on a CPU."""
    import torch

    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _agreement(profile: str, folder: Path) -> dict[str, int] | None:
    """How many captions and kept counts equal those that came with the checkout."""
    same = total = 0
    for stored in sorted(shipped_dir(profile).glob("*/*/records.jsonl")):
        mine = folder / stored.relative_to(shipped_dir(profile))
        if not mine.is_file():
            continue
        old = {r["image_id"]: (r["caption"], r["kept"]) for r in read_records(stored)}
        new = {r["image_id"]: (r["caption"], r["kept"]) for r in read_records(mine)}
        shared = old.keys() & new.keys()
        total += len(shared)
        same += sum(old[i] == new[i] for i in shared)
    return {"same": same, "of": total} if total else None


def _default_workers(profile: Profile, device: str | None) -> int:
    """Two on a CPU; on GPUs one each, unless one is named or the model is spread over them."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device is None and not gpus):
        return min(2, os.cpu_count() or 1)
    alone = profile.device_map is not None or device not in (None, "cuda")
    return 1 if alone else max(1, gpus)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `python -m lib.study.run --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.study.run", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--profile", default="embedded")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="compute everything on this machine: results of the checkout are set aside, once",
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default the GPU if there is one")
    parser.add_argument(
        "--data-only", action="store_true", help="only get the images: draw or download them"
    )
    parser.add_argument(
        "--workers", type=int, help="processes that caption; default: two on a CPU, one a GPU"
    )
    parser.add_argument(
        "--table", action="store_true", help="only Table 1's five methods; print their scores"
    )
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES,
        help="only these; 'scores' needs records, but no model",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(argv)
    try:
        profile = load_profile(options.profile)
        if options.data_only:
            images = fetch(profile, progress=not options.quiet)
            print(f"{options.profile}: {len(images)} images below {images[0].path.parent.parent}")
            return 0
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            only = _table_1(profile) if options.table else None
            _caption_share(profile, options.device, not options.quiet, only)
            return 0
        workers = options.workers or _default_workers(profile, options.device)
        if options.table:
            if options.fresh:
                set_aside(profile.profile)
            print(table(
                profile, device=options.device, progress=not options.quiet, workers=workers
            ))  # fmt: skip
            return 0
        document = run(
            profile, fresh=options.fresh, device=options.device, progress=not options.quiet,
            workers=workers, stages=options.stages,
        )  # fmt: skip
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in document["seconds"].items())
    print(f"{options.profile}: {parts}")
    if agreement := document.get("agreement"):
        print(f"{agreement['same']} of {agreement['of']} captions equal those of the repository")
    return 0


if __name__ == "__main__":
    sys.exit(main())
