"""What the host reads of a prompt, and how often it waits for a GPU: no more than unpruned.

Without a GPU: tensors say that they are on one, but for what was read back and made of that.
"""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lib.kernels import use_kernels
from lib.pruning import create
from lib.pruning.engine.passes import Current, Pass
from lib.pruning.engine.prompt import captured, placeholders, read_masks
from lib.pruning.engine.release import cache_name, cache_of
from tests.tiny import one, tiny_llava

PADDED, SHOWN = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), torch.ones(2, 4, dtype=torch.int64)
READS = {"item", "tolist", "cpu", "nonzero", "__bool__", "__int__", "__index__"}
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


class OnAGpu(TorchFunctionMode):
    """Counts in `waits` what would wait for the GPU."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = [*args, *(kwargs or {}).values()]
        flat = [a for one in given for a in (one if isinstance(one, list | tuple) else [one])]
        tensors = [one for one in flat if isinstance(one, Tensor)]
        read = bool(tensors) and all(getattr(one, "_read", False) for one in tensors)
        if getattr(function, "__self__", None) is Tensor.device:
            return CPU if read else GPU
        name, sent = getattr(function, "__name__", ""), GPU in given and read
        masked = name == "__getitem__" and any(t.dtype == torch.bool for t in tensors[1:])
        late = sent and not (kwargs or {}).get("non_blocking", False)
        if late or (not read and (name in READS or masked)):
            self.waits[name] += 1
        here = [CPU if isinstance(one, torch.device) else one for one in args]
        named = {k: CPU if k == "device" else v for k, v in (kwargs or {}).items()}
        out = function(*here, **named)
        if name == "cpu" or sent:
            out = out.clone()
        for made in out if isinstance(out, list | tuple) else [out]:
            if isinstance(made, Tensor) and (read or name == "cpu"):
                made._read = not sent
        return out


def waits(pruner, inputs, monkeypatch):
    model = tiny_llava()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with torch.no_grad(), use_kernels(False), pruner(model) if pruner else nullcontext():
        for _ in range(2):  # once a block, lengths are compared
            with OnAGpu() as mode:
                model(**inputs, use_cache=True, logits_to_keep=1)
    return mode.waits


@pytest.mark.parametrize("name", ["random", "fastv", "pyramiddrop", "visionzip"])
def test_the_host_waits_as_the_pass_begins_and_as_it_ends(name, monkeypatch):
    plain = waits(None, one(), monkeypatch)
    assert plain == {"__bool__": 1, "item": 1}  # the mask, and behind the tower the count
    assert waits(create(name), one(), monkeypatch) == {"cpu": 1, "tolist": 1}


def read(mask, *, length=4, past=0, current=None, **marks):
    pass_ = Pass(length, past, len(mask), None)
    pass_.marks = dict(marks)
    read_masks(pass_, mask, current or Current())
    return pass_


@pytest.mark.parametrize("gpu", [False, True])
def test_a_mask_that_hides_nothing_is_none(gpu):
    marks = {"image": PADDED.bool(), "video": ~PADDED.bool()}
    with OnAGpu() if gpu else nullcontext() as mode:
        pass_ = read(SHOWN, **marks)
    assert pass_.whole is pass_.valid is None and (mode is None or mode.waits == {"cpu": 1})
    assert all(torch.equal(pass_.marks[name], mark) for name, mark in marks.items())
    assert read(PADDED).whole.equal(PADDED.bool()) and read(PADDED).valid.equal(PADDED.bool())


def test_what_is_hidden_of_earlier_turns_is_not_of_this_one():
    pass_ = read(PADDED, length=3, past=1)
    assert pass_.valid is None and pass_.whole.equal(PADDED.bool())
    pass_ = read(PADDED.flip(1), length=3, past=1)
    assert pass_.valid.equal(PADDED.flip(1)[:, 1:].bool()) and pass_.whole is not None
    pass_ = read(PADDED.flip(1), length=1, past=3)  # a step: nobody looks
    assert pass_.valid is None and pass_.whole is not None


def test_two_tokens_are_no_step():
    assert (
        read(PADDED[:, :2], length=2).valid is not None
        and read(SHOWN[:, :2], length=2).whole is None
    )


def test_masks_of_two_devices_are_read_in_one_transfer():
    with OnAGpu() as mode:
        here = PADDED.cpu()
        pass_ = read(here, image=SHOWN.bool())
        assert pass_.marks["image"].device == CPU and mode.waits == {"cpu": 2, "to": 1}
    assert pass_.marks["image"].equal(SHOWN.bool()) and pass_.valid.equal(PADDED.bool())


def test_nothing_is_read_while_a_graph_is_captured():
    current = Current()
    assert not captured(SHOWN, current)
    current.images_each = 1
    assert not captured(SHOWN, current) and captured(SHOWN.to("meta"), current)
    pass_ = read(SHOWN.to("meta"), current=current, image=SHOWN.to("meta"))
    assert pass_.valid.shape == (2, 4) and pass_.marks["image"].device.type == "meta"


@pytest.mark.parametrize(
    "mask, found", [(SHOWN[None], "got 3 dimensions"), ("none", "got str"), (SHOWN[:, 1:], "3 pos")]
)
def test_a_mask_of_another_form_is_refused(mask, found):
    with pytest.raises(ValueError, match=found):
        read(mask)


def test_placeholders_are_counted_where_the_host_knows_them():
    current, asked = Current(), []
    found = placeholders(current, lambda *given, **named: asked.append((given, named)))
    embeddings, image, other = torch.ones(2, 4, 3), torch.ones(7, 3), torch.ones(6, 3)
    found(PADDED, embeddings, image)  # outside of a pass
    assert len(asked) == 1
    current.pass_ = pass_ = Pass(4, 0, 2, None, image_mask=PADDED.bool())
    pass_.marks = {"image": PADDED.bool()}
    assert found(PADDED, embeddings, image).equal(PADDED.bool()[..., None]) and len(asked) == 1
    found(PADDED, inputs_embeds=embeddings, image_features=other)  # transformers says what is wrong
    pass_.marks = {"image": PADDED.bool().to("meta")}  # a graph is captured
    found(PADDED, embeddings, image)
    named = {"inputs_embeds": embeddings, "image_features": image}
    assert len(asked) == 3 and asked[0] == asked[2] == ((PADDED,), named)
    assert asked[1][1]["image_features"] is other


def steps_of(model, inputs, hidden=(), *, ones=4, **options):
    """`generate` with text hidden by the caller's mask; the masks its steps gave the language
    model, and the tokens."""
    seen = []

    def look(module, args, kwargs):
        if kwargs.get("inputs_embeds").shape[1] == 1:
            seen.append(kwargs["attention_mask"] is None)

    mask = inputs["attention_mask"].clone()
    mask[:, list(hidden)] = 0
    handle = model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.no_grad():
            out = model.generate(**inputs | {"attention_mask": mask}, do_sample=False,
                                 max_new_tokens=ones, **options)  # fmt: skip
    finally:
        handle.remove()
    return seen, out


@pytest.mark.parametrize("layer", [0, 2])
def test_steps_of_generate_are_given_no_mask_where_nothing_is_hidden(layer):
    model, inputs = tiny_llava(), one()
    beside = int((inputs["input_ids"] != model.config.image_token_id).nonzero()[-2, 1])
    with create("random", layer=layer)(model):
        assert steps_of(model, inputs)[0] == [True] * 3
        assert steps_of(model, inputs, num_beams=2)[0] == [True] * 3
        found, hidden = steps_of(model, inputs, [beside])
        assert found == [False] * 3
        # as the same sequence read at once, without a step
        whole = hidden[:, :-1]
        mask = torch.ones_like(whole)
        mask[:, beside] = 0
        read = model(**inputs | {"input_ids": whole, "attention_mask": mask}).logits
        assert torch.equal(read[:, -1].argmax(-1), hidden[:, -1])


@pytest.mark.parametrize("hidden", [[], [0, 1]])
def test_a_turn_of_one_token_may_hide_what_came_before(hidden):
    """Only steps behind a prompt know what `generate` was given for it."""
    model, answers = tiny_llava(), []
    kept = {"do_sample": False, "return_dict_in_generate": True}

    def again(ids, given):
        new = {"max_new_tokens": 1, "output_logits": True}
        return model.generate(input_ids=ids, **given, **kept, **new).logits[0]

    def directly(ids, given):
        places = given["attention_mask"].cumsum(1) - 1
        return model(input_ids=ids[:, -1:], position_ids=places[:, -1:], **given).logits[:, -1]

    with create("random")(model), torch.no_grad():
        for call in (again, directly):
            out = model.generate(**one(), max_new_tokens=2, **kept)
            cache, mask = cache_of(out), torch.ones_like(out.sequences)
            mask[:, hidden] = 0
            given = {"attention_mask": mask, cache_name(model): cache}
            answers.append(call(out.sequences, given))
    assert torch.allclose(*answers, atol=1e-5)


def test_a_loop_of_ones_own_may_hide_what_it_likes():
    """What `generate` knows of its masks is not known of others that look alike."""
    model, inputs = tiny_llava(), one()
    with create("random", layer=2)(model), torch.no_grad():

        def prepared():
            read = model(**inputs, use_cache=True)
            given = {"attention_mask": inputs["attention_mask"], "use_cache": True}
            given = model._update_model_kwargs_for_generation(read, given)
            ids = torch.cat([inputs["input_ids"], torch.tensor([[7]])], 1)
            step = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **given)
            return step | {"logits_to_keep": 1}

        def written(step):
            step["attention_mask"][:, :2] = 0
            return step

        def another(step):
            return written(step | {"attention_mask": step["attention_mask"].clone()})

        plain, *hiding = (model(**change(prepared())).logits for change in (dict, written, another))
        assert torch.equal(*hiding) and not torch.allclose(plain, hiding[0], atol=1e-3)
        step = prepared()
        with pytest.raises(ValueError, match="covers 47 positions, but 47 are cached and 1 are"):
            model(**step)
            model(**step)  # the same mask is one too short now
