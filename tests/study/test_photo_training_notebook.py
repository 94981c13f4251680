"""The photograph model's training notebook, every line of it, in its smoke form."""

import json

import papermill
import pytest
import yaml
from PIL import Image

from lib.study import paths
from lib.study.data.scenes import captions, sample_scene
from lib.study.data.scenes import draw as draw_scene
from lib.study.models import photos
from lib.study.paths import ROOT
from lib.study.reports.kernel import KERNEL, ForkedKernel

from . import tiny_gguf

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("peft")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with generated pictures in Flickr8k's layout and a tiny language model."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # its output must not land in data/
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "build/train_photos_smoke"
    (folder / "flickr8k/images").mkdir(parents=True)
    (folder / "others").mkdir()
    images, texts = [], []
    for number in range(10):
        scene = sample_scene(number)
        said = captions(scene)[:5]
        texts += said
        picture = Image.fromarray(draw_scene(scene))
        if number == 9:
            picture.resize((150, 90)).save(folder / "others/wide.jpg")
            break
        picture.save(folder / f"flickr8k/images/{number}.jpg")
        split = ("train", "train", "val", "test")[number // 2 if number < 8 else 0]
        images.append({"filename": f"{number}.jpg", "split": split,
                       "sentences": [{"raw": text} for text in said]})  # fmt: skip
    (folder / "flickr8k/dataset_flickr8k.json").write_text(json.dumps({"images": images}))
    tiny_gguf.write(folder / "tiny.gguf", texts)
    return tmp_path


@pytest.mark.slow
def test_the_training_notebook_runs(home):
    parameters = yaml.safe_load((ROOT / "notebooks/profiles/91_smoke.yaml").read_text())
    assert not parameters["output"].startswith("data/")
    parameters["language"] = str(home / parameters["language"])
    papermill.execute_notebook(
        ROOT / "notebooks/91_train_photo_model.ipynb",
        home / "91.ipynb",
        parameters=parameters,
        cwd=ROOT,
        progress_bar=False,
        kernel_name=KERNEL,
        kernel_manager_class=ForkedKernel,
    )
    out = home / parameters["output"]
    rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {
        "distil", "joint", "photos", "photos-scores", "photos-again", "photos-mix",
        "photos-dropout", "photos-dropout-scores", "photos-dropout-again", "photos-dropout-mix",
    }  # fmt: skip
    said = json.loads((home / parameters["checkpoints"] / "captions.json").read_text())
    assert len(said) == 4 and all(len(each) == 2 for each in said.values())
    model, _ = photos.assemble(
        home / "build/train_photos_smoke/tiny.gguf", out / "tower.safetensors",
        out / "photos-dropout.safetensors", report=lambda message: None,
    )  # fmt: skip
    assert model.config.image_seq_length == 256
