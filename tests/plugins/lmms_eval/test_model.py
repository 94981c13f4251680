"""The two classes that lmms-eval makes, with requests as it makes them."""

import json
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from lmms_eval.models.model_utils import gen_metrics

from lib.plugins.lmms_eval.model import Chat, Simple
from tests.plugins.lmms_eval.kit import GREEDY, chat, instance, likelihood, simple, tasks
from tests.tiny_captioner import TOKENS

PIL = json.dumps({"backend": "pil"})
QUESTIONS = ("red", "a red circle and two blue squares", "near the window", "table")


@pytest.fixture(scope="module")
def documents(images):
    return [{"images": [image], "text": text} for image, text in zip(images, QUESTIONS)]


def made(kind, folder, documents, **options):
    model = kind(str(folder), **{"device": "cpu", "processor": PIL, "batch_size": 3} | options)
    model.task_dict = tasks(documents)
    return model


def texts(results) -> list[str]:
    return [one.text for one in results]


def test_chat_and_simple_answer_alike_and_log_their_counts(folder, documents):
    options = {"method": "entropy", "keep": 0.5, "layer": 1}
    said = made(Chat, folder, documents, **options).generate_until([chat(n) for n in range(4)])
    plain = made(Simple, folder, documents, **options)
    again = plain.generate_until([simple(text, n) for n, text in enumerate(QUESTIONS)])
    assert isinstance(said, Sequence) and len(said) == 4
    assert texts(said) == texts(again) and len(set(texts(said))) > 1
    for one in said:
        counts = one.token_counts.to_dict()
        assert (counts["visual_tokens"], counts["kept_tokens"]) == (TOKENS, TOKENS // 2)
        assert counts["first_token_seconds"] > 0


def test_the_size_of_a_batch_and_the_order_change_nothing(folder, documents):
    mixed = [chat(n, GREEDY | {"max_new_tokens": 3 + n % 2}) for n in (3, 1, 2, 0)]
    alone = made(Chat, folder, documents, method="fastv", keep=0.25, batch_size=1)
    together = made(Chat, folder, documents, method="fastv", keep=0.25, batch_size="4")
    assert texts(alone.generate_until(mixed)) == texts(together.generate_until(mixed))


def test_likelihoods_are_pairs_that_tasks_unpack(folder, documents):
    ends = (" a blue square", " red")
    asked = [likelihood(QUESTIONS[0], end, 0) for end in ends]
    for options in ({"method": "none"}, {"method": "entropy", "keep": 0.5}):
        losses, greedy = zip(
            *texts(made(Simple, folder, documents, **options).loglikelihood(asked))
        )
        assert all(loss > 0 for loss in losses) and losses[0] != losses[1]
        assert set(greedy) <= {True, False}


def test_means_are_logged_when_all_is_answered(folder, documents, monkeypatch):
    logged = []
    monkeypatch.setattr("lib.plugins.lmms_eval.model.log_metrics", lambda **k: logged.append(k))
    assert callable(gen_metrics.log_metrics)
    said = made(Chat, folder, documents, method="random", keep=0.25).generate_until(
        [chat(n) for n in range(4)]
    )
    next(iter(said))
    assert not logged
    list(said)
    (run,) = logged
    assert run["additional_metrics"]["kept_tokens"] == TOKENS // 4
    assert run["additional_metrics"]["total_requests"] == 4


def test_a_system_prompt_stands_in_front(folder, documents):
    bare = made(Chat, folder, documents, method="none")
    told = made(Chat, folder, documents, method="none", system_prompt="two squares on a table")
    a, b = (m.generate_until([chat(0)])[0].token_counts.input_tokens for m in (bare, told))
    assert b > a


def test_a_template_may_come_from_a_file(folder, documents, tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ '<image>' }}: red")
    model = made(Chat, folder, documents, method="none", chat_template=str(file))
    assert model.chat_template == "{{ '<image>' }}: red"
    assert len(model.generate_until([chat(0)])) == 1


def test_unknown_generation_arguments_are_told_once(folder, documents):
    model = made(Chat, folder, documents, method="none", batch_size=1)
    asked = [chat(n, GREEDY | {"image_aspect_ratio": "pad"}) for n in range(2)]
    with pytest.warns(UserWarning, match="generate knows no image_aspect_ratio") as told:
        list(model.generate_until(asked))
    assert len([w for w in told if "image_aspect_ratio" in str(w.message)]) == 1


@pytest.mark.parametrize("size", [0, -1, "auto", "2.5"])
def test_a_batch_size_that_is_none_is_named(folder, size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number .*, got {size!r}"):
        Chat(str(folder), batch_size=size)


def test_methods_and_options_are_refused_before_a_model_is_loaded():
    with pytest.raises(ValueError, match="no pruning method 'entropi'"):
        Chat("nowhere", method="entropi")
    with pytest.raises(
        ValueError, match=r"no argument 'kep'; .*the model takes pretrained, method"
    ):
        Chat("nowhere", method="fastv", kep=0.5)


@pytest.mark.parametrize("place", [{"device": "cuda:1"}, {"device_map": "auto"}])
def test_several_processes_have_a_device_each(folder, monkeypatch, place):
    """Every process would put its copy there."""
    monkeypatch.setattr(
        "lib.plugins.lmms_eval.model.Accelerator",
        lambda: SimpleNamespace(process_index=1, num_processes=2, device=torch.device("cpu")),
    )
    ((name, value),) = place.items()
    with pytest.raises(ValueError, match=f"{name}={value} names one place .* this one's is cpu"):
        Chat(str(folder), **place)
    assert Chat(str(folder), device="cpu", processor=PIL).device.type == "cpu"


def test_several_rounds_are_not_there(folder, documents):
    with pytest.raises(NotImplementedError, match="tasks of one round"):
        made(Chat, folder, documents).generate_until_multi_round([instance("x", ())])


def test_cleaning_lets_go_of_the_model(folder, documents):
    model = made(Chat, folder, documents)
    assert model.device.type == "cpu" and model.tokenizer.pad_token
    model.clean()
    assert model.runner is None
