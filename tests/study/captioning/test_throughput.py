"""Paces of several processes."""

from lib.study.captioning import Throughput


def test_paces_of_several_processes_add_up():
    whole = Throughput.together([Throughput(30, 10.0, 1.0), Throughput(20, 8.0, 3.0)])
    assert whole.entry() == {
        "captions": 50, "seconds": 10.0, "images_per_second": 5.0, "waiting_share": 0.2,
    }  # fmt: skip
    assert str(whole) == (
        "50 captions in 10.0 s: 5.0 images/s, 20.0% of the time waiting for prepared images"
    )
