"""Cost against the number of visual tokens, on a tiny model."""

import json

import pytest
import yaml

from lib.pruning import create
from lib.study import cli, paths
from lib.study.cost.growth import GROWING, resized
from lib.study.cost.prompts import random_prompts
from lib.study.models import load

SHORT = ["benchmark", "--profile", "tiny", "--repeats", "1", "--methods", "", "--batches", "1"]


def test_growth(tiny):
    tower = getattr(tiny.model.vision_tower, "vision_model", tiny.model.vision_tower)
    before = tower.embeddings
    assert cli.main([*SHORT, "--growth", "16,36,64"]) == 0
    document = json.loads((paths.run("tiny").results / "benchmark.json").read_text())
    rows = document["growth"]
    assert [(r["tokens"], r["method"]) for r in rows] == [
        (n, m) for n in (16, 36, 64) for m in GROWING
    ]
    for row in rows:
        assert (row["scorer_share"] > 0) == (row["method"] != "unpruned")
        assert row["kept"] == (1.0 if row["method"] == "unpruned" else 0.5)
    assert tiny.config.vision_config.image_size == 42
    assert tower.embeddings is before
    assert "rows" not in document


def test_a_number_of_tokens_that_is_no_square_is_refused(tiny, capsys):
    assert cli.main([*SHORT, "--growth", "50"]) == 1
    assert "must be a square, got 50" in capsys.readouterr().err


def test_the_scorer_of_a_growing_model_sees_every_token(tiny):
    with resized(tiny, 64), create("entropy")(tiny) as pruner:
        tiny(**random_prompts(tiny, 1))
    assert len(pruner.kept_masks[0]) == 64 and len(pruner.kept[0]) == 32


@pytest.mark.parametrize("name", ["qwen2_5-vl", "qwen3-vl"])
def test_the_command_of_qwens_profiles_with_a_tiny_shape(name, monkeypatch, tmp_path):
    """Their towers take images of any size as they are; the model is the profile's."""
    document = yaml.safe_load((paths.profiles_dir() / f"shape-{name}.yaml").read_text())
    assert (
        f"shape:{'qwen2.5-vl-7b' if name == 'qwen2_5-vl' else 'qwen3-vl-8b'}" == document["model"]
    )
    tiny = f"shape:tiny-{name.replace('_', '.')}"
    profile = tmp_path / "notebooks" / "profiles" / f"shape-{name}.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text(yaml.safe_dump(document | {"model": tiny}))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "embedded").symlink_to(paths.embedded_dir())
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    command = ["benchmark", "--profile", f"shape-{name}", "--methods", "", "--batches", "1"]
    assert cli.main([*command, "--growth", "16,64", "--repeats", "1", "--keep", "0.25"]) == 0
    path = paths.run(f"shape-{name}").results / "benchmark.json"
    record = json.loads(path.read_text())
    rows = record["growth"]
    assert record["model"] == tiny and record["machine"]["device"]
    assert [(r["tokens"], r["method"]) for r in rows] == [(n, m) for n in (16, 64) for m in GROWING]
    for row in rows:
        assert row["kept"] == (1.0 if row["method"] == "unpruned" else 0.25)
        assert (row["scorer_share"] > 0) == (row["method"] != "unpruned")
        assert row["static_prefill"]["median"] > 0 and "peak_bytes" in row
    model = load(tiny, device="cpu").model
    with pytest.raises(ValueError, match="must be a square, got 50"):
        random_prompts(model, 1, tokens=50)
