"""Documents of the scenes, as lmms-eval's tasks read them."""

from PIL import Image


def visual(doc):
    """The image of a document."""
    return [Image.open(doc["path"]).convert("RGB")]


def pair(doc):
    """The image, and its upper or left half."""
    (image,) = visual(doc)
    width, height = image.size
    high = doc["answer"] % 2
    half = (width // 2, height) if high else (width, height // 2)
    return [image, image.crop((0, 0, *half))]


def named(doc, results):
    """The share of the scene's objects that a caption names, such as "red circle"."""
    words = results[0]
    return {"named": sum(thing in words for thing in doc["objects"]) / len(doc["objects"])}
