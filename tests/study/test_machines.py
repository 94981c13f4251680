"""What two machines found on the same images is counted by hand here."""

import json

import numpy as np
import pytest

from lib.study import cli, paths
from lib.study.files import write_json
from lib.study.machines import OTHER_MACHINE, keep_comparison
from lib.study.records import MANIFEST, PUBLISHED, packed_records
from tests.study import places

CAPTIONS = ["a red star", "a dog", "two cats"]


@pytest.fixture
def both(tmp_path, monkeypatch):
    places.root(tmp_path, monkeypatch)
    places.fill(paths.reference("smoke"), CAPTIONS, seconds=False)
    places.fill(paths.run("smoke"), ["a red star", "a cat", "two cats"])
    run, reference = paths.run("smoke").results, paths.reference("smoke").results
    study = json.loads((run / "study.json").read_text())
    write_json(run / "study.json", {**study, "environment": {"device": "cpu"}, "seconds": {"a": 2}})
    kl = {"unpruned": 0.0, "x": 0.2, "y": 0.5}
    rows = [{"image_id": i, "kl": [v * (i + 1) for v in kl.values()]} for i in range(3)]
    # the other machine has two of the images, and the methods in another order without one
    values = {"y": [0.55, 1.0], "x": [0.2, 0.3]}
    fewer = [{"image_id": i, "kl": [values["y"][i], values["x"][i]]} for i in range(2)]
    for place, records, names in ((reference, rows, list(kl)), (run, fewer, ["y", "x"])):
        folder = place / "divergence" / "table"
        folder.mkdir(parents=True)
        (folder / PUBLISHED).write_bytes(packed_records(records))
        parameters = {"methods": {name: {} for name in names}}
        write_json(folder / MANIFEST, {"parameters": parameters, "runs": []})
    return reference, run


def test_captions_and_divergences_of_the_same_images(both, capsys):
    reference, _ = both
    assert cli.main(["compare", "--profile", "smoke", "--keep"]) == 0
    assert capsys.readouterr().out.strip().endswith(OTHER_MACHINE)
    found = json.loads((reference / OTHER_MACHINE).read_text())
    assert found["seconds"] == {"a": 2} and found["made"]["run"]["device"] == "cpu"
    counts = found["captions"].values()
    assert counts and all(one == {"same": 2, "of": 3} for one in counts)
    # x: 0.2 -> 0.2, 0.4 -> 0.3; y: 0.5 -> 0.55, 1.0 -> 1.0
    gaps = [0.0, 0.25, 0.1, 0.0]
    means = [abs(0.25 - 0.3) / 0.3, abs(0.775 - 0.75) / 0.75]
    assert found["divergence"]["table"] == {
        "methods": 2, "images": 2, "median": pytest.approx(np.median(gaps), rel=1e-2),
        "largest": pytest.approx(0.25, rel=1e-2),
        "largest_mean": pytest.approx(max(means), rel=1e-2),
    }  # fmt: skip


def test_a_run_of_a_gpu_is_refused(both):
    _, run = both
    write_json(run / "study.json", {"environment": {"device": "NVIDIA H200"}, "seconds": {}})
    with pytest.raises(ValueError, match="made on 'NVIDIA H200', not on a CPU: run 'python -m lib"):
        keep_comparison("smoke")
