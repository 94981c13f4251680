"""What a profile needs is computed once, resumed after a kill, and computed anew when stale."""

import dataclasses
import json
import shutil

import pytest

from lib.study import captioning, cli, models, paths, stored
from lib.study import run as study
from lib.study.cost import flops
from lib.study.evaluation import metrics
from lib.study.methods import methods, swept, table_1
from lib.study.profiles import load_profile
from lib.study.records import canonical, read_records
from lib.study.stages import captions, costs, divergence, population, scores, sharing
from tests import tiny_study


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A root in which the tiny study has run."""
    return tiny_study.computed_once(tmp_path_factory)


@pytest.fixture
def root(computed, tmp_path, monkeypatch):
    """A copy of that root, to be changed; what is read is the run."""
    folder = tiny_study.copied(computed, tmp_path / "root")
    monkeypatch.setattr(paths, "ROOT", folder)
    monkeypatch.setenv(paths.VARIABLE, paths.RUN)
    return folder


def results():
    return paths.run("tiny").results


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


def everything():
    profile = load_profile("tiny")
    return {**methods(profile), **swept(profile)}


def test_an_unknown_profile_lists_the_known_ones(capsys):
    assert cli.main(["study", "--profile", "nope"]) == 1
    assert "error: no profile 'nope'; there are embedded" in capsys.readouterr().err


def test_everything_is_there_afterwards_and_the_reference_is_not_touched(root):
    scored = stored.load_scores("tiny")
    assert scored["images"] == 3 and scored["ablation_images"] == 2
    for slug, row in scored["methods"].items():
        assert len(read_records(results() / "captions" / slug)) == 3
        assert set(row["values"]) == {"BLEU-4", "CIDEr", "SPICE", "Object F1"}
        assert 0 < row["kept"]["mean"] <= 1
    assert scored["methods"]["entropy-50"]["kept"]["mean"] == 0.5
    against = {(d["a"], d["b"]) for d in scored["comparisons"]["paper"]}
    assert against >= {("entropy-50", name) for name in ("random-50", "tome-50", "fastv-50")}
    same = {(e["a"], e["b"]): e for e in scored["equivalence"] if e["metric"] == "BLEU-4"}
    assert same["fastv-mask-50", "fastv-50"]["equivalent"] or not scored["margin"]
    assert scored["methods"]["entropy-layer2-50"]["kept"]["average"] == (2 * 36 + 2 * 18) / 4
    for name, images in (("table", 3), ("ablations", 2), ("places", 2)):
        rows = read_records(results() / "divergence" / name)
        manifest = json.loads((results() / "divergence" / name / "manifest.json").read_text())
        methods_read = manifest["parameters"]["methods"]
        assert len(rows) == images
        for row in rows:
            assert all(len(row[key]) == len(methods_read) for key in ("kl", "nll", "kept"))
    read = stored.load_divergence("tiny")
    assert read["table"]["methods"]["unpruned"]["values"]["divergence"] == 0
    assert read["table"]["images"] == 3 and read["places"]["images"] == 2
    efficiency = stored.load_efficiency("tiny")
    assert {row["slug"] for row in efficiency["rows"]} == set(scored["methods"])
    document = stored.load_study("tiny")
    assert set(document["seconds"]) == {
        "captions", "divergence", "scores", "population", "efficiency",
    }  # fmt: skip
    assert document["environment"]["device"] == "cpu" and document["environment"]["processor"]
    assert not (root / "data" / "results").exists() and not (root / "figures").exists()


def test_a_second_run_computes_nothing(root, monkeypatch):
    made = counted(monkeypatch)

    def stored_files():  # the profile in study.json names the folder of this copy
        files = (p for p in results().rglob("*") if p.is_file() and p.name != "study.json")
        return {p: p.read_bytes() for p in files}

    before = stored_files()
    tiny_study.run()
    assert made == [] and stored_files() == before


def test_a_stopped_run_continues_where_it_was(root, monkeypatch):
    path = results() / "captions" / "fastv-50" / "records.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:1]))
    shutil.rmtree(results() / "captions" / "tome-50")
    made = counted(monkeypatch)
    tiny_study.run()
    assert sorted(made) == [("fastv-50", 2), ("tome-50", 3)]
    then = [json.loads(line) for line in whole.splitlines()]
    assert canonical(read_records(path)) == canonical(then)


def test_changed_weights_caption_everything_again(root, monkeypatch):
    made = counted(monkeypatch)
    original = models.load

    def other(*args, **options):
        loaded = original(*args, **options)
        loaded.model.lm_head.weight.data[0, 0] += 1
        return loaded

    monkeypatch.setattr(models, "load", other)
    tiny_study.run(stages=("captions",))
    assert {slug for slug, _ in made} == set(everything())


def test_scoring_what_was_captioned_elsewhere_needs_no_model(root, monkeypatch):
    path, made = results() / "scores.json", stored.load_study("tiny")
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(models, "load", None)
    document = tiny_study.run(stages=("scores",))
    assert path.read_bytes() == before
    assert document["environment"] == made["environment"], "that of the machine that captioned"


# ---- what depends on what


def watch(monkeypatch):
    """Which stages do any work from here on."""
    did = []
    for name, module, function in (
        ("captions", captions, "make_captions"),
        ("divergence", divergence, "make_divergence"),
        ("scores", scores, "make_scores"),
        ("population", population, "make_population"),
        ("efficiency", costs, "make_costs"),
    ):
        original = getattr(module, function)

        def spy(run, name=name, original=original):
            worked = original(run)
            did.extend([name] if worked else [])
            return worked

        stage = dataclasses.replace(study.STAGES[name], make=spy)
        monkeypatch.setitem(study.STAGES, name, stage)
    return did


@pytest.fixture
def package(root, tmp_path, monkeypatch):
    """A copy of the package that the fingerprints read, so that code can change."""
    folder = tmp_path / "lib"
    skipped = shutil.ignore_patterns("__pycache__", "reports")
    shutil.copytree(paths.PACKAGE, folder, ignore=skipped)
    monkeypatch.setattr(paths, "PACKAGE", folder)
    return folder


def change(package, path, old, new):
    """Put `new` for `old` in the files below a path; there must be one."""
    files = sorted((package / path).rglob("*.py")) or [(package / path).with_suffix(".py")]
    files = [file for file in files if old in file.read_text()]
    assert files, f"{old!r} is nowhere in {path}"
    for file in files:
        file.write_text(file.read_text().replace(old, new, 1))


def test_another_interval_computes_scores_again_and_no_captions(root, package, monkeypatch):
    did = watch(monkeypatch)
    before = stored.load_scores("tiny")["methods"]["unpruned"]
    change(package, "study/evaluation", "[0.025, 0.975]", "[0.25, 0.75]")
    original = metrics.np.quantile
    monkeypatch.setattr(metrics.np, "quantile", lambda x, q, **k: original(x, [0.25, 0.75], **k))
    tiny_study.run()
    assert did == ["scores"]
    after = stored.load_scores("tiny")["methods"]["unpruned"]
    assert after["values"] == before["values"]
    for metric, narrow in after["intervals"].items():
        if narrow is not None:
            wide = before["intervals"][metric]
            assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert after["intervals"] != before["intervals"]
    did.clear()
    tiny_study.run()
    assert did == []


def test_another_count_of_operations_computes_the_costs_again(root, package, monkeypatch):
    did = watch(monkeypatch)
    change(package, "study/cost/flops", "4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m", "0.0")
    original = flops.layer_flops
    monkeypatch.setattr(flops, "layer_flops", lambda *a: 0.0 if a[-1] == "fastv" else original(*a))
    tiny_study.run()
    assert did == ["efficiency"]
    assert {row["flops"]["fastv"] for row in stored.load_efficiency("tiny")["rows"]} == {0.0}


def test_a_change_in_the_library_computes_captions_and_costs_again(root, package, monkeypatch):
    did, made = watch(monkeypatch), counted(monkeypatch)
    change(package, "rollout", '"""', '"""Other words. ')
    tiny_study.run()
    assert did == [], "a docstring decides nothing"
    change(package, "rollout", "import torch\n", "import torch\n\nOTHER = 1\n")
    tiny_study.run()
    # scores of equal records stay
    assert did == ["captions", "divergence", "population", "efficiency"]
    assert {slug for slug, _ in made} == set(everything())


def test_a_change_in_the_kernels_concerns_captions_made_on_a_gpu(root, package, monkeypatch):
    did = watch(monkeypatch)
    change(package, "kernels", "import torch\n", "import torch\n\nOTHER = 1\n")
    tiny_study.run(stages=("captions", "divergence"))
    assert did == [], "these were made on a CPU"


def test_another_way_to_measure_divergence_measures_it_again_and_makes_no_captions(
    root, package, monkeypatch
):
    did = watch(monkeypatch)
    change(package, "study/divergence/reader", "import torch\n", "import torch\n\nOTHER = 1\n")
    before = read_records(results() / "divergence" / "places")
    tiny_study.run()
    assert did == ["divergence"]
    assert read_records(results() / "divergence" / "places") == before


def test_records_of_methods_no_longer_studied_go(root):
    folder = results() / "captions"
    shutil.copytree(folder / "fastv-50", folder / "fastv-49")
    tiny_study.run(stages=("captions",))
    assert not (folder / "fastv-49").exists()


# ---- processes


def test_two_processes_make_the_same_captions(root, monkeypatch):
    before = {p.parent.name: read_records(p) for p in results().glob("*/*/records.jsonl")}
    for folder in ("captions", "ablations", "divergence"):
        shutil.rmtree(results() / folder)
    monkeypatch.setattr(sharing, "WORTH_SHARING", 1)
    tiny_study.run(workers=2, stages=("captions", "divergence"))
    after = {p.parent.name: read_records(p) for p in results().glob("*/*/records.jsonl")}
    assert before.keys() == after.keys() and not list(results().rglob("records.rank-*"))
    assert all(canonical(before[slug]) == canonical(after[slug]) for slug in before)


def test_launched_by_accelerate_processes_caption_their_share(root, monkeypatch):
    before = {p.parent.name: read_records(p) for p in results().glob("*/*/records.jsonl")}
    shutil.rmtree(results())
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["study", "--profile", "tiny", "--quiet", "--device", "cpu"]) == 0
        assert not (results() / "study.json").exists()
        assert not (results() / "scores.json").exists()
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    made = counted(monkeypatch)
    assert cli.main(["study", "--profile", "tiny", "--quiet", "--device", "cpu"]) == 0
    assert made == [], "nothing is captioned twice"
    after = {p.parent.name: read_records(p) for p in results().glob("*/*/records.jsonl")}
    assert before.keys() == after.keys()
    assert all(canonical(before[slug]) == canonical(after[slug]) for slug in before)


# ---- the command


def test_missing_results_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=embedded"):
        stored.load_scores("embedded")


def test_missing_weights_are_one_line(root, capsys):
    shutil.rmtree(models.embedded_dir())
    shutil.rmtree(results())
    assert cli.main(["study", "--profile", "tiny", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no model folder") and error.count("\n") == 1


def test_the_command_line_runs_a_profile(root, capsys):
    assert cli.main(["study", "--profile", "tiny", "--quiet", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny: captions") and "population" in said, "every stage, by default"
    assert cli.main(["data", "--profile", "tiny", "--quiet"]) == 0
    assert "tiny: 3 images" in capsys.readouterr().out
    assert cli.main(["study", "--profile", "tiny", "--stages", "score"]) == 1
    assert "unknown stage 'score'" in capsys.readouterr().err


def test_table_1_alone_captions_the_paper_s_rows_and_a_whole_run_goes_on_from_them(
    root, monkeypatch
):
    for folder in ("captions", "ablations"):
        shutil.rmtree(results() / folder)
    made = counted(monkeypatch)
    text = study.table(load_profile("tiny"), device="cpu", progress=False)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    names = [row.split("|")[1].strip() for row in rows[2:]]
    assert names[:4] == ["Unpruned", "RandomPrune", "ToMe", "FastV"]
    assert names[4:] == ["Entropy-Prune as printed", "Entropy-Prune"]
    assert "[" in rows[2] and "SPICE" in text
    paper = set(table_1(load_profile("tiny")))
    assert {slug for slug, _ in made} == paper
    made.clear()
    tiny_study.run()
    assert made and not paper & {slug for slug, _ in made}


def test_table_1_is_the_same_with_two_processes(root, monkeypatch, capsys):
    expected = study.table(load_profile("tiny"), device="cpu", progress=False)
    shutil.rmtree(results() / "captions")
    monkeypatch.setattr(sharing, "WORTH_SHARING", 0)
    how = ["--profile", "tiny", "--table", "--quiet", "--device", "cpu", "--workers", "2"]
    assert cli.main(["study", *how]) == 0
    assert expected in capsys.readouterr().out
