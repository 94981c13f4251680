"""Profiles: the parameters of a study, read from `notebooks/profiles/<name>.yaml` in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from . import paths
from .hub import is_hub_name

__all__ = ["Efficiency", "Profile", "load_profile", "profile_names"]

#: types are checked, not converted, and an unknown entry is refused; whole numbers pass as floats
CHECKED = ConfigDict(extra="forbid", strict=True)

#: the profile with which the notebooks are committed
OWN = "embedded"


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Efficiency:
    """How the cost of the methods is measured.

    batches: batch sizes; the keep rates of the sweep are timed at the first one only. new_tokens:
    length of a timed caption. repeats: rounds in which every method has its turn; ratios to the
    unpruned model have an interval from six rounds on. sweep: False leaves the other keep rates
    out. fast_path: time `lib.decoding.StaticDecoder`, too, if the model
    is on one device.
    """

    batches: tuple[int, ...] = (1,)
    new_tokens: int = Field(32, ge=1)
    repeats: int = Field(9, ge=1)
    sweep: bool = True
    fast_path: bool = False

    @field_validator("batches", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Profile:
    """The parameters of a profile, as `notebooks/profiles/<name>.yaml` gives them.

    profile, description: its name, and one line for people.
    model, revision, dtype, device_map: see `lib.study.models.load`; the notebooks load the same.
    dataset, json_path, image_root, split, limit: the images, see `lib.study.data`; without a
        `dataset` and a `json_path`, a hub model captions COCO and any other one generated scenes.
    image: what the figures show: a number in the test split, a path, or a photograph that comes
        with scikit-learn, see `lib.study.reports.subject.SAMPLES`.
    cpu: what is different where there is no GPU, such as a lower limit; see `on_cpu`.
    prompt: the question, put into the model's chat template. The published scores of a model belong
        to one kind of prompt, so `paper` has its own; every manifest records the whole text.
    keep: share of visual tokens kept in Table 1.
    random_weights: the captions mean nothing: everything runs, but nothing is scored, and every
        figure, table and page says so first (see `lib.study.stored.mark`).
    ablation_limit, ablation_keep, sweep: images and keep rate of the ablations, and the keep rates
        of the sweep.
    places, budgets: language layers before which criteria are compared, and the keep rates there;
        on as many images as the ablations. Layers that a model does not have are left out.
    population_limit: images on which what the figures show of one is measured.
    catalogue_limit, catalogue_captions: images on which every registered method is compared, and
        how many of them it captions; 0 is none.
    margin: what "equal" means, stated beforehand: less than this share of the unpruned score.
    efficiency: how the cost is measured.
    notebooks: numbers of the notebooks to run, such as "06 08"; all by default.
    metrics: those of Table 1; the ablations take the ones that need no METEOR and no SPICE.
    """

    profile: str
    description: str = ""
    model: str = "embedded"
    revision: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    device_map: str | None = None
    dataset: Literal["coco", "flickr8k", "scenes"] | None = None
    split: str = "test"
    limit: int | None = Field(200, ge=1)
    json_path: str | None = None
    image_root: str | None = None
    image: int | str = 15
    prompt: str = "Describe the image briefly."
    batch_size: int = Field(16, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    keep: float = Field(0.5, gt=0, le=1)
    random_state: int = 0
    random_weights: bool = False
    ablation_limit: int = Field(48, ge=1)
    ablation_keep: float = Field(0.25, gt=0, le=1)
    sweep: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    places: tuple[int, ...] = (0, 1, 2, 4, 8, 15)
    budgets: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)
    population_limit: int = Field(200, ge=1)
    catalogue_limit: int = Field(0, ge=0)
    catalogue_captions: int = Field(0, ge=0)
    margin: float = Field(0.05, gt=0)
    metrics: tuple[str, ...] = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE")
    ablation_metrics: tuple[str, ...] = ("BLEU-4", "CIDEr")
    n_bootstrap: int = Field(1000, ge=0)
    efficiency: Efficiency = Field(default_factory=Efficiency)
    notebooks: str = ""
    cpu: dict[str, Any] = Field(default_factory=dict)

    @field_validator("sweep", "places", "budgets", "metrics", "ablation_metrics", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("places")
    @classmethod
    def _layers(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(layer < 0 for layer in value):
            raise ValueError(f"must hold language layers, 0 or more, got {list(value)}")
        return value

    @field_validator("sweep", "budgets")
    @classmethod
    def _rates(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < keep <= 1 for keep in value):
            raise ValueError(f"must hold keep rates in (0, 1], got {list(value)}")
        return value

    @model_validator(mode="after")
    def _says_random(self) -> Profile:
        if self.model.startswith("shape:") and not self.random_weights:
            raise ValueError(f"{self.model!r} has random weights: say 'random_weights: true'")
        return self

    @property
    def images_of(self) -> Literal["coco", "flickr8k", "scenes"]:
        """The data set the images are from, unless `json_path` names a file of one's own."""
        return self.dataset or ("coco" if is_hub_name(self.model) else "scenes")

    @property
    def on_coco(self) -> bool:
        """Whether the images are COCO's."""
        return self.images_of == "coco"

    def on_cpu(self) -> Profile:
        """The same profile as it is where there is no GPU; raises `ValueError` as `profile_of`."""
        if not self.cpu:
            return self
        source = f"profile {self.profile!r}, cpu"
        changed = profile_of({**self.cpu, "profile": self.profile}, source)
        named = {name: getattr(changed, name) for name in self.cpu}
        return dataclasses.replace(self, **named, cpu={})

    @property
    def few(self) -> int:
        """Number of images of the ablations: never more than Table 1 has."""
        return min(self.ablation_limit, self.limit or self.ablation_limit)

    @property
    def captioned(self) -> int:
        """Number of images that the catalogue's methods caption: of those they are compared on."""
        return min(self.catalogue_captions, self.catalogue_limit)

    def as_dict(self) -> dict[str, Any]:
        """Every parameter, as plain values."""
        return dataclasses.asdict(self)

    def parameters(self, known: Iterable[str]) -> dict[str, Any]:
        """The entries that a notebook with these parameters takes; `data` is the `json_path`."""
        values = self.as_dict()
        if self.json_path:  # the figures show an image of the profile's own data
            values["data"] = self.json_path
        if self.random_weights:  # a shape's own benchmark
            values["large_profile"] = self.profile
        names = [name for name in known if name in values]
        return {k: list(v) if isinstance(v := values[k], tuple) else v for k in names}


def with_model(profile: str, model: str) -> str:
    """The name of a profile with another model of the hub in place of its own.

    What it computes has a place of its own, too.

    >>> with_model("paper", "Qwen/Qwen2.5-VL-7B-Instruct")
    'paper@Qwen--Qwen2.5-VL-7B-Instruct'

    Raises `ValueError` for anything but a hub id.
    """
    if not is_hub_name(model):
        raise ValueError(
            f"MODEL must be a hub id such as 'Qwen/Qwen2.5-VL-7B-Instruct', got {model!r}"
        )
    return f"{profile}@{model.replace('/', '--')}"


def profile_path(name: str) -> Path:
    """The file of a profile, there or not; `with_model` names share their profile's."""
    return paths.profiles_dir() / f"{paths.checked(name).partition('@')[0]}.yaml"


def profile_names() -> list[str]:
    """The profiles there are. Files that start with an underscore are for something else."""
    return sorted(path.stem for path in paths.profiles_dir().glob("[a-z]*.yaml"))


def load_profile(name: str) -> Profile:
    """Read `notebooks/profiles/<name>.yaml`; a name of `with_model` has another model in it.

    Raises `ValueError` for an unknown profile, an unknown or misspelt entry, a value of another
    type or out of range; the message names the file and the entry.
    """
    path = profile_path(name)
    if not path.is_file():
        raise ValueError(f"no profile {name!r}; there are {', '.join(profile_names())}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a mapping of parameters")
    base, _, model = name.partition("@")
    if document.get("profile") != base:
        raise ValueError(f"{path} must say 'profile: {base}', got {document.get('profile')!r}")
    return profile_of(_replaced(document, model) if model else document, path)


def _replaced(document: dict[str, Any], model: str) -> dict[str, Any]:
    """The entries of a profile with the model that a `with_model` name names.

    The figures' notebooks look into LLaVA; the tables' take any model.
    """
    model = model.replace("--", "/", 1)
    changes = {"profile": with_model(document["profile"], model), "model": model, "revision": None}
    about = f"{model}; otherwise {document['profile']}"
    return {"notebooks": "06 07 08", **document, **changes, "description": about}


def profile_of(document: dict[str, Any], source: Path | str) -> Profile:
    """The profile that a mapping of parameters means; `source` is named in errors.

    Raises `ValueError` for unknown entries, other types and values out of range.
    """
    known = {f.name for f in dataclasses.fields(Profile)}
    if unknown := set(document) - known:
        raise ValueError(
            f"{source} has unknown entries {', '.join(sorted(map(repr, unknown)))}; known are "
            + ", ".join(sorted(known))
        )
    values, within = dict(document), "efficiency."
    try:
        if isinstance(values.get("efficiency"), dict):
            values["efficiency"] = Efficiency(**values["efficiency"])
        within = ""
        return Profile(**values)
    except ValidationError as error:
        lines = "; ".join(_complaint(one, within) for one in error.errors())
        raise ValueError(f"{source}: {lines}") from error


def _complaint(error: Any, within: str) -> str:
    """What is wrong with one entry."""
    name = within + ".".join(map(str, error["loc"]))
    text = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{name}: {text}{got}" if name else f"{text}{got}"
