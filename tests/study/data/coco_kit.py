"""Files as a COCO folder holds them."""

import io
import json

import numpy as np
from PIL import Image


def jpeg(seed=0, size=(32, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def entry(number, split="test", part="val", **more):
    return {
        "cocoid": number,
        "imgid": number % 1000,
        "sentids": [1, 2],
        "split": split,
        "filepath": f"{part}2014",
        "filename": f"COCO_{part}2014_{number:012d}.jpg",
        "sentences": [{"raw": f"A caption of {number}. \n", "tokens": []}, {"raw": "Another one."}],
        **more,
    }


def write_json(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def put(path, content=b"jpeg"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
