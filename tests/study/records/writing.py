"""Records to write, and processes that write them."""

import random
import subprocess
import sys

from lib.study.records import RecordFolder


def record(i, **extra):
    return {"image_id": i, "caption": f"naïve café {i} \u2028", "seconds": random.random(), **extra}


def fill(folder, ids, *, rank=0, world_size=1, parameters=None, order=None):
    with RecordFolder(folder, parameters or {"a": 1}, rank=rank, world_size=world_size) as store:
        for i in ids:
            store.append([record(i)])
        return store.finish(order if order is not None else list(ids))


WRITER = """
import sys, time
from lib.study.records import RecordFolder
folder, rank, world_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with RecordFolder(folder, {"a": 1}, rank=rank, world_size=world_size) as store:
    for i in range(rank, 60, world_size):
        store.append([
            {"image_id": 4 * i + j, "caption": "x" * 5000, "seconds": time.time()} for j in range(4)
        ])
    store.finish(range(240))
"""


def writer(folder, rank=0, world_size=1):
    command = [sys.executable, "-c", WRITER, str(folder), str(rank), str(world_size)]
    return subprocess.Popen(command)
