"""lmms-eval's requests as conversations."""

import pytest
from PIL import Image

from lib.plugins.lmms_eval.requests import batches, from_messages, from_text, with_continuation
from tests.plugins.lmms_eval.kit import (
    chat,
    instance,
    likelihood,
    messages,
    question,
    simple,
    tasks,
    text_part,
)


def kinds(read) -> list:
    """The parts of the last turn: "image", or a text."""
    return [part.get("text", part["type"]) for part in read.messages[-1]["content"]]


def test_messages_keep_their_order_and_roles(images):
    def several(document):
        return [
            {"role": "system", "content": [text_part("be brief")]},
            {"role": "user", "content": [text_part("a"), {"type": "image", "url": images[0]},
                                         text_part("b"), {"type": "image", "url": images[1]}]},
        ]  # fmt: skip

    read = from_messages(chat(0, to_messages=several), tasks([{}]))
    assert [message["role"] for message in read.messages] == ["system", "user"]
    assert kinds(read) == ["a", "image", "b", "image"]
    assert read.images == [images[0], images[1]]
    assert read.generation["max_new_tokens"] == 5 and read.continuation is None


def test_a_text_has_its_images_in_front(images):
    documents = tasks([{"images": images[:2]}])
    read = from_text(simple("which is red?", 0), documents)
    assert kinds(read) == ["image", "image", "which is red?"]


def test_placeholders_say_where_the_images_go(images):
    text = "first <image>, then <image>?"
    document = {"images": images[:2], "text": text}
    for read in (
        from_text(simple(text, 0), tasks([document])),
        from_messages(chat(0), tasks([document])),
    ):
        assert kinds(read) == ["first ", "image", ", then ", "image", "?"]
        assert read.images == images[:2]


def test_placeholders_without_their_image_go(images):
    read = from_text(simple("<image> and <image> differ", 0), tasks([{"images": images[:1]}]))
    assert kinds(read) == ["image", " and  differ"]
    assert kinds(from_text(simple("no <image>", 0), tasks([{"images": None}]))) == ["no "]


def test_images_may_be_paths_and_become_rgb(tmp_path):
    Image.new("L", (8, 6), 3).save(tmp_path / "grey.png")
    read = from_text(simple("?", 0), tasks([{"images": [str(tmp_path / "grey.png")]}]))
    (image,) = read.images
    assert image.mode == "RGB" and image.size == (8, 6)


def test_what_is_no_image_is_named(images):
    def film(document):
        return [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]

    with pytest.raises(ValueError, match=r"the task shows a video \('a.mp4'\)"):
        from_messages(chat(0, to_messages=film), tasks([{}]))
    with pytest.raises(ValueError, match="the task shows a dict"):
        from_text(simple("?", 0), tasks([{"images": [{"array": 1}]}]))


def test_a_continuation_may_depend_on_the_document(images):
    documents = tasks([{"images": images[:1], "answer": " red"}])
    read = with_continuation(likelihood("colour?", lambda d: d["answer"], 0), documents)
    assert read.continuation == " red" and kinds(read) == ["image", "colour?"]
    assert with_continuation(likelihood("?", " blue", 0), documents).continuation == " blue"


def test_a_continuation_alone_has_no_document():
    read = with_continuation(instance("loglikelihood", ("", " red")), {})
    assert read.continuation == " red" and not read.images


def test_batches_hold_what_is_answered_alike_in_order(images):
    short, long = {"max_new_tokens": 2}, {"max_new_tokens": 9}
    asked = [question(images[0], text=str(n), generation=short) for n in range(3)]
    asked += [question(text="none", generation=short)]
    asked += [question(images[0], text=str(n), generation=long) for n in range(2)]
    made = list(batches(asked, 2))
    assert [len(batch) for batch in made] == [2, 1, 1, 2]
    assert [one for batch in made for one in batch] == asked


def test_documents_are_read_as_their_batch_comes(images):
    read = []

    def ask():
        for number in range(6):
            read.append(number)
            yield question(images[0], text=str(number))

    made = batches(ask(), 2)
    next(made)
    assert read == [0, 1]
    next(made)
    assert read == [0, 1, 2, 3]


def test_messages_of_the_kit_are_those_of_the_framework(images):
    """Images first, then the text: what lmms-eval makes of a task without messages of its own."""
    (turn,) = messages({"images": images[:1], "text": "?"})
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
