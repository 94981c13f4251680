"""What the doctor's tests share: profiles, model folders, a hub cache and a COCO folder."""

import json

import torch
from safetensors.torch import save_file

from lib.study.doctor.models import GPU
from lib.study.profiles import Profile
from tests.study.data.test_coco import entry, put, write_json

HUB = "llava-hf/llava-1.5-7b-hf"
H200 = GPU("NVIDIA H200", 1, 150_000_000_000)
EMBEDDED = Profile(profile="embedded")
PAPER = Profile(profile="paper", model=HUB, limit=None)
SHAPE = Profile(profile="shape", model="shape:llava-1.5-7b", random_weights=True)


def model_folder(folder, shards=("model.safetensors",)):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    for shard in shards:
        save_file({"w": torch.zeros(10, 10)}, folder / shard)
    if len(shards) > 1:
        weight_map = {str(i): shard for i, shard in enumerate(shards)}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def hub_cache(root, revision="a" * 40):
    """A cache that holds the model, laid out as huggingface_hub does; returns the snapshot."""
    repository = root / ("models--" + HUB.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    return model_folder(
        repository / "snapshots" / revision, shards=("one.safetensors", "two.safetensors")
    )


def coco_folder(root, numbers=range(8)):
    write_json(root / "dataset_coco.json", [entry(i) for i in numbers])
    for i in numbers:
        put(root / "val2014" / f"COCO_val2014_{i:012d}.jpg")
    return root


def find(findings, item):
    (found,) = [f for f in findings if f.item == item]
    return found
