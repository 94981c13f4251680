"""What lmms-eval asks, read from its requests into conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

from lmms_eval.api.instance import Instance
from PIL import Image

#: where a task's text wants its next image
PLACEHOLDER = "<image>"


@dataclass(frozen=True)
class Question:
    """A conversation that ends with the user's turn.

    messages: in the form of chat templates, images as `{"type": "image", "image": PIL image}`.
    generation: the task's generation arguments. continuation: the answer whose likelihood is asked
    for, None where the model answers.
    """

    messages: list[dict[str, Any]]
    generation: Mapping[str, Any] = field(default_factory=dict)
    continuation: str | None = None

    @property
    def images(self) -> list[Image.Image]:
        """The images in the order of the conversation."""
        parts = [part for message in self.messages for part in message["content"]]
        return [part["image"] for part in parts if part["type"] == "image"]

    @property
    def kind(self) -> tuple:
        """What questions answered together have in common."""
        generation = sorted((name, repr(value)) for name, value in self.generation.items())
        return bool(self.images), tuple(generation)


def batches(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    """Up to `size` questions of one kind, in order; read only as they are needed."""
    for _, alike in groupby(questions, key=lambda question: question.kind):
        while batch := list(islice(alike, size)):
            yield batch


# ---- the requests of the two kinds of models ----------------------------------------------------


def from_messages(request: Instance, tasks: Mapping[str, Any]) -> Question:
    """A request of a chat model: `(text, messages of a document, generation, id, task, split)`."""
    _, doc_to_messages, generation, index, task, split = request.args
    messages = doc_to_messages(tasks[task][split][index])
    return Question([_turn(m["role"], m["content"]) for m in messages], generation)


def from_text(request: Instance, tasks: Mapping[str, Any]) -> Question:
    """A request of a simple model: `(text, generation, images of a document, id, task, split)`."""
    text, generation, doc_to_visual, index, task, split = request.args
    visuals = doc_to_visual(tasks[task][split][index]) or []
    return Question([_user(visuals, text)], generation)


def with_continuation(request: Instance, tasks: Mapping[str, Any]) -> Question:
    """A request for a likelihood: `(text, continuation, images of a document, id, task, split)`.

    The continuation may be a function of the document; the text alone has no document.
    """
    text, continuation, *rest = request.args
    if not rest:
        return Question([_user([], text)], continuation=continuation)
    doc_to_visual, index, task, split = rest
    document = tasks[task][split][index]
    if callable(continuation):
        continuation = continuation(document)
    return Question([_user(doc_to_visual(document) or [], text)], continuation=str(continuation))


# ---- turns --------------------------------------------------------------------------------------


def _user(visuals: Sequence[Any], text: str) -> dict[str, Any]:
    return _turn("user", [*({"type": "image", "url": v} for v in visuals), _text(text)])


def _turn(role: str, content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A turn of the conversation; a text that holds as many placeholders as there are images takes
    the images there, any other loses them."""
    parts = [_part(part) for part in content]
    images = [part for part in parts if part["type"] == "image"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if len(texts) == 1 and images and texts[0].count(PLACEHOLDER) == len(images):
        pieces = texts[0].split(PLACEHOLDER)
        parts = [_text(pieces[0])]
        for image, piece in zip(images, pieces[1:]):
            parts += [image, _text(piece)]
    return {"role": role, "content": [part for part in map(_bare, parts) if part.get("text", True)]}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _bare(part: dict[str, Any]) -> dict[str, Any]:
    return part if part["type"] == "image" else _text(part["text"].replace(PLACEHOLDER, ""))


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return _text(part["text"])
    source = part.get("url")
    if part["type"] != "image":
        raise ValueError(
            f"the task shows a {part['type']} ({source!r}); entropy_prune answers about images"
        )
    return {"type": "image", "image": _image(source)}


def _image(source: Any) -> Image.Image:
    if isinstance(source, str):
        source = Image.open(source)
    if not isinstance(source, Image.Image):
        raise ValueError(
            f"the task shows a {type(source).__name__} ({source!r}); entropy_prune answers about "
            "images: PIL's, or their paths"
        )
    return source if source.mode == "RGB" else source.convert("RGB")


#: how a request of a model is read
Reader = Callable[[Instance, Mapping[str, Any]], Question]
