"""Documents of the scenes, as lmms-eval's tasks read them."""

from PIL import Image


def visual(doc):
    """The images of a document."""
    return [Image.open(doc["path"]).convert("RGB")]


def named(doc, results):
    """The share of the scene's objects that a caption names, such as "red circle"."""
    words = results[0]
    return {"named": sum(thing in words for thing in doc["objects"]) / len(doc["objects"])}
