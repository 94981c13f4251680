"""What serving would cost, by hand."""

import pytest

from lib.study.cost import serving
from lib.study.cost.serving import Load


def row(method, batch, prefill, step, cache):
    return {
        "method": method, "batch": batch, "new_tokens": 64, "cache_bytes": cache,
        "static_prefill": {"median": prefill}, "static_decode": {"median": step},
        "peak_bytes": 20e9,
    }  # fmt: skip


POSITION = 2 * 32 * 4096 * 2  # keys and values, layers, width, bytes
BARE = row("unpruned", 4, 0.4, 0.01, 4 * 636 * POSITION)
PRUNED = row("fastv", 4, 0.2, 0.008, 4 * 300 * POSITION)


def test_by_hand():
    load = Load(new_tokens=64, memory=90e9)
    assert serving.seconds_an_image(BARE, load) == pytest.approx((0.1, 63 * 0.01 / 4))
    # 636 or 300 positions of the prompt and 64 of the caption, in 70 GB
    assert serving.requests(BARE, BARE, load) == pytest.approx(70e9 / (700 * POSITION))
    assert serving.requests(PRUNED, BARE, load) == pytest.approx(70e9 / (364 * POSITION))
    # .2575 s against .176: .0815 s more are spared by .815 of prompts of .1 s
    assert serving.cached_share(PRUNED, BARE, load) == pytest.approx(0.815)
    assert serving.cached_share(BARE, BARE, load) == 0
    # one image a second, the whole day
    assert serving.gpus(1.0, Load(images=86_400, peak=1.0, used=1.0)) == 1


def test_the_peak_and_the_used_time_scale_all_alike():
    once = serving.gpus(0.02, Load())
    assert serving.gpus(0.02, Load(peak=6.0)) == pytest.approx(2 * once)
    assert serving.gpus(0.02, Load(used=0.35)) == pytest.approx(2 * once)
