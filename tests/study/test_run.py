"""What a profile needs is computed once, resumed after a kill, and computed anew when stale."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib.selection import STRATEGIES
from lib.study import captioning, models, paths
from lib.study import run as study
from lib.study.records import canonical, read_records
from tests import tiny_study

PROFILES = sorted((paths.ROOT / "notebooks" / "profiles").glob("[a-z]*.yaml"))


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A root in which the tiny study has run."""
    folder = tiny_study.make_root(tmp_path_factory.mktemp("root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", folder)
        tiny_study.run()
    return folder


@pytest.fixture
def root(computed, tmp_path, monkeypatch):
    """A copy of that root, to be changed."""
    folder = tmp_path / "root"
    shutil.copytree(computed, folder)
    profile = folder / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text().replace(str(computed), str(folder)))
    monkeypatch.setattr(paths, "ROOT", folder)
    return folder


def counted(monkeypatch):
    """The slugs and numbers of images that are captioned from here on."""
    made = []
    original = captioning.caption_methods

    def spy(model, processor, images, pruners, folder, **options):
        before = {s: len(_records(folder / s)) for s in pruners}
        found = original(model, processor, images, pruners, folder, **options)
        made.extend((s, len(found[s]) - before[s]) for s in pruners if len(found[s]) > before[s])
        return found

    monkeypatch.setattr(captioning, "caption_methods", spy)
    return made


def _records(folder):
    return read_records(folder) if (folder / "records.jsonl").exists() else []


# ---- profiles


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_file_is_a_profile(path):
    profile = study.load_profile(path.stem)
    assert profile.profile == path.stem and profile.description
    assert profile.ablation_limit <= (profile.limit or profile.ablation_limit)


def test_the_default_profile_is_the_embedded_one():
    assert study.load_profile("embedded").model == "embedded"


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("kep: 0.5", "unknown entries 'kep'"),
        ("keep: 1.5", r"keep must be in \(0, 1\], got 1.5"),
        ("sweep: [0.5, 0]", "sweep must hold keep rates"),
        ("batch_size: 0", "batch_size must be at least 1"),
        ("profile: other", "must say 'profile: tiny', got 'other'"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(root, line, complaint):
    path = root / "notebooks" / "profiles" / "tiny.yaml"
    key = line.split(":")[0]
    kept = [text for text in path.read_text().splitlines() if not text.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(ValueError, match=complaint) as caught:
        study.load_profile("tiny")
    assert "tiny.yaml" in str(caught.value)


def test_an_unknown_profile_lists_the_known_ones(capsys):
    assert study.main(["--profile", "nope"]) == 1
    assert "no profile 'nope'; there are embedded" in capsys.readouterr().err


# ---- methods


def test_table_1_has_its_five_rows_and_the_registry_all_ablations():
    profile = study.load_profile("embedded")
    table = study.methods(profile)
    assert list(table)[:5] == ["unpruned", "random-50", "tome-50", "fastv-50", "entropy-50"]
    assert all(m.name is None or m.create().keep == 0.5 for m in table.values())


def test_ablations_vary_one_thing_at_a_time(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    profile = study.load_profile("tiny")
    table = study.ablations(profile, study._config(profile))
    groups = {group for method in table.values() for group in method.groups}
    assert groups == {"sweep", "clusters", "layers", "rollout", "weighting", "level", "strategy",
                      "place"}  # fmt: skip
    base = table["entropy-25"].create().options()
    for slug, method in table.items():
        if method.name == "entropy" and "sweep" not in method.groups:
            (group,) = method.groups
            changed = {k for k, v in method.create().options().items() if v != base[k]}
            allowed = {
                "clusters": {"n_clusters", "core_clusters", "tokens_per_cluster"},
                "layers": {"layers", "source", "layer"},
                "level": {"level", "count"},
                "place": {"layer"},
            }.get(group, {group})
            assert changed and changed <= allowed, slug
    rules = {m.groups["strategy"] for m in table.values() if "strategy" in m.groups}
    assert rules == set(STRATEGIES)
    settings = [json.dumps(m.create().options(), sort_keys=True) for m in table.values() if m.name]
    assert len(set(settings)) == len(settings), "two slugs name one setting"


# ---- the run


def test_everything_is_there_afterwards(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    scores = study.load_scores("tiny")
    assert scores["images"] == 3 and scores["ablation_images"] == 2
    for slug, row in scores["methods"].items():
        assert len(read_records(paths.results_dir("tiny") / "captions" / slug)) == 3
        assert set(row["values"]) == {"BLEU-4", "CIDEr", "SPICE", "Object F1"}
        assert 0 < row["kept"]["mean"] <= 1
    assert scores["methods"]["entropy-50"]["kept"]["mean"] == 0.5
    assert {(d["a"], d["b"]) for d in scores["differences"]} >= {("entropy-50", "fastv-50")}
    efficiency = study.load_efficiency("tiny")
    assert {row["slug"] for row in efficiency["rows"]} == set(scores["methods"])
    assert set(study.load_study("tiny")["seconds"]) == {"captions", "scores", "efficiency"}


def test_a_second_run_computes_nothing(root, monkeypatch):
    made = counted(monkeypatch)
    before = (paths.results_dir("tiny") / "scores.json").read_bytes()
    tiny_study.run()
    assert made == []
    assert (paths.results_dir("tiny") / "scores.json").read_bytes() == before


def test_a_stopped_run_continues_where_it_was(root, monkeypatch):
    path = paths.results_dir("tiny") / "captions" / "fastv-50" / "records.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:1]))
    shutil.rmtree(paths.results_dir("tiny") / "captions" / "tome-50")
    made = counted(monkeypatch)
    tiny_study.run()
    assert sorted(made) == [("fastv-50", 2), ("tome-50", 3)]
    now = [{k: v for k, v in r.items() if k != "seconds"} for r in read_records(path)]
    then = [json.loads(line) for line in whole.splitlines()]
    assert now == [{k: v for k, v in r.items() if k != "seconds"} for r in then]


def test_two_processes_make_the_same_captions(root, monkeypatch):
    folder = paths.results_dir("tiny")
    before = {p.parent.name: p.read_text() for p in folder.glob("*/*/records.jsonl")}
    shutil.rmtree(folder / "captions")
    shutil.rmtree(folder / "ablations")
    monkeypatch.setattr(study, "WORTH_SHARING", 1)
    tiny_study.run(workers=2, stages=("captions",))
    after = {p.parent.name: p.read_text() for p in folder.glob("*/*/records.jsonl")}
    assert before.keys() == after.keys() and not list(folder.rglob("records.rank-*"))
    for slug, text in before.items():
        rows = [[json.loads(line) for line in t.splitlines()] for t in (text, after[slug])]
        assert canonical(rows[0]) == canonical(rows[1]), slug


def test_launched_by_accelerate_processes_caption_their_share(root, monkeypatch):
    folder = paths.results_dir("tiny")
    before = {p.parent.name: read_records(p) for p in folder.glob("*/*/records.jsonl")}
    shutil.rmtree(folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert study.main(["--profile", "tiny", "--quiet", "--device", "cpu"]) == 0
        assert not (folder / "study.json").exists() and not (folder / "scores.json").exists()
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    made = counted(monkeypatch)
    assert study.main(["--profile", "tiny", "--quiet", "--device", "cpu"]) == 0
    assert made == [], "nothing is captioned twice"
    after = {p.parent.name: read_records(p) for p in folder.glob("*/*/records.jsonl")}
    assert before.keys() == after.keys()
    assert all(canonical(before[slug]) == canonical(after[slug]) for slug in before)


@pytest.mark.parametrize(
    "first, workers, others", [(0, 4, "123"), (1, 4, "230"), (0, 6, "12301"), (3, 1, "")]
)
def test_every_process_has_a_gpu_of_its_own(root, monkeypatch, first, workers, others):
    started = []

    class Process:
        def __init__(self, command, env, cwd):
            started.append((command, env))

        def wait(self):
            return 0

        def kill(self):
            pass

    monkeypatch.setattr(study.subprocess, "Popen", Process)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    loaded = SimpleNamespace(loaded=SimpleNamespace(model=SimpleNamespace()))
    loaded.loaded.model.device = torch.device("cuda", first)
    ran = []
    job = SimpleNamespace(run=lambda *_, **place: ran.append(place))
    study._share([job], study.load_profile("tiny"), loaded, workers, progress=False)
    assert ran == [{"rank": 0, "world_size": workers}], "this process does the first share"
    assert [env["LOCAL_RANK"] for _, env in started] == list(others)
    assert [int(env["RANK"]) for _, env in started] == list(range(1, workers))
    assert {env["WORLD_SIZE"] for _, env in started} <= {str(workers)}
    assert not any("--device" in command for command, _ in started), "a launched one finds its own"


def test_a_launched_process_takes_its_gpu(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert captioning.own_gpu() == "cuda:2" and current == ["cuda:2"]
    monkeypatch.delenv("LOCAL_RANK")
    assert captioning.own_gpu() == "cuda:0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert captioning.own_gpu() is None


@pytest.mark.parametrize(
    "gpus, device, spread, expected",
    [(4, None, None, 4), (4, "cuda", None, 4), (4, "cuda:1", None, 1), (4, None, "auto", 1),
     (4, "cpu", None, 2), (0, None, None, 2), (0, "cuda", None, 1)],
)  # fmt: skip
def test_captions_are_made_on_every_gpu(root, monkeypatch, gpus, device, spread, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(study.os, "cpu_count", lambda: 8)
    profile = replace(study.load_profile("tiny"), device_map=spread)
    assert study._default_workers(profile, device) == expected


def test_changed_code_or_weights_compute_everything_again(root, monkeypatch):
    made = counted(monkeypatch)
    monkeypatch.setattr(study, "code_digest", lambda: "another")
    tiny_study.run(stages=("captions",))
    profile = study.load_profile("tiny")
    everything = study.methods(profile) | study.ablations(profile, study._config(profile))
    assert {slug for slug, _ in made} == set(everything)


def test_records_of_methods_no_longer_studied_go(root):
    folder = paths.results_dir("tiny") / "captions"
    shutil.copytree(folder / "fastv-50", folder / "fastv-49")
    tiny_study.run(stages=("captions",))
    assert not (folder / "fastv-49").exists()


def test_comments_and_docstrings_are_no_code(tmp_path, monkeypatch):
    source = tmp_path / "lib"
    source.mkdir()
    monkeypatch.setattr(study.paths, "PACKAGE", source)
    digests = []
    for text in ('"""A."""\nx = 1', '"""B."""\nx = 1  # why', '"""B."""\nx = 2'):
        (source / "entropy.py").write_text(text)
        study.code_digest.cache_clear()
        digests.append(study.code_digest())
    study.code_digest.cache_clear()
    assert digests[0] == digests[1] != digests[2]


def test_the_code_that_counts_is_the_text_of_its_statements():
    source = '''"""A module."""

import math  # the library


class Box:
    """A box.

    Of several lines.
    """

    side = 2  # cm

    def name(self, sep="#"):
        """Its name."""
        return f"{self.side!r}{sep}{math.pi:#.3g}"
'''
    assert study._statements(source) == [
        "import math",
        "class Box:",
        "    side = 2",
        '    def name(self, sep="#"):',
        source.splitlines()[-1],
    ]


def test_fresh_computes_here_once_and_compares(root, monkeypatch):
    shipped = study.shipped_dir("tiny")
    made = counted(monkeypatch)
    document = tiny_study.run(fresh=True)
    assert (shipped / "scores.json").is_file() and len(made) > 20
    assert document["agreement"]["same"] == document["agreement"]["of"] > 60
    made.clear()
    tiny_study.run(fresh=True)
    assert made == []


def test_missing_results_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=embedded"):
        study.load_scores("embedded")


def test_missing_weights_are_one_line(root, capsys):
    shutil.rmtree(models.embedded_dir())
    shutil.rmtree(paths.results_dir("tiny"))
    assert study.main(["--profile", "tiny", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no model folder") and "Traceback" not in error


def test_the_command_line_runs_a_profile(root, capsys):
    assert study.main(["--profile", "tiny", "--quiet", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("tiny: captions")
    assert study.main(["--profile", "tiny", "--quiet", "--data-only"]) == 0
    assert "tiny: 3 images" in capsys.readouterr().out


def test_table_1_alone_captions_five_methods_and_a_whole_run_goes_on_from_them(root, monkeypatch):
    for folder in ("captions", "ablations"):
        shutil.rmtree(root / "data" / "results" / "tiny" / folder)
    made = counted(monkeypatch)
    text = study.table(study.load_profile("tiny"), device="cpu", progress=False)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "Unpruned", "RandomPrune", "ToMe", "FastV", "Entropy-Prune",
    ]  # fmt: skip
    assert "[" in rows[2] and "SPICE" in text
    five = {"unpruned", "random-50", "tome-50", "fastv-50", "entropy-50"}
    assert {slug for slug, _ in made} == five
    made.clear()
    tiny_study.run()
    assert made and not five & {slug for slug, _ in made}


def test_table_1_is_the_same_with_two_processes(root, monkeypatch, capsys):
    expected = study.table(study.load_profile("tiny"), device="cpu", progress=False)
    shutil.rmtree(root / "data" / "results" / "tiny" / "captions")
    monkeypatch.setattr(study, "WORTH_SHARING", 0)
    arguments = ["--profile", "tiny", "--table", "--quiet", "--device", "cpu", "--workers", "2"]
    assert study.main(arguments) == 0
    assert expected in capsys.readouterr().out
