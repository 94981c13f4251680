"""What the plug-in's tests share: sizes of the tiny model, questions and requests."""

from lmms_eval.api.instance import Instance

from lib.plugins.lmms_eval.requests import Question

WORDS = ["a red circle and two blue squares on a grey table near the window"]
GREEDY = {"max_new_tokens": 5, "temperature": 0, "do_sample": False}


def question(*images, text="a red circle", generation=GREEDY, continuation=None) -> Question:
    """The user's turn: images, then a text."""
    content = [*({"type": "image", "image": image} for image in images), text_part(text)]
    return Question([{"role": "user", "content": content}], generation, continuation)


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def instance(kind: str, arguments: tuple, *, index: int = 0, task: str = "scenes") -> Instance:
    """A request of lmms-eval."""
    metadata = {"task": task, "doc_id": index, "repeats": 1}
    return Instance(request_type=kind, arguments=arguments, idx=0, metadata=metadata)


def messages(document: dict) -> list[dict]:
    """A document as messages: what lmms-eval makes of tasks that have images and a text."""
    content = [{"type": "image", "url": image} for image in document["images"]]
    return [{"role": "user", "content": [*content, text_part(document["text"])]}]


def visuals(document: dict) -> list:
    return document["images"]


def chat(index: int, generation: dict = GREEDY, *, to_messages=messages) -> Instance:
    """A request of a task as messages."""
    arguments = ("text", to_messages, dict(generation), index, "scenes", "test")
    return instance("generate_until", arguments, index=index)


def simple(text: str, index: int, generation: dict = GREEDY) -> Instance:
    """A request of a task as text and images."""
    arguments = (text, dict(generation), visuals, index, "scenes", "test")
    return instance("generate_until", arguments, index=index)


def likelihood(text: str, continuation, index: int) -> Instance:
    """A request for the likelihood of a continuation."""
    arguments = (text, continuation, visuals, index, "scenes", "test")
    return instance("loglikelihood", arguments, index=index)


def tasks(documents: list[dict]) -> dict:
    """The documents of one split of one task."""
    return {"scenes": {"test": documents}}
