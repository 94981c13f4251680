"""The only place that loads a model and its processor.

Three kinds of names: ``"embedded"``, the small LLaVA that ships in ``data/embedded``;
``"shape:llava-1.5-7b"``, the exact architecture of LLaVA-1.5-7B with random weights, for timing
without a download (``"shape:tiny"`` is the same in tiny, for tests); and any Hugging Face hub id or
local folder. Image processors are always the PIL ones, so torchvision is not needed and pixels do
not depend on whether it is installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .paths import embedded_dir

#: What the embedded model was trained to answer.
PROMPT = "Describe the image briefly."

#: LLaVA-1.5's conversation: "USER: <image>\nDescribe the image briefly. ASSISTANT:".
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
IMAGE_TOKEN = "<image>"
SUMS = "SHA256SUMS"


class Loaded(NamedTuple):
    """A model in evaluation mode, its processor, and the name it was asked for by."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    name: str


def load(
    name: str = "embedded",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    device_map: str | dict | None = None,
    attn_implementation: str = "sdpa",
) -> Loaded:
    """Load a model and its processor.

    Parameters
    ----------
    name : ``"embedded"``, ``"shape:llava-1.5-7b"``, a hub id ``"owner/name"`` or a local folder.
    device : where the weights go; the GPU if there is one, by default. Not with ``device_map``.
    dtype : of the weights; float32 on a CPU and bfloat16 on a GPU by default (the embedded model:
        float32 everywhere, since it is small).
    revision : commit, tag or branch of a hub id; refused for anything else.
    device_map : accelerate's placement of a large model, such as ``"auto"``.
    attn_implementation : ``"sdpa"``, ``"eager"`` or ``"flash_attention_2"``.

    Raises
    ------
    ValueError : unknown name, or options that do not go together.
    FileNotFoundError : a folder, its config or a weight shard is missing.
    OSError : a weight shard is corrupt.

    Examples
    --------
    >>> model, processor, _ = load("shape:llava-1.5-7b", device="meta", dtype="bfloat16")
    >>> sum(p.numel() for p in model.parameters()) // 10**6
    7063
    """
    if device is not None and device_map is not None:
        raise ValueError(f"give device={device!r} or device_map={device_map!r}, not both")
    on_hub = _is_hub_id(name)
    if revision is not None and not on_hub:
        raise ValueError(
            f"revision={revision!r} needs a hub id such as "
            f"'llava-hf/llava-1.5-7b-hf', got name={name!r}"
        )
    if device is None and device_map is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        small = name == "embedded" or (device is not None and torch.device(device).type == "cpu")
        dtype = torch.float32 if small else torch.bfloat16
    if isinstance(dtype, str):
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"unknown dtype {dtype!r}: use 'float32', 'bfloat16' or 'float16'")
        dtype = getattr(torch, dtype)

    if name.startswith("shape:"):
        if device_map is not None:
            raise ValueError("device_map does not apply to a random-weight shape: give device=")
        model, processor = _build_shape(name, device, dtype, attn_implementation)
        return Loaded(model.eval(), processor, name)

    if on_hub:
        source, extra = name, {"revision": revision}
    else:
        folder = embedded_dir() if name == "embedded" else Path(name)
        check_folder(folder)
        source, extra = str(folder), {}
    processor = _load_processor(source, **extra)
    model = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, device_map=device_map, attn_implementation=attn_implementation, **extra
    )
    if device is not None:
        model = model.to(device)
    return Loaded(model.eval(), processor, name)


def read_config(name: str = "embedded", *, revision: str | None = None) -> LlavaConfig:
    """The configuration of what `load` would load, without its weights; raises as `load` does.

    >>> read_config("shape:llava-1.5-7b").text_config.num_hidden_layers
    32
    """
    on_hub = _is_hub_id(name)
    if name.startswith("shape:"):
        return _shape_config(name, _embedded_tokenizer())
    source = str(embedded_dir()) if name == "embedded" else name
    return AutoConfig.from_pretrained(source, **({"revision": revision} if on_hub else {}))


def format_prompt(processor: LlavaProcessor, text: str = PROMPT) -> str:
    """The prompt for one image and a question, through the processor's chat template.

    Returns
    -------
    A string with the image placeholder, such as
    ``"USER: <image>\\nDescribe the image briefly. ASSISTANT:"``.

    Raises
    ------
    ValueError : the processor has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            f"{type(processor).__name__} has no chat template: set "
            "processor.chat_template = lib.study.models.CHAT_TEMPLATE"
        )
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    return processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)


# ------------------------------------------------------------------------------- names and folders


def _is_hub_id(name: str) -> bool:
    """Decide whether a name means the hub, and refuse what means nothing."""
    if name == "embedded" or Path(name).is_dir():
        return False
    if name.startswith("shape:"):
        if name.removeprefix("shape:") not in _SHAPES:
            raise ValueError(
                f"unknown shape {name!r}: known are "
                + ", ".join(f"'shape:{known}'" for known in _SHAPES)
            )
        return False
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"no model folder at {name!r}: check the path, or use 'embedded', "
            "'shape:llava-1.5-7b' or a hub id 'owner/name'"
        )
    if name.count("/") != 1:
        raise ValueError(
            f"unknown model {name!r}: use 'embedded', 'shape:llava-1.5-7b', a hub id "
            "'owner/name' or the path of a folder"
        )
    return True


def check_folder(folder: Path) -> None:
    """Check a model folder before transformers reads it, for errors that name file and remedy.

    Looks for the config, for each weight shard, whether each is a whole safetensors file, and,
    where the folder holds ``SHA256SUMS``, whether each file is the published one.

    Raises
    ------
    FileNotFoundError : folder, config or shard missing.
    OSError : a shard is truncated, not safetensors, or does not match its checksum.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    remedy = _remedy(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder at {folder}: {remedy}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing: {remedy}")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for shard in (folder / name for name in names):
        if not shard.is_file():
            raise FileNotFoundError(f"weight shard {shard} is missing: {remedy}")
        try:
            with safe_open(shard, "pt"):
                pass
        except SafetensorError as error:
            raise OSError(f"weight shard {shard} is corrupt ({error}): {remedy}") from error
    sums = folder / SUMS
    if sums.is_file():
        for line in sums.read_text().splitlines():
            digest, _, name = line.partition("  ")
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing: {remedy}")
            if _sha256(folder / name) != digest:
                raise OSError(
                    f"{folder / name} is not the published file (its sha256 differs "
                    f"from {SUMS}): {remedy}"
                )


def _remedy(folder: Path) -> str:
    if folder.resolve() == embedded_dir().resolve():
        return (
            "restore it with 'git checkout -- data/embedded', or train it again with "
            "notebooks/90_train_embedded_model.ipynb"
        )
    return "download the model again, or check the path"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write a model folder: float16 safetensors shards below 16 MiB, processor, checksums."""
    import copy

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    half = copy.deepcopy(model).to("cpu", torch.float16)
    half.save_pretrained(folder, max_shard_size="15MB")
    processor.save_pretrained(folder)
    published = [
        *sorted(folder.glob("*.safetensors")),
        *sorted(folder.glob("*.json")),
        *sorted(folder.glob("*.jinja")),
    ]
    (folder / SUMS).write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in published))


def _load_processor(source: str, **extra) -> LlavaProcessor:
    try:
        return AutoProcessor.from_pretrained(source, backend="pil", **extra)
    except (OSError, ValueError) as error:
        raise type(error)(f"no processor could be loaded for {source!r}: {error}") from error


# ---------------------------------------------------------------------------- the embedded design


def train_tokenizer(captions: Iterable[str], *, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from captions, with LLaVA's special tokens.

    Byte-level: any text has an encoding. Every sequence starts with ``<s>``, as LLaMA's do.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [*SPECIAL_TOKENS.values(), IMAGE_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    # The prompt is repeated so that its words become tokens too; captions follow a space.
    prompt = [f"USER: \n{PROMPT} ASSISTANT:"] * 100
    core.train_from_iterator([*prompt, *(" " + text for text in captions)], trainer)
    start = SPECIAL_TOKENS["bos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{start} $A",
        pair=f"{start} $A {start} $B",
        special_tokens=[(start, core.token_to_id(start))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **SPECIAL_TOKENS,
        padding_side="left",
        model_max_length=1024,
        additional_special_tokens=[IMAGE_TOKEN],
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, *, image_size: int = 224, patch_size: int = 14
) -> LlavaProcessor:
    """LLaVA's processor over a tokenizer that knows ``<image>``; CLIP's PIL image processor."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    )


def embedded_config(
    tokenizer: PreTrainedTokenizerFast, *, vision: dict | None = None, text: dict | None = None
) -> LlavaConfig:
    """The embedded architecture: LLaVA-1.5 in small, 256 visual tokens, 8 language layers.

    Parameters
    ----------
    tokenizer : gives the vocabulary size and the ids of the special tokens.
    vision, text : overrides of ``CLIPVisionConfig`` and ``LlamaConfig``, for tests and smoke runs.
    """
    vision_config = CLIPVisionConfig(
        **{
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 7,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 256,
            **(vision or {}),
        }
    )
    text_config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **(text or {}),
        }
    )
    return _llava_config(
        vision_config,
        text_config,
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tokenizer.pad_token_id,
    )


def _llava_config(vision: CLIPVisionConfig, text: LlamaConfig, image: int, pad: int) -> LlavaConfig:
    patches = (vision.image_size // vision.patch_size) ** 2
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        pad_token_id=pad,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=patches,
        tie_word_embeddings=False,
    )


def build_embedded(
    tokenizer: PreTrainedTokenizerFast,
    *,
    vision: dict | None = None,
    text: dict | None = None,
    random_state: int = 0,
) -> LlavaForConditionalGeneration:
    """The embedded architecture with fresh weights (transformers' own initialisation)."""
    config = embedded_config(tokenizer, vision=vision, text=text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


# --------------------------------------------------------------------------------- random weights

# llava-hf/llava-1.5-7b-hf: CLIP ViT-L/14 at 336 px (576 visual tokens) and Vicuna-7B.
_SHAPES = {
    "llava-1.5-7b": {
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "text": {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
    },
    # the same layout with next to no weights: checks in seconds what runs on the large one
    "tiny": {
        "vision": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "projection_dim": 16,
        },
        "text": {
            "vocab_size": 2048,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
    },
}


def _build_shape(
    name: str, device: str | torch.device, dtype: torch.dtype, attn_implementation: str
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Random weights of an exact shape, made on the target device in the target precision.

    The words come from the embedded tokenizer (its ids lie inside the larger vocabulary), so the
    placeholder's id is that tokenizer's and not LLaVA's 32000; nothing else differs.
    """
    tokenizer = _embedded_tokenizer()
    config = _shape_config(name, tokenizer)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation
        )
    vision = config.vision_config
    processor = build_processor(
        tokenizer, image_size=vision.image_size, patch_size=vision.patch_size
    )
    return model, processor


def _embedded_tokenizer() -> PreTrainedTokenizerFast:
    check_folder(embedded_dir())
    return PreTrainedTokenizerFast.from_pretrained(str(embedded_dir()))


def _shape_config(name: str, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    shape = _SHAPES[name.removeprefix("shape:")]
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return _llava_config(
        CLIPVisionConfig(**shape["vision"]),
        LlamaConfig(**shape["text"], **ids),
        tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        tokenizer.pad_token_id,
    )
