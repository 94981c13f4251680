"""Notebooks become reports whole or not at all, and pages need nothing from elsewhere."""

import json
import os
import re
import shutil
import stat
import subprocess

import nbformat
import pytest

from lib.study import paths
from lib.study import run as study
from lib.study.reports import plots, report, tables
from tests import tiny_study

PROFILES = paths.ROOT / "notebooks" / "profiles"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def notebook(path, *sources, tags=()):
    """A notebook of code cells; `tags` mark the first one."""
    cells = [nbformat.v4.new_markdown_cell("# Trial — a *small* one")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    cells[1].metadata["tags"] = list(tags)
    document = nbformat.v4.new_notebook(cells=cells)
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, path)
    return path


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    folder = tiny_study.make_root(tmp_path_factory.mktemp("root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", folder)
        tiny_study.run()
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty root with a profile."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "tiny.yaml").write_text(
        "profile: tiny\ndescription: of a test\nkeep: 0.25\n"
    )
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


# ---- running


def test_a_notebook_runs_with_the_profile_and_leaves_no_trace_of_the_machine(root):
    source = notebook(
        root / "notebooks" / "01_trial.ipynb",
        'profile = "embedded"\nkeep = 0.5',
        "import sys\nprint(profile, keep)\nprint('noise', file=sys.stderr)",
        tags=["parameters"],
    )
    output = report.run(source, "tiny", progress=False)
    assert output == root / "reports" / "tiny" / "01_trial.ipynb"
    document = nbformat.read(output, as_version=4)
    assert document.cells[-1].outputs[0].text == "tiny 0.25\n"
    assert document.metadata.papermill.parameters == {"profile": "tiny", "keep": 0.25}
    assert str(root) not in output.read_text() and "noise" not in json.dumps(
        [cell.get("outputs") for cell in document.cells]
    )
    assert os.listdir(output.parent) == ["01_trial.ipynb"]


def test_a_failing_notebook_names_itself_its_cell_and_the_log(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    source = notebook(
        root / "notebooks" / "02_trial.ipynb", 'profile = "x"', "print('so far')",
        "\nkept = 3\nraise KeyError(kept)", "print('never')", tags=["parameters"],
    )  # fmt: skip
    folder = root / "reports" / "tiny"
    folder.mkdir(parents=True)
    for old in ("02_trial.ipynb", "02_trial.html", "index.html", "01_other.ipynb"):
        (folder / old).write_text("of an earlier run")
    assert report.main(["--quiet", "run", str(source), "--profile", "tiny"]) == 1
    error = capsys.readouterr().err
    assert "error: 02_trial.ipynb failed in cell " in error
    assert "'kept = 3'" in error and "KeyError: 3" in error
    assert "log: build/logs/tiny/02_trial.log" in error
    assert os.listdir(folder) == ["01_other.ipynb"], "nothing may look finished"
    log = (root / "build" / "logs" / "tiny" / "02_trial.log").read_text()
    assert "raise KeyError(kept)" in log and "KeyError" in log.splitlines()[-1]
    stopped = nbformat.read(root / "build" / "logs" / "tiny" / "02_trial.ipynb", as_version=4)
    assert "so far" in json.dumps(stopped.cells)
    # the cell number is the one a reader of the stopped notebook counts, the banner aside
    number = int(re.search(r"in cell (\d+)", error)[1])
    cells = [c for c in stopped.cells if "papermill-error" not in str(c.metadata.get("tags"))]
    assert "raise KeyError" in cells[number - 1].source


def test_a_missing_notebook_and_an_unknown_profile_are_one_line(root, capsys):
    assert report.main(["--quiet", "run", str(root / "none.ipynb"), "--profile", "tiny"]) == 1
    assert "none.ipynb" in capsys.readouterr().err
    source = notebook(root / "notebooks" / "01_trial.ipynb", "1")
    assert report.main(["--quiet", "run", str(source), "--profile", "tyni"]) == 1
    assert "no profile 'tyni'; there are tiny" in capsys.readouterr().err


def test_in_place_execution_changes_the_file_only_on_success(root):
    good = notebook(root / "notebooks" / "01_good.ipynb", "a = 1", "print(a)")
    report.update(good, progress=False)
    cells = nbformat.read(good, as_version=4).cells
    assert [c.execution_count for c in cells[1:]] == [1, 2] and cells[2].outputs[0].text == "1\n"
    bad = notebook(root / "notebooks" / "02_bad.ipynb", "print(1)", "1 / 0")
    before = bad.read_bytes()
    with pytest.raises(report.NotebookFailed, match=r"02_bad.ipynb failed in cell 3 \('1 / 0'\)"):
        report.update(bad, progress=False)
    assert bad.read_bytes() == before


def test_figures_are_drawn_without_a_kernel(root):
    notebook(
        root / "notebooks" / "01_draws.ipynb", 'profile = "embedded"\nkeep = 1',
        "import matplotlib.pyplot as plt\nfrom lib.study.reports import plots\nfig, ax = plt.subplots()\n"
        "plots.save(fig, f'figure1_{keep}'.replace('.', ''), profile, caption='C.', alt='A.')",
        tags=["parameters"],
    )  # fmt: skip
    report.draw("tiny", progress=False)
    assert {p.name for p in paths.figures_dir("tiny").iterdir()} == {
        "figure1_025.png", "figure1_025.svg", "figure1_025.json",
    }  # fmt: skip
    notebook(root / "notebooks" / "02_fails.ipynb", "x = 1", "undefined_name")
    with pytest.raises(report.NotebookFailed, match=r"02_fails.ipynb failed in cell 3"):
        report.draw("tiny", progress=False)


# ---- pages


def foreign(page):
    """Everything a page would load from elsewhere."""
    loads = re.findall(r"<(?:script|link|iframe|object|embed)\b[^>]*>", page)
    sources = re.findall(r"""(?:\bsrc|@import|url\()\s*=?\s*["'(]?([^"')\s>]+)""", page)
    return loads + [s for s in sources if not s.startswith("data:")]


def executed(path):
    document = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Trial\n\nWords."),
            nbformat.v4.new_markdown_cell("## The *map*"),
            nbformat.v4.new_code_cell(
                "x = '<b>'",
                outputs=[
                    nbformat.v4.new_output("display_data", {"image/png": PIXEL}),
                    nbformat.v4.new_output(
                        "display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": "own"}}
                    ),
                    nbformat.v4.new_output(
                        "display_data", {report.WIDGET: {"model_id": "a"}, "text/plain": "Slider()"}
                    ),
                    nbformat.v4.new_output(
                        "execute_result", {"text/html": "<table><tr><td>1</td></tr></table>"}
                    ),
                ],
            ),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, path)
    return path


def test_intervals_stay_whole_and_sentences_are_set_as_text():
    sentence = "A large white moon, a purple circle and a red star."
    body = f"<td>81.0 [78.6, 83.4]</td><td>{sentence}</td><td>1, 2</td><p>[1, 2]</p>"
    page = report.page("Title", body)
    assert "<td>81.0 [78.6,&nbsp;83.4]</td>" in page
    assert f'<td class="wrap">{sentence}</td>' in page
    assert "<td>1, 2</td><p>[1, 2]</p>" in page


def test_a_page_stands_alone_fits_a_phone_and_speaks(root):
    page = report.render(executed(root / "reports" / "tiny" / "01_trial.ipynb"), profile="tiny")
    assert foreign(page) == []
    assert '<meta name="viewport" content="width=device-width' in page
    assert "<title>Trial</title>" in page and '<html lang="en">' in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == 2 and all('alt="' in image for image in images)
    assert 'alt="Picture in “The map”"' in images[0] and 'alt="own"' in images[1]
    assert "Slider()" not in page and "Controls move in JupyterLab" in page
    assert '<div class="scroll"><table>' in page
    assert "<b>'" not in page.split("<body>")[1].replace("<b>", "", 0) or "&lt;b&gt;" in page


def test_html_needs_executed_notebooks(root, capsys):
    assert report.main(["html", "--profile", "tiny"]) == 1
    assert "make reproduce PROFILE=tiny" in capsys.readouterr().err


def test_the_index_shows_table_figures_differences_and_timings(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    import matplotlib.pyplot as plt

    for name in ("ablation_a", "figure1_b"):
        fig, _ = plt.subplots()
        plots.save(fig, name, "tiny", caption=f"Caption <{name}>.", alt=f'Alt "{name}".')
    executed(paths.reports_dir("tiny") / "01_trial.ipynb")
    written = report.write_pages("tiny")
    assert [p.name for p in written] == ["01_trial.html", "index.html"]
    page = written[-1].read_text()
    assert foreign(page) == []
    text = re.sub(r"<[^>]+>", " ", page)
    for part in ("Table 1", "Entropy-Prune", "37.52", "What differs from the paper", "captions",
                 "Environment and timings", "transformers", "SPICE"):  # fmt: skip
        assert part in text, part
    assert page.index('id="figure1_b"') < page.index('id="ablation_a"')
    assert "Caption &lt;figure1_b&gt;." in page and "Alt &quot;figure1_b&quot;." in page
    assert 'href="01_trial.html"' in page and str(computed) not in page


def test_table_1_is_written_three_ways_and_the_paper_stays_apart(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    files = tables.write_table1("tiny")
    csv, paper = files["table1.csv"].read_text(), files["table1_paper.csv"].read_text()
    assert "entropy-50" in csv and "37.52" not in csv and "37.52" in paper
    assert files["table1.tex"].read_text().count(r"\begin{tabular}") == 4
    markdown = files["table1.md"].read_text()
    assert "The paper" in markdown and "– SPICE: " in markdown
    frame = tables.numbers("tiny")
    scores = study.load_scores("tiny")["methods"]["fastv-50"]
    assert frame.loc["fastv-50", "BLEU-4"] == round(100 * scores["values"]["BLEU-4"], 2)


def test_tables_say_what_they_lack(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    with pytest.raises(ValueError, match="no ablation 'colour'; there are clusters, layers"):
        tables.ablation("tiny", "colour")
    assert tables.interval(None, None) == "–"
    assert tables.benchmark_record("tiny") == {}
    assert tables.ablation("tiny", "rollout").index[0] == "scaled (I + H/L)"


@pytest.mark.parametrize(
    "cider, verdict",
    [
        (1.092, "unpruned CIDEr 109.2; expected 108 to 110"),
        (1.0796, "Verdict: inside"),
        (1.10, "Verdict: inside"),
        (1.104, "Verdict: off by +0.4: check prompt, precision, image processor, references"),
        (0.998, "Verdict: off by -8.2: check prompt"),
        (None, "cannot be checked: CIDEr is not among"),
    ],
)
def test_the_unpruned_score_is_held_against_the_published_one(root, cider, verdict):
    folder = paths.results_dir("paper")
    folder.mkdir(parents=True)
    document = {"methods": {"unpruned": {"values": {"BLEU-4": 0.3, "CIDEr": cider}}}}
    (folder / "scores.json").write_text(json.dumps(document))
    shutil.copy(PROFILES / "paper.yaml", root / "notebooks" / "profiles")
    assert verdict in tables.credibility("paper")
    assert "99.8" in tables.credibility("paper") or cider is None


@pytest.mark.parametrize("name", ["embedded", "shape"])
def test_other_models_are_not_held_against_it(root, name):
    shutil.copy(PROFILES / f"{name}.yaml", root / "notebooks" / "profiles")
    assert tables.credibility(name).startswith("does not apply")


def test_other_data_are_not_held_against_it(root):
    text = (PROFILES / "paper.yaml").read_text().replace("profile: paper", "profile: other")
    other = root / "notebooks" / "profiles" / "other.yaml"
    for line in ("split: val", "json_path: mine.json"):
        other.write_text(text.replace("split: test", "") + f"{line}\n")
        assert tables.credibility("other").startswith("does not apply")


def test_every_table_of_the_notebooks_holds_the_stored_numbers(computed, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", computed)
    stored = study.load_scores("tiny")
    gaps = tables.losses("tiny", metric="BLEU-4")
    assert len(gaps) == len(stored["methods"]) - 1 and (gaps["low"] <= gaps["high"]).all()
    assert tables.differences("tiny").shape == (len(stored["differences"]), 3)
    groups = tables.ablation_numbers("tiny", metric="BLEU-4")
    assert "where it prunes" in groups and (groups["rollout"].iloc[0] == 0).all()
    assert tables.describe(groups["rollout"], "BLEU-4").count(" to ") == 3
    bill, shares = tables.cost("tiny"), tables.flops_ratios("tiny")
    assert list(bill.index) == list(shares.index) and (shares.loc["Unpruned"] == 100).all()
    assert bill.loc["FastV", "full count"] < bill.loc["Unpruned", "full count"]
    with_vision = shares["with vision and scorer"]
    assert with_vision["ToMe"] < with_vision["RandomPrune"], "ToMe spares the tower work, too"
    ratios = tables.ratios("tiny")
    assert ratios.loc["ToMe", "latency, paper"] == 73.6 and "FLOPs, ours" in ratios
    sweep = tables.sweep("tiny")
    assert [name for name, _ in tables.axes(sweep)] == ["kept", "GFLOPs", "ms"]
    assert tables.budgets(sweep, "BLEU-4").loc["Unpruned", "50 %"] == "–"
    assert "RandomPrune: " in tables.describe_sweep(sweep, "BLEU-4")
    assert "Unpruned" in tables.describe_split(bill)


# ---- the root of nbval


def test_the_reference_holds_what_came_with_the_checkout(computed, tmp_path, monkeypatch):
    folder = tmp_path / "root"
    shutil.copytree(computed, folder)
    monkeypatch.setattr(paths, "ROOT", folder)
    made = report.reference_root(tmp_path / "nbval")
    results = made / "data" / "results" / "tiny"
    assert results.resolve() == paths.results_dir("tiny").resolve()
    (paths.results_dir("tiny") / "benchmark.json").write_text("{}")
    study.set_aside("tiny")
    # what the study does not compute stays where it was
    assert [path.name for path in paths.results_dir("tiny").iterdir()] == ["benchmark.json"]
    (paths.results_dir("tiny") / "study.json").write_text("{}")
    report.reference_root(tmp_path / "nbval")
    assert results.resolve() == study.shipped_dir("tiny").resolve()
    assert (made / "notebooks" / "profiles" / "tiny.yaml").is_file()
    assert not (made / "figures").exists()


# ---- make

STUB = """#!/usr/bin/env python3
import pathlib, sys
with open("calls", "a") as file:
    print(*sys.argv[2:], file=file)
match sys.argv[1:]:
    case ["-m", "lib.study.reports.report", "run", notebook, "--profile", profile]:
        out = pathlib.Path("reports", profile, pathlib.Path(notebook).name)
        if pathlib.Path("fail").exists() and out.stem in pathlib.Path("fail").read_text():
            sys.exit(f"error: {out.name} failed")
        (out.parent / "index.html").unlink(missing_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("")
    case ["-m", "lib.study.reports.report", "page", notebook, *_]:
        pathlib.Path(notebook).with_suffix(".html").write_text("")
    case ["-m", "lib.study.reports.report", "index", "--profile", profile]:
        pathlib.Path("reports", profile, "index.html").write_text("")
"""


@pytest.fixture
def checkout(tmp_path):
    """The Makefile with a Python that only notes what it is asked for."""
    repository = paths.Path(report.__file__).parents[3]
    shutil.copy(repository / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml", "lib/study/reports/plots.py",
    "lib/study/reports/figures.py",
                 "notebooks/01_a.ipynb", "notebooks/02_b.ipynb", "notebooks/90_train.ipynb",
                 "notebooks/profiles/embedded.yaml"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for path in (repository / "lib").rglob("*.py"):
        copy = tmp_path / path.relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    (tmp_path / ".venv" / ".ready").write_text("")
    return tmp_path


def make(folder, *arguments, fails=False):
    """What `make` asked Python for."""
    (folder / "calls").write_text("")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert "jobserver" not in done.stderr
    return sorted((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize("jobs", [(), ("-j2",)], ids=["plain", "-j2"])
def test_make_reruns_what_was_touched_and_nothing_else(checkout, jobs):
    run = "lib.study.reports.report run notebooks/{}.ipynb --profile embedded"
    turn = "lib.study.reports.report page reports/embedded/{}.ipynb --profile embedded"
    index = "lib.study.reports.report index --profile embedded"
    calls = make(checkout, *jobs, "reproduce")
    both = [*map(run.format, ("01_a", "02_b")), *map(turn.format, ("01_a", "02_b"))]
    assert calls == sorted(["lib.study.run --profile embedded --fresh", *both, index])
    assert make(checkout, *jobs, "reproduce") == []


def test_make_touching_one_notebook_runs_one(checkout):
    make(checkout, "reproduce")
    now = os.stat(checkout / "reports/embedded/index.html").st_mtime
    ages = {
        "*": 400,
        "reports/*/*.ipynb": 300,
        "reports/*/*.html": 200,
        "reports/*/index.html": 100,
    }
    for pattern, age in ages.items():  # as if all of it had happened a while ago
        for path in checkout.rglob(pattern):
            os.utime(path, (now - age, now - age))
    assert make(checkout, "reproduce") == []
    (checkout / "notebooks" / "02_b.ipynb").touch()
    assert make(checkout, "reproduce") == [
        "lib.study.reports.report index --profile embedded",
        "lib.study.reports.report page reports/embedded/02_b.ipynb --profile embedded",
        "lib.study.reports.report run notebooks/02_b.ipynb --profile embedded",
    ]


def test_make_stops_at_a_failed_notebook_and_continues_later(checkout):
    (checkout / "fail").write_text("02_b")
    make(checkout, "reproduce", fails=True)
    assert not (checkout / "reports/embedded/index.html").exists()
    (checkout / "fail").unlink()
    calls = make(checkout, "reproduce")
    assert not any("lib.study.run" in call for call in calls)
    assert (checkout / "reports/embedded/index.html").exists()


def test_make_runs_the_notebooks_a_profile_names(checkout):
    (checkout / "notebooks/profiles/few.yaml").write_text('profile: few\nnotebooks: "02"\n')
    calls = make(checkout, "reproduce", "PROFILE=few")
    assert [c for c in calls if " run " in c] == [
        "lib.study.reports.report run notebooks/02_b.ipynb --profile few"
    ]


def test_make_names_the_profiles_it_knows(checkout):
    done = subprocess.run(
        ["make", "reproduce", "PROFILE=nope"], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode and "No profile 'nope': there are embedded" in done.stderr
