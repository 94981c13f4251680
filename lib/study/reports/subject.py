"""One image under one model, and what the figures show of it: computed once, kept as plain arrays.

A file under `data/results/<profile>/figures/` holds only what came out of the model (tokens,
centroids, attention). Entropies, clusters and scores are computed from it by the notebooks, so a
change in `lib` shows in the figures without running the model again. A file made with other
settings, or by other weights, is computed anew.

Everything runs with batch one in the model's own precision; results are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...entropy import unit_tokens
from ...geometry import feature_layer
from .. import models, paths
from ..captioning.images import load_image
from ..data.coco import Example, coco_dir, karpathy_json, read_karpathy
from ..data.scenes import ensure_scenes
from ..inspection import states
from ..inspection.attention import attention_shares, generate
from ..inspection.measures import cluster_on_tokens, unit_centroids
from ..inspection.reading import tower_attention
from ..models.names import ships
from ..profiles import load_profile, profile_names
from .observations import Attention, Centroids, Description, Tokens, Tower
from .quiet import loaded_quietly
from .store import published_weights, stored_arrays

__all__ = ["QUESTION", "SAMPLES", "SYSTEM", "Subject"]

#: The system prompt LLaVA-1.5 was tuned with, and the question of the paper's Figure 1.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
QUESTION = "Describe all the objects in the image"

_FORMAT = 2  # raise it when a stored array changes its meaning
_NAMES = {
    "embedded": "embedded model",
    "photos": "photograph model",
    "photos-dropout": "photograph model, trained with drop-out",
    "shape:llava-1.5-7b": "LLaVA-1.5-7B's shape with random weights",
}
_KINDS = {"scenes": "generated test scene", "coco": "COCO Karpathy test image"}
#: photographs that come with scikit-learn, with whom to thank (CC BY 2.0)
SAMPLES = {
    "china.jpg": "photograph by danielbuechele, CC BY 2.0",
    "flower.jpg": "photograph by vultilion, CC BY 2.0",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One image under one model.

    profile: of which results the arrays are stored, and which precision and devices the model gets.
    model, revision: for `lib.study.models.load`, called only if there is something to compute; or
        a loaded model.
    data: "scenes" (drawn on first use), "coco" or the path of a JSON in Karpathy's layout; by
        default "coco" for models of the hub and "scenes" for the others.
    image: a number in the test split, a path to a file, or one of `SAMPLES` by its name.
    image_root: the folder of the images, where they lie neither beside that JSON nor where COCO is
        downloaded to.
    """

    profile: str
    model: str | models.Loaded = "embedded"
    data: str | None = None
    image: int | str = 0
    image_root: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model if isinstance(self.model, str) else self.model.name

    @property
    def data_name(self) -> str:
        """The data by name: COCO for models of the hub, else the scenes, unless it was named."""
        on_hub = "/" in self.name and not Path(self.name).is_dir()
        return self.data or ("coco" if on_hub else "scenes")

    @property
    def source(self) -> str:
        """Model, data and number of images in words, for captions.

        >>> Subject(profile="embedded", image=7).source
        'embedded model, generated test scene 7, 1 image'
        """
        folder = Path(self.name)
        name = _NAMES.get(self.name, folder.name if folder.is_dir() else self.name)
        if isinstance(self.image, str):
            shown = SAMPLES.get(self.image) or Path(self.image).name
            return f"{name}, {shown}, 1 image"
        kind = _KINDS.get(self.data_name) or f"image of {Path(self.data_name).name}, number"
        return f"{name}, {kind} {self.image}, 1 image"

    @cached_property
    def loaded(self) -> models.Loaded:
        """Model, processor and name; loaded when first asked for."""
        if not isinstance(self.model, str):
            return self.model
        options = {"revision": self.revision}
        if self.profile.partition("@")[0] in profile_names():
            settings = load_profile(self.profile)
            options |= {"dtype": settings.dtype, "device_map": settings.device_map}
        return loaded_quietly(self.model, **options)

    @cached_property
    def example(self) -> Example:
        """The image and its reference captions.

        Raises:
            ValueError: unknown data, or a number outside the split.
            FileNotFoundError: a file is missing; "coco" needs the download `make doctor` names.
        """
        if isinstance(self.image, str):
            path = _file(self.image)
            return Example(image_id=0, path=path, references=())
        root = Path(self.image_root).expanduser() if self.image_root else None
        data = self.data_name
        if data == "scenes":
            listing = ensure_scenes("test", limit=self.image + 1, progress=False)
        elif data == "coco":
            listing, root = karpathy_json(), root or coco_dir()
        elif (listing := Path(data).expanduser()).is_file():
            pass
        else:
            raise ValueError(f"data must be 'scenes', 'coco' or a Karpathy JSON, got {data!r}")
        examples = read_karpathy(listing, "test", image_root=root, check_files=False)
        if not 0 <= self.image < len(examples):
            raise ValueError(
                f"image must be between 0 and {len(examples) - 1} for {data!r}: {self.image}"
            )
        return examples[self.image]

    def prompt(self, question: str | None = None) -> str:
        """The whole prompt: by default what the model was tuned with.

        Models of ours get the question they were trained on. Others get the paper's question for
        Figure 1 after LLaVA-1.5's system prompt.
        """
        ours = ships(self.name) or self.name.startswith("shape:")
        asked = question or (models.PROMPT if ours else QUESTION)
        text = models.format_prompt(self.loaded.processor, asked)
        return text if ours else f"{SYSTEM} {text}"

    def inputs(self, question: str | None = None) -> dict[str, Tensor]:
        """Model inputs of image and prompt, on the model's device, in its type."""
        model, processor, _ = self.loaded
        image = load_image(self.example.path)
        inputs = processor(images=image, text=self.prompt(question), return_tensors="pt")
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        return inputs

    # --- what is shown of it --------------------------------------------------------------------

    def tokens(self) -> Tokens:
        """Visual tokens in the vision layers Entropy-Prune merges.

        Stored in float16; Figures 2, 4 and 5 share the file.
        """

        def compute() -> dict[str, Any]:
            model, inputs = self.loaded.model, self.inputs()
            layers = states.default_layers(model.config)
            found = torch.stack(states.vision_states(model, inputs["pixel_values"], layers))
            return {"tokens": found.cpu().half(), "layers": list(layers), **self._scene(inputs)}

        stored = self._stored("tokens", compute)
        raw = torch.from_numpy(stored["tokens"]).float()
        image, grid, image_id = _scene(stored)
        return Tokens(image, unit_tokens(raw), stored["layers"].tolist(), grid, image_id, raw)

    def tower(self) -> Tower:
        """Attention of the vision tower's blocks, which rollout of attention merges.

        Stored in float16, whose rounding keeps the order of anything above 1e-7.
        """

        def compute() -> dict[str, Any]:
            found = tower_attention(self.loaded.model, self.inputs()["pixel_values"])
            return {"attention": found.half()}

        stored = self._stored("tower", compute)
        attention = torch.from_numpy(stored["attention"]).float()
        rows, columns = self.tokens().grid
        return Tower(attention, attention.shape[-1] - rows * columns)

    def centroids(self, n_clusters: int = 32, *, random_state: int = 0) -> Centroids:
        """Gram matrices of one clustering's unit centroids in every layer of both networks.

        The tokens are clustered, as they are, where the projector reads them; every other layer
        uses that one assignment, so the M x M matrices line up (the way Entropy-Prune merges
        layers).
        """

        def compute() -> dict[str, Any]:
            model, inputs = self.loaded.model, self.inputs()
            layers = range(feature_layer(states.checked(model.config)) + 1)
            vision = states.vision_states(model, inputs["pixel_values"], layers)
            language = states.language_states(model, inputs)
            vision, language = ([s.float() for s in each] for each in (vision, language))
            labels = cluster_on_tokens(vision[-1], n_clusters, random_state=random_state).labels
            units = [unit_centroids(s, labels, n_clusters) for s in vision + language]
            names = [f"vision {i}" for i in range(len(vision))]
            names += [f"language {i}" for i in range(len(language))]
            grams = torch.stack([unit.cpu() for unit in units])
            return {"labels": labels.cpu(), "grams": grams, "stages": names, **self._scene(inputs)}

        stored = self._stored(
            "centroids", compute, n_clusters=n_clusters, random_state=random_state
        )
        labels, grams = (torch.from_numpy(stored[name]) for name in ("labels", "grams"))
        image, grid, image_id = _scene(stored)
        return Centroids(image, labels, grams, stored["stages"].tolist(), grid, image_id)

    def attention(self, question: str | None = None, *, max_new_tokens: int = 64) -> Attention:
        """Attention of the generated tokens to system, image, instruction and earlier output.

        The answer is generated greedily, then read once more in a single pass; see
        `lib.study.inspection.attention`.
        """

        def compute() -> dict[str, Any]:
            model, processor, _ = self.loaded
            inputs = self.inputs(question)
            answer = generate(model, inputs, max_new_tokens)
            shares, counts, maps = attention_shares(model, inputs, answer)
            text = processor.tokenizer.decode(answer, skip_special_tokens=True).strip()
            return {
                "shares": shares,
                "counts": counts,
                "maps": maps,
                "text": text,
                **self._scene(inputs),
            }

        stored = self._stored(
            "attention", compute, question=question, max_new_tokens=max_new_tokens
        )
        shares, maps, text = stored["shares"], stored["maps"], str(stored["text"])
        image, grid, image_id = _scene(stored)
        return Attention(image, shares, stored["counts"].tolist(), maps, text, grid, image_id)

    def describe(
        self, pruner: Any = None, *, question: str | None = None, max_new_tokens: int = 64
    ) -> Description:
        """Describe the image greedily, with all visual tokens or through a `lib.pruning` pruner."""
        model, processor, _ = self.loaded
        inputs = self.inputs(question)
        if pruner is None:
            answer = generate(model, inputs, max_new_tokens)
            rows, columns = states.grid(model.config)
            kept = np.ones(rows * columns, bool)
        else:
            with pruner(model) as active:
                answer = generate(model, inputs, max_new_tokens)
            kept = active.kept_masks[0].cpu().numpy()
        text = processor.tokenizer.decode(answer, skip_special_tokens=True).strip()
        return Description(text, kept)

    def _scene(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What every stored file holds of the image."""
        return {
            "image": states.seen(self.loaded.processor, inputs),
            "grid": states.grid(self.loaded.model.config),
            "image_id": self.example.image_id,
        }

    def _stored(
        self, name: str, compute: Callable[[], Mapping[str, Any]], **settings: Any
    ) -> dict[str, np.ndarray]:
        asked = {
            "model": self.name,
            "weights": published_weights(self.name),
            "data": self.data_name,
            "image": self.image,
            **settings,
            "format": _FORMAT,
        }
        if self.revision:
            asked["revision"] = self.revision
        path = paths.results_dir(self.profile) / "figures" / f"{name}.npz"
        return stored_arrays(path, asked, compute)


def _file(image: str) -> Path:
    """The file of an image that is named; raises `FileNotFoundError`."""
    path = Path(image).expanduser()
    if not path.is_file() and image in SAMPLES:
        path = Path(str(resources.files("sklearn.datasets") / "images" / image))
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    return path


def _scene(stored: Mapping[str, np.ndarray]) -> tuple[np.ndarray, tuple[int, int], int]:
    """Image, grid and id of a stored file."""
    return stored["image"], tuple(stored["grid"].tolist()), int(stored["image_id"])
