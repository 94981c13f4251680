"""The page of a run beside the reference says what differs, and nothing else."""

import re
import shutil

import pytest

from lib.study import paths
from lib.study.compare import compare_run
from lib.study.reports.comparison import comparison_page


def text(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.fixture
def published(root):
    """The run of the small study as the reference of itself."""
    shutil.copytree(paths.run("tiny").results, paths.reference("tiny").results)
    for place, content in ((paths.run("tiny"), b"new"), (paths.reference("tiny"), b"old")):
        place.figures.mkdir(parents=True, exist_ok=True)
        (place.figures / "same.png").write_bytes(b"one")
        (place.figures / "other.png").write_bytes(content)
    yield root
    shutil.rmtree(paths.reference("tiny").results)
    shutil.rmtree(paths.reference("tiny").figures)
    (paths.run_folder("tiny") / "comparison.json").unlink()


def test_a_run_like_the_reference_has_nothing_to_list(published):
    compare_run("tiny")
    page = comparison_page("tiny", paths.run("tiny").reports)
    said = text(page)
    assert "Every record is the published one." in said
    assert "All lie within the published intervals." in said
    assert re.search(r"(\d+) of \1 captions", said) and "transformers" in said
    # a figure that differs stands beside the published one
    reference = "../../../../figures/tiny/other.png"
    assert f'src="{reference}" alt="other as published"' in page
    assert 'src="../figures/other.png" alt="other of this run"' in page
    assert "same.png" not in page and "The same picture: same" in said


def test_what_differs_is_listed(published):
    records = paths.reference("tiny").results / "captions" / "fastv-50" / "records.jsonl"
    lines = records.read_text().splitlines()
    lines[0] = re.sub(r'"caption": "[^"]*"', '"caption": "something else"', lines[0])
    records.write_text("\n".join(lines) + "\n")
    scores = paths.reference("tiny").results / "scores.json"
    moved = re.sub(r'("BLEU-4":\s*)[\d.e-]+', r"\g<1>0.9", scores.read_text())
    moved = re.sub(r'("BLEU-4":\s*\[)[^\]]*\]', r"\g<1>0.8, 0.95]", moved)
    scores.write_text(moved)
    document = compare_run("tiny")
    page = comparison_page("tiny", paths.run("tiny").reports)
    (image,) = document["captions"]["folders"]["captions/fastv-50"]["differ"]
    assert f"captions/fastv-50</th><td>1: {image}</td>" in page
    said = text(page)
    assert "Outside the published interval" in said and "90.0 [80.0, 95.0]" in said.replace(
        "\xa0", " "
    ).replace("&nbsp;", " ")


def test_only_a_compared_run_has_the_page(bare, monkeypatch):
    assert comparison_page("tiny", bare) is None
    monkeypatch.setenv(paths.VARIABLE, paths.RUN)
    assert comparison_page("tiny", bare) is None
