"""A caption's time is split into its parts, in operations instead of seconds."""

import pytest

from lib.decoding import StaticDecoder
from lib.pruning import available, create
from lib.study.cost.latency import fast_path, latency
from lib.study.cost.probe import Probe
from tests.tiny import TOKENS, ragged, tiny_llava


def share(pruner):
    """Of the visual tokens, behind the last stage."""
    return pytest.approx(pruner.stage_counts(TOKENS, 5)[-1][1] / TOKENS)


@pytest.mark.parametrize("name", [None, *available()])
def test_latency_splits_a_caption_into_its_parts(name, operations_clock):
    model = tiny_llava()
    pruner = create(name) if name else None
    probe = Probe(model, ragged(), pruner, 4, StaticDecoder(model))
    # operations are as many in every repeat
    result = latency(probe, warmup=1, repeats=1)
    assert result["static_agreement"] == 1.0
    assert result["static_end_to_end"]["median"] > result["static_prefill"]["median"] > 0
    assert result["kept"] == (share(pruner) if name else 1.0)
    assert result["end_to_end"]["median"] > result["prefill"]["median"] > 0
    assert result["prefill"]["median"] > result["scorer"]["median"]
    assert result["prefill"]["median"] > result["vision"]["median"] > 0
    assert (result["scorer"]["median"] > 0) == (name is not None)
    assert result["peak_bytes"] is None and result["flops_counted"] > 0
    longest = ragged()["input_ids"].shape[1]
    if name is None:
        assert result["cache_bytes"] == 5 * 3 * longest * 2 * 2 * 8 * 4
    # nothing is left behind on the pruner
    assert pruner is None or "select" not in vars(pruner)


def test_the_fast_path_alone(operations_clock):
    model = tiny_llava()
    probe = Probe(model, ragged(), create("random"), 4, StaticDecoder(model))
    result = fast_path(probe, repeats=2, compared=False)
    assert result["static_end_to_end"]["median"] > result["static_prefill"]["median"] > 0
    assert result["static_decode"]["median"] > 0 and "static_agreement" not in result
