"""The measuring tools."""

import time

import numpy as np
import torch

from lib.pruning.engine.graphs import Captured, GraphCache
from lib.study.cost import timing
from lib.study.cost.timing import Stopwatch, Timing, free_peak, machine, measure, ratio_interval


def test_timing_is_the_median_with_quartiles():
    assert Timing.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0, 1.0]).median == 1.5


def test_measure_discards_the_warm_up():
    calls = []

    def slow_at_first():
        calls.append(len(calls))
        time.sleep(0.2 if len(calls) <= 2 else 0.001)

    found = measure(slow_at_first, device="cpu", warmup=2, repeats=3)
    assert len(calls) == 5 and found.repeats == 3
    assert found.high < 0.15


def test_stopwatch_adds_spans():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            time.sleep(0.002)
    assert len(watch.seconds()) == 2 and min(watch.seconds()) >= 0.002


def test_the_machine_is_that_of_the_moment():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert machine()["threads"] == 1 and machine()["device"]
    finally:
        torch.set_num_threads(before)


def test_the_interval_of_a_median_ratio_covers_it_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = ratio_interval(generator.lognormal(0, 0.3, size=9))
        inside += low <= 1 <= high
    assert inside / 400 >= 0.93  # 96.1 % in theory, for nine rounds
    assert ratio_interval([0.9, 1.0, 1.1, 1.2, 0.8]) is None, "five rounds cannot promise 95 %"
    assert ratio_interval([1, 2, 3, 4, 5, 6]) == [1, 6]


def test_what_others_captured_is_forgotten_before_a_peak(monkeypatch):
    cache = GraphCache()
    cache._graphs["another method's choice"] = Captured(None, [], torch.zeros(1))
    monkeypatch.setattr(timing, "graphs", cache)
    free_peak(torch.device("cpu"))
    assert not cache
