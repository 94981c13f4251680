"""What the figures show of a model: computed once, kept as plain arrays.

A file under `data/results/<profile>/figures/` holds only what came out of the model (tokens,
centroids, attention). Entropies, clusters and scores are computed from it by the notebooks, so a
change in `lib` shows in the figures without running the model again. A file made with other
settings, or by other weights, is computed anew.

Everything runs with batch one in the model's own precision; results are float32.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...clustering import centroid_gram, kmeans
from ...entropy import (
    effective_rank,
    entropy_operator,
    gram,
    leave_one_out,
    matrix_entropy,
    unit_tokens,
)
from ...pruning.families import resolve
from ...rollout import importance, rollout
from ...selection import coverage
from ..captioning import load_image, repeatable_attention, until_end
from ..data.coco import Example, coco_dir, karpathy_json, read_karpathy
from ..paths import embedded_dir, results_dir

if TYPE_CHECKING:  # transformers takes seconds to import, and stored arrays do not need it
    from .. import models

#: What an output token can look at, in the order of the sequence.
PARTS = ("system", "image", "instruction", "output")
#: The system prompt LLaVA-1.5 was tuned with, and the question of the paper's Figure 1.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
QUESTION = "Describe all the objects in the image"

_FORMAT = 1  # raise it when a stored array changes its meaning


class Tokens(NamedTuple):
    """The visual tokens of one image in the vision tower's layers l1 … l2.

    Attributes:
        image: (H, W, 3) uint8, the pixels the model sees.
        tokens: (L, N, D) float32 unit tokens, shallow first; the last layer feeds the projector.
        layers: the indices of the L hidden states (0: the embeddings).
        grid: rows and columns of patches, N = rows · columns.
        image_id: of the data set.
    """

    image: np.ndarray
    tokens: Tensor
    layers: list[int]
    grid: tuple[int, int]
    image_id: int


class Centroids(NamedTuple):
    """One clustering of the visual tokens, seen in every layer of both networks.

    Attributes:
        image: (H, W, 3) uint8.
        labels: (N,) int64, k-means at the layer that feeds the projector.
        grams: (S, M, M) float32, inner products of the unit centroids in each layer.
        stages: S names, "vision 0" … "vision l2", "language 0" … .
        grid, image_id: see `Tokens`.
    """

    image: np.ndarray
    labels: Tensor
    grams: Tensor
    stages: list[str]
    grid: tuple[int, int]
    image_id: int


class Attention(NamedTuple):
    """Where the output tokens look in each language layer, averaged over heads and tokens.

    Attributes:
        image: (H, W, 3) uint8.
        shares: (L, 4) float32, attention to `PARTS`; each row sums to one.
        counts: tokens in each of `PARTS`.
        maps: (L, N) float32, attention to each visual token.
        text: what the model said.
        grid, image_id: see `Tokens`.
    """

    image: np.ndarray
    shares: np.ndarray
    counts: list[int]
    maps: np.ndarray
    text: str
    grid: tuple[int, int]
    image_id: int

    @property
    def per_token(self) -> np.ndarray:
        """(L, 4) attention an average token of each part gets."""
        return self.shares / np.maximum(self.counts, 1)

    def image_to_system(self, first_layer: int = 0) -> float:
        """Attention of an image token over that of a system token, layers `first_layer` on."""
        per_token = self.per_token[first_layer:].mean(0)
        return float(per_token[PARTS.index("image")] / per_token[PARTS.index("system")])


# ------------------------------------------------------------------------------ load or compute


def load_or_compute(
    path: str | Path, parameters: Mapping[str, Any], function: Callable[[], Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Arrays of a `.npz`, computed when it is missing or was made with other parameters.

    `parameters` is plain JSON. The file is written atomically, and its bytes depend on the
    parameters and the arrays alone.
    """
    path, asked = Path(path), json.dumps(parameters, sort_keys=True)
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["parameters"]) == asked:
                    return {name: file[name] for name in file.files if name != "parameters"}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise OSError(f"{path} is damaged ({error}): delete it to compute it again") from error
    arrays = {name: np.asarray(value) for name, value in function().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, parameters=np.asarray(asked), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return arrays


def example(
    image: int | str = 0, *, model: str = "embedded", data: str | None = None,
    image_root: str | None = None,
) -> Example:  # fmt: skip
    """One image: number `image` of a test split, or a path to a file.

    `data` is "scenes" (drawn on first use), "coco" or the path of a JSON in Karpathy's layout; by
    default "coco" for models of the hub and "scenes" for the others. `image_root` is the folder of
    the images, where they lie neither beside that JSON nor where COCO is downloaded to.

    Raises:
        ValueError: unknown data, or a number outside the split.
        FileNotFoundError: a file is missing; "coco" needs the download that `make doctor` names.
    """
    if isinstance(image, str):
        path = Path(image).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no image at {path}")
        return Example(image_id=0, path=path, references=())
    data = data or default_data(model)
    root = Path(image_root).expanduser() if image_root else None
    if data == "scenes":
        from ..data.scenes import ensure_scenes

        listing = ensure_scenes("test", limit=image + 1, progress=False)
    elif data == "coco":
        listing, root = karpathy_json(), root or coco_dir()
    elif Path(data).expanduser().is_file():
        listing = Path(data).expanduser()
    else:
        raise ValueError(f"data must be 'scenes', 'coco' or a Karpathy JSON, got {data!r}")
    examples = read_karpathy(listing, "test", image_root=root, check_files=False)
    if not 0 <= image < len(examples):
        raise ValueError(f"image must be between 0 and {len(examples) - 1} for {data!r}: {image}")
    return examples[image]


def default_data(model: str) -> str:
    """The data a model is shown by default: COCO for models of the hub, else the scenes."""
    return "coco" if "/" in model and not Path(model).is_dir() else "scenes"


def about(model: str, data: str | None, image: int | str) -> str:
    """Model, data and number of images in words, for captions.

    >>> about("embedded", None, 7)
    'embedded model, generated test scene 7, 1 image'
    """
    name = {
        "embedded": "embedded model",
        "shape:llava-1.5-7b": "LLaVA-1.5-7B's shape with random weights",
    }.get(model, Path(model).name if Path(model).is_dir() else model)
    if isinstance(image, str):
        return f"{name}, {Path(image).name}, 1 image"
    data = data or default_data(model)
    kinds = {"scenes": "generated test scene", "coco": "COCO Karpathy test image"}
    kind = kinds.get(data) or f"image of {Path(data).name}, number"
    return f"{name}, {kind} {image}, 1 image"


def prompt(name: str, processor: Any, question: str | None = None) -> str:
    """The whole prompt for a model: by default what it was tuned with.

    Models of ours get the question they were trained on. Others get the paper's question for
    Figure 1 after LLaVA-1.5's system prompt.
    """
    from .. import models

    ours = name == "embedded" or name.startswith("shape:")
    text = models.format_prompt(processor, question or (models.PROMPT if ours else QUESTION))
    return text if ours else f"{SYSTEM} {text}"


def prepare(model: Any, processor: Any, image: Example, text: str) -> dict[str, Tensor]:
    """Model inputs for one image and a whole prompt, on the model's device, in its type."""
    inputs = processor(images=load_image(image.path), text=text, return_tensors="pt")
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return inputs


def seen(processor: Any, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """The (H, W, 3) uint8 picture in `pixel_values`: resized and cropped as the model gets it."""
    pixels = inputs["pixel_values"][0].float().cpu()
    mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
    std = torch.tensor(processor.image_processor.image_std)[:, None, None]
    return ((pixels * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def default_layers(config: Any) -> range:
    """The vision layers Entropy-Prune merges by default: four, up to the projector's."""
    last = _feature_layer(config)
    return range(max(0, last - 3), last + 1)


def _feature_layer(config: Any) -> int:
    if config.model_type != "llava" or config.vision_feature_select_strategy != "default":
        strategy = getattr(config, "vision_feature_select_strategy", None)
        raise TypeError(
            "the figures need a LLaVA with vision_feature_select_strategy='default', got "
            f"{config.model_type!r} with {strategy!r}"
        )
    feature = config.vision_feature_layer
    last = feature if isinstance(feature, int) else feature[-1]
    return last if last >= 0 else config.vision_config.num_hidden_layers + 1 + last


def _grid(config: Any) -> tuple[int, int]:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side, side


def _settings(
    model: str | models.Loaded, data: str | None, image: int | str, revision: str | None,
    **more: Any,
) -> dict:  # fmt: skip
    name = model if isinstance(model, str) else model.name
    data = data or default_data(name)
    folder = embedded_dir() if name == "embedded" or name.startswith("shape:") else Path(name)
    sums = folder / "SHA256SUMS"
    weights = hashlib.sha256(sums.read_bytes()).hexdigest()[:16] if sums.is_file() else None
    if revision:
        more["revision"] = revision
    return {"model": name, "weights": weights, "data": data, "image": image, **more} | {
        "format": _FORMAT
    }


def load(name: str, *, profile: str | None = None, **options: Any) -> models.Loaded:
    """`lib.study.models.load` without its progress bar, which a notebook would keep.

    A `profile` says in which precision and where, with its `dtype` and `device_map`.
    """
    from transformers.utils import logging

    from .. import models
    from .. import run as study

    if profile in study.profile_names():
        settings = study.load_profile(profile)
        options |= {"dtype": settings.dtype, "device_map": settings.device_map}

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return models.load(name, **options)
    finally:
        if shown:
            logging.enable_progress_bar()


def _loaded(model: str | models.Loaded, revision: str | None, profile: str | None) -> models.Loaded:
    if not isinstance(model, str):
        return model
    return load(model, revision=revision, profile=profile)


def _file(profile: str, name: str) -> Path:
    return results_dir(profile) / "figures" / f"{name}.npz"


# -------------------------------------------------------------------------------- what is computed


def tokens(
    profile: str, *, model: str | models.Loaded = "embedded", data: str | None = None,
    image: int | str = 0, image_root: str | None = None, revision: str | None = None,
) -> Tokens:  # fmt: skip
    """Visual tokens of one image in the vision layers Entropy-Prune merges.

    `model` (and `revision`) are for `lib.study.models.load`, used only if there is something to
    compute;
    or `model` is a loaded one. `data`, `image`, `image_root`: see `example`. Stored as unit tokens
    in float16; Figures 2, 4 and 5 share the file.
    """

    def compute() -> dict[str, Any]:
        network, processor, name = _loaded(model, revision, profile)
        shown = example(image, model=name, data=data, image_root=image_root)
        inputs = prepare(network, processor, shown, prompt(name, processor))
        layers = default_layers(network.config)
        states = _vision_states(network, inputs["pixel_values"], layers)
        return {
            "image": seen(processor, inputs),
            "tokens": torch.stack([unit_tokens(s) for s in states]).cpu().half().numpy(),
            "layers": list(layers),
            "grid": _grid(network.config),
            "image_id": shown.image_id,
        }

    stored = load_or_compute(
        _file(profile, "tokens"), _settings(model, data, image, revision), compute
    )
    return Tokens(
        stored["image"],
        torch.stack([unit_tokens(t) for t in torch.from_numpy(stored["tokens"])]),
        stored["layers"].tolist(),
        tuple(stored["grid"].tolist()),
        int(stored["image_id"]),
    )


def centroids(
    profile: str, *, model: str | models.Loaded = "embedded", data: str | None = None,
    image: int | str = 0, image_root: str | None = None, revision: str | None = None,
    n_clusters: int = 32, random_state: int = 0,
) -> Centroids:  # fmt: skip
    """Gram matrices of one clustering's unit centroids in every layer of both networks.

    The tokens are clustered where the projector reads them; every other layer uses that one
    assignment, so the M x M matrices line up (the way Entropy-Prune merges layers).
    """

    def compute() -> dict[str, Any]:
        network, processor, name = _loaded(model, revision, profile)
        shown = example(image, model=name, data=data, image_root=image_root)
        inputs = prepare(network, processor, shown, prompt(name, processor))
        last = _feature_layer(network.config)
        vision = _vision_states(network, inputs["pixel_values"], range(last + 1))
        labels = kmeans(vision[-1], n_clusters, random_state=random_state).labels
        states = vision + _language_states(network, inputs)
        grams = [_unit(centroid_gram(s.float(), labels, n_clusters)).cpu() for s in states]
        names = [f"vision {i}" for i in range(len(vision))]
        names += [f"language {i}" for i in range(len(states) - len(vision))]
        return {
            "image": seen(processor, inputs),
            "labels": labels.cpu().numpy(),
            "grams": torch.stack(grams).numpy(),
            "stages": names,
            "grid": _grid(network.config),
            "image_id": shown.image_id,
        }

    asked = _settings(
        model, data, image, revision, n_clusters=n_clusters, random_state=random_state
    )
    stored = load_or_compute(_file(profile, "centroids"), asked, compute)
    return Centroids(
        stored["image"],
        torch.from_numpy(stored["labels"]),
        torch.from_numpy(stored["grams"]),
        stored["stages"].tolist(),
        tuple(stored["grid"].tolist()),
        int(stored["image_id"]),
    )


def attention(
    profile: str, *, model: str | models.Loaded = "embedded", data: str | None = None,
    image: int | str = 0, image_root: str | None = None, revision: str | None = None,
    question: str | None = None, max_new_tokens: int = 64,
) -> Attention:  # fmt: skip
    """Attention of the generated tokens to system, image, instruction and earlier output.

    The answer is generated greedily, then read once more in a single pass. Each layer's attention
    rows are recomputed from the queries and keys it made, so the model keeps its own attention
    kernel and no layer's full matrix is ever held.
    """

    def compute() -> dict[str, Any]:
        network, processor, name = _loaded(model, revision, profile)
        shown = example(image, model=name, data=data, image_root=image_root)
        inputs = prepare(network, processor, shown, prompt(name, processor, question))
        answer = generate(network, inputs, max_new_tokens)
        shares, counts, maps = attention_shares(network, inputs, answer)
        return {
            "image": seen(processor, inputs),
            "shares": shares.numpy(),
            "counts": counts,
            "maps": maps.numpy(),
            "text": processor.tokenizer.decode(answer, skip_special_tokens=True).strip(),
            "grid": _grid(network.config),
            "image_id": shown.image_id,
        }

    asked = _settings(
        model, data, image, revision, question=question, max_new_tokens=max_new_tokens
    )
    stored = load_or_compute(_file(profile, "attention"), asked, compute)
    return Attention(
        stored["image"],
        stored["shares"],
        stored["counts"].tolist(),
        stored["maps"],
        str(stored["text"]),
        tuple(stored["grid"].tolist()),
        int(stored["image_id"]),
    )


class Description(NamedTuple):
    """What a model said of an image, and the (N,) bool mask of the visual tokens it kept."""

    text: str
    kept: np.ndarray


def describe(
    loaded: models.Loaded, shown: Example, pruner: Any = None, *, question: str | None = None,
    max_new_tokens: int = 64,
) -> Description:  # fmt: skip
    """Describe one image greedily, with all visual tokens or through a pruner of `lib.pruning`."""
    model, processor, name = loaded
    inputs = prepare(model, processor, shown, prompt(name, processor, question))
    if pruner is None:
        answer = generate(model, inputs, max_new_tokens)
        rows, columns = _grid(model.config)
        kept = np.ones(rows * columns, bool)
    else:
        with pruner(model) as active:
            answer = generate(model, inputs, max_new_tokens)
        kept = active.kept_masks[0].cpu().numpy()
    return Description(processor.tokenizer.decode(answer, skip_special_tokens=True).strip(), kept)


def unit_centroids(tokens: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Gram matrix (M, M) of the unit centroids of clusters: what eq. 5 scores."""
    return _unit(centroid_gram(tokens, labels, n_clusters))


def diversity(tokens: Tensor, mask: Any) -> dict[str, float]:
    """What a kept set (N,) of tokens (N, D) is like, by name.

    "tokens" and their "entropy" (nats), "effective rank", "redundancy" (mean absolute cosine of two
    different kept tokens) and "coverage" (mean largest cosine of any token to a kept one).
    """
    mask = torch.as_tensor(mask)
    kept = gram(tokens[mask])
    size = len(kept)
    other = kept.abs().sum() - size
    return {
        "tokens": size,
        "entropy": float(matrix_entropy(kept, gram=True)),
        "effective rank": float(effective_rank(kept, gram=True)),
        "redundancy": float(other / max(size * (size - 1), 1)),
        "coverage": float(coverage(tokens, mask)),
    }


def rank_agreement(grams: Tensor) -> dict[str, list[float]]:
    """How far a rollout still ranks clusters as its layers do, after 1, 2, … S layers.

    `grams` (S, M, M) are unit centroids' Gram matrices. For each variant of `lib.rollout`: the
    Spearman correlation of the merged importance with the mean over the merged layers of the exact
    leave-one-out scores.
    """
    from scipy.stats import spearmanr

    operators = entropy_operator(grams.double(), gram=True)
    scores = leave_one_out(grams.double(), gram=True)
    found: dict[str, list[float]] = {"scores": [], "scaled": [], "literal": []}
    for depth in range(1, len(grams) + 1):
        reference = scores[:depth].mean(0)
        for variant, values in found.items():
            layers = scores if variant == "scores" else operators
            merged = importance(rollout(layers[:depth], variant), variant)
            values.append(float(spearmanr(merged.cpu(), reference.cpu()).statistic))
    return found


# ------------------------------------------------------------------------------- inside the model


@torch.inference_mode()
def generate(model: Any, inputs: Mapping[str, Tensor], max_new_tokens: int = 64) -> Tensor:
    """The greedy answer, (n,) token ids without the end token; inside a pruner the pruned one's."""
    length = inputs["input_ids"].shape[1]
    with repeatable_attention():
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return until_end(model, out[0, length:])


@torch.inference_mode()
def attention_shares(
    model: Any, inputs: Mapping[str, Tensor], answer: Tensor
) -> tuple[Tensor, list[int], Tensor]:
    """Shares (L, 4) and counts of `PARTS`, and maps (L, N), for one prompt and its answer.

    Averaged over the positions that produced the answer's tokens. Raises `ValueError` for an empty
    answer, `TypeError` for attention layers without plain q and k projections.
    """
    if len(answer) == 0:
        raise ValueError("the model gave an empty answer: there is no output token to look from")
    ids = inputs["input_ids"]
    length, count = ids.shape[1], len(answer)
    full = torch.cat([ids, answer[None, :-1]], 1)
    rows = torch.arange(length - 1, length - 1 + count)
    spots = (full[0] == model.config.image_token_id).nonzero().squeeze(1).cpu()
    position = torch.arange(full.shape[1])
    part = torch.where(position < spots[0], 0, 2)
    part = torch.where(position >= length, 3, part)
    part[spots] = 1
    indicator = torch.nn.functional.one_hot(part, len(PARTS)).float().cpu()
    found: list[tuple[Tensor, Tensor]] = []

    def reduce(weights: Tensor) -> None:
        mean = weights.mean(0).cpu()
        found.append((mean @ indicator, mean[spots]))

    with ExitStack() as stack:
        for layer in model.model.language_model.layers:
            _watch(stack, resolve(model), layer.self_attn, rows, reduce)
        model(
            input_ids=full,
            attention_mask=torch.ones_like(full),
            pixel_values=inputs["pixel_values"],
            use_cache=False,
            logits_to_keep=1,
        )
    shares, maps = (torch.stack(each) for each in zip(*found))
    counts = torch.bincount(part, minlength=len(PARTS)).tolist()
    return shares, [*counts[:3], count], maps


def _watch(
    stack: ExitStack, family: Any, module: Any, rows: Tensor, use: Callable[[Tensor], None]
) -> None:
    """Hand `use` the attention (rows, positions) of one layer, averaged over heads."""
    from ...pruning.engine.attention import from_projections

    if not hasattr(module, "q_proj") or hasattr(module, "q_norm"):
        raise TypeError(f"cannot read queries and keys of {type(module).__name__}")
    made: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(module: Any, args: tuple, output: Tensor) -> None:
            made[name] = output

        return hook

    def read(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        query, key = made.pop("q"), made.pop("k")
        layer = from_projections(family, module, query, key, kwargs["position_embeddings"])
        use(torch.cat([layer.rows(chunk[None])[0] for chunk in rows.split(8)]))

    stack.callback(module.q_proj.register_forward_hook(keep("q")).remove)
    stack.callback(module.k_proj.register_forward_hook(keep("k")).remove)
    stack.callback(module.register_forward_hook(read, with_kwargs=True).remove)


@torch.inference_mode()
def _vision_states(model: Any, pixels: Tensor, layers: range) -> list[Tensor]:
    """Hidden states (N, D) of the patches, class token left out."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return [states[index][0, 1:] for index in layers]


@torch.inference_mode()
def _language_states(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Visual tokens (N, D) as they enter each language layer."""
    spots = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    found: list[Tensor] = []

    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        found.append((args[0] if args else kwargs["hidden_states"])[0, spots])

    with ExitStack() as stack:
        for layer in model.model.language_model.layers:
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        model(**inputs, use_cache=False, logits_to_keep=1)
    return found


def _unit(gram: Tensor) -> Tensor:
    """The Gram matrix of the same vectors at unit length."""
    length = gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = torch.where(length > 1e-6, 1 / length.clamp_min(1e-6), 0)
    return gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)
