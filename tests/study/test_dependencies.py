"""Fingerprints of code: which folders count for what, and that words do not."""

import pytest

from lib.study import paths
from lib.study.dependencies import (
    captions_code,
    costs_code,
    population_code,
    scores_code,
    statements,
)

FILES = (
    "entropy.py", "selection/greedy.py", "kernels/gram.py", "kernels.py", "decoding.py",
    "decoding/static.py", "pruning/engine/cache.py", "plugins/lmms_eval/model.py",
    "study/models/loading.py",
    "study/data/coco.py", "study/captioning/loop.py", "study/evaluation/metrics.py",
    "study/cost/flops.py", "study/reports/tables.py", "study/cli/make.py", "study/run.py",
    "study/stages/scores.py", "study/stages/costs.py", "study/stages/captions.py",
    "study/stages/population.py", "study/inspection/states.py",
)  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('"""A module."""\n\nx = 1\n')
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    return tmp_path


def codes():
    return {
        "captions": captions_code("cpu"),
        "captions on a GPU": captions_code("cuda"),
        "population": population_code(),
        "scores": scores_code(),
        "costs": costs_code(),
    }


LIBRARY = {"captions", "captions on a GPU", "costs", "population"}
KERNELS = {"captions on a GPU", "costs"}
EXPECTED = {
    "entropy.py": LIBRARY,
    "selection/greedy.py": LIBRARY,
    "pruning/engine/cache.py": LIBRARY,
    "kernels/gram.py": KERNELS,
    "kernels.py": KERNELS,
    "decoding.py": {"costs"},
    "decoding/static.py": {"costs"},
    "plugins/lmms_eval/model.py": set(),
    "study/models/loading.py": LIBRARY,
    "study/data/coco.py": {"captions", "captions on a GPU", "scores", "population"},
    "study/captioning/loop.py": {"captions", "captions on a GPU", "population"},
    "study/evaluation/metrics.py": {"scores"},
    "study/cost/flops.py": {"costs"},
    "study/stages/scores.py": {"scores"},
    "study/stages/costs.py": {"costs"},
    "study/stages/population.py": {"population"},
    "study/inspection/states.py": {"population"},
    "study/stages/captions.py": set(),
    "study/reports/tables.py": set(),
    "study/cli/make.py": set(),
    "study/run.py": set(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_change_concerns_what_depends_on_its_folder(package, name):
    before = codes()
    (package / name).write_text('"""Other words."""\n\nx = 1  # why\n\n\n')
    assert codes() == before, "words decide nothing"
    (package / name).write_text('"""A module."""\n\nx = 2\n')
    assert {what for what, code in codes().items() if code != before[what]} == EXPECTED[name]


def test_a_file_that_comes_or_goes_is_a_change(package):
    before = codes()
    (package / "merging.py").write_text("x = 1\n")
    added = codes()
    assert {what for what in added if added[what] != before[what]} == LIBRARY
    (package / "merging.py").unlink()
    assert codes() == before


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

    async def wait(self): """Docstring beside its head."""; return 1
'''
    assert statements(source) == [
        "import math",
        "class Box:",
        "    side = 2",
        '    def name(self, sep="#"):',
        '        return f"{self.side!r}{sep}{math.pi:#.3g}"',
        "    async def wait(self): ; return 1",
    ]


def test_a_text_that_is_no_docstring_counts():
    assert statements('x = """a\nb"""\n') == ['x = """a', 'b"""']
    assert statements('def f():\n    return "#"  # no comment\n') == ["def f():", '    return "#"']
