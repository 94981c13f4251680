"""The `paper` profile end to end without the hub or COCO.

A local folder in the hub's file format stands in for LLaVA-1.5-7B and a loopback server for COCO:
the download, captions of all methods, scores, cost and every notebook, by papermill, run as they
would on a GPU machine, on a model of a few thousand parameters.
"""

import io
import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lib.study import cli, paths
from lib.study.data import COCO, download, scenes
from lib.study.paths import ROOT
from lib.study.records import read_records
from lib.study.reports import notebooks
from tests import tiny_study
from tests.loopback import Loopback, status

IMAGES = 16  # Figure 1 shows number 15
RUN = Path("build") / "reproduce" / "paper"


def karpathy_zip() -> bytes:
    """COCO's archive in small: Karpathy's JSON with COCO's folders, ids and file names."""
    images = []
    for index in range(IMAGES):
        scene = scenes.sample_scene(scenes.scene_seed("test", index))
        sentences = [
            {"raw": text, "sentid": 5 * index + i} for i, text in enumerate(scenes.captions(scene))
        ]
        name = f"COCO_val2014_{391895 + index:012d}.jpg"
        images.append({
            "split": "test", "filepath": "val2014", "filename": name, "cocoid": 391895 + index,
            "imgid": index, "sentids": [s["sentid"] for s in sentences], "sentences": sentences,
        })  # fmt: skip
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        bundle.writestr("dataset_coco.json", json.dumps({"dataset": "coco", "images": images}))
    return stream.getvalue()


def jpeg(index: int) -> bytes:
    stream = io.BytesIO()
    scene = scenes.draw(scenes.sample_scene(scenes.scene_seed("test", index)))
    Image.fromarray(scene).resize((320, 240)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A root in which the stand-in profile was downloaded and computed."""
    folder = tiny_study.make_root(tmp_path_factory.mktemp("paper"), image_size=98)
    for path in notebooks.notebooks():
        (folder / "notebooks" / path.name).symlink_to(path)
    stand_in = folder / "models" / "llava-1.5-7b-hf"
    shutil.copytree(folder / "data" / "embedded", stand_in)
    routes = {"/caption_datasets.zip": karpathy_zip()}
    for index in range(IMAGES):
        path = f"/val2014/COCO_val2014_{391895 + index:012d}.jpg"
        routes[path] = [status(503), jpeg(index)]  # the first answer is an error: it is retried
    # the JSON and the images lie apart, as where COCO is there already
    listing, images = folder / "karpathy" / "dataset_coco.json", folder / "coco"
    document = yaml.safe_load((ROOT / "notebooks" / "profiles" / "paper.yaml").read_text())
    document |= {
        "model": str(stand_in), "revision": None, "json_path": str(listing),
        "image_root": str(images), "limit": IMAGES, "batch_size": 16, "max_new_tokens": 2,
        "ablation_limit": 2, "sweep": [0.5], "metrics": ["BLEU-4", "CIDEr", "SPICE"],
        "n_bootstrap": 20, "efficiency": {"new_tokens": 2, "repeats": 1, "sweep": False},
    }  # fmt: skip
    (folder / "notebooks" / "profiles" / "paper.yaml").write_text(yaml.safe_dump(document))
    # networks are trained for it, on numbers that no profile changes
    known = Path("results", "figures", "dependence_known.npz")
    (folder / RUN / known).parent.mkdir(parents=True)
    shutil.copy(
        ROOT / "data" / "results" / "embedded" / "figures" / known.name, folder / RUN / known
    )
    with pytest.MonkeyPatch.context() as patch, Loopback(routes) as server:
        patch.setattr(paths, "ROOT", folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        archive = COCO.archive._replace(url=f"{server.url}/caption_datasets.zip", known_hash=None)
        mirror = replace(COCO, archive=archive, images_url=server.url)
        examples = download(mirror, image_root=images, json_path=listing, progress=False)
        assert len(examples) == IMAGES
        asked = ["reproduce", "--profile", "paper", "--device", "cpu", "--quiet"]
        assert cli.main(asked) == 0
    return folder


def test_every_method_captions_every_image(computed):
    folder = computed / RUN / "results" / "captions"
    slugs = {path.name for path in folder.iterdir()}
    assert {"unpruned", "random-50", "tome-50", "fastv-50", "entropy-50"} <= slugs
    for slug in slugs:
        records = read_records(folder / slug)
        assert [r["image_id"] for r in records] == [391895 + i for i in range(IMAGES)]


def test_table_1_and_all_figures_come_out(computed):
    figures = computed / RUN / "figures"
    table = (figures / "table1.md").read_text()
    assert "Entropy-Prune" in table and "not comparable" in table
    assert {"table1.csv", "table1.tex"} <= {path.name for path in figures.iterdir()}
    drawn = {path.stem for path in figures.glob("*.png")}
    assert drawn == {path.stem for path in figures.glob("*.json")}
    assert "figure1_maps" in drawn - {path.stem for path in figures.glob("*.svg")}
    assert drawn == {
        "walkthrough_budgets", "figure1_attention", "figure1_maps", "figure2_clusters",
        "figure3_rollout", "figure3_inversion", "figure3_attention", "figure4_cluster_scores",
        "figure5_similarity", "dependence_known", "dependence_pairs",
        "table1_differences", "ablation_keep_rate", "ablation_keep_rate_objects",
        "ablation_choices", "ablation_averages", "ablation_places", "ablation_divergence",
        "efficiency_split",
    }  # fmt: skip


def test_every_notebook_ran_and_the_score_was_held_against_the_published_one(computed):
    names = [path.name for path in notebooks.notebooks()]
    assert len(names) > 9
    assert {path.name for path in (computed / RUN / "notebooks").iterdir()} == set(names)
    assert {path.stem for path in (computed / RUN / "reports").glob("*.html")} == {
        "index", "comparison", *(Path(name).stem for name in names)
    }  # fmt: skip
    said = (computed / RUN / "notebooks" / "06_table1.ipynb").read_text()
    assert re.search(r"unpruned CIDEr \d+\.\d; expected 108 to 110 .* off by -1\d\d", said)


def test_the_report_says_what_it_shows_without_paths_of_the_machine(computed):
    index = (computed / RUN / "reports" / "index.html").read_text()
    assert str(computed) not in index  # the parameters of a notebook may name the user's folders
    assert "llava-1.5-7b-hf, image of dataset_coco.json, number 15, 1 image" in index
    assert "random weights" not in index
