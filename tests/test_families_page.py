"""`docs/families.md`: its snippets run on tiny models, its table is what the methods say."""

import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lib.pruning import available, support_markdown, support_table
from lib.pruning.families import supported
from lib.study import models
from lib.study.paths import ROOT
from lib.study.reports import docs, families_page
from tests.pruning.families.tiny import ALL
from tests.study.models.families import save

PAGE = (ROOT / "docs" / "families.md").read_text()
SNIPPETS = dict(re.findall(r"<!-- tested: (\w+) -->\n```python\n(.*?)```", PAGE, re.S))


def test_every_family_has_a_snippet_and_a_row():
    assert SNIPPETS.keys() == ALL.keys()
    for kind in supported():
        assert f"`{kind}`" in PAGE


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_run_as_they_stand(name, tmp_path, monkeypatch, capsys):
    code = SNIPPETS[name]
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    if '"embedded"' not in code:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = save(name, tmp_path / name)
        try:
            loaded = models.load(str(folder), device="cpu")
        except ValueError as error:  # SmolVLM's processor without torchvision, up to 5.17
            pytest.skip(str(error))
        monkeypatch.setattr(models, "load", lambda hub: loaded)
    with torch.inference_mode():
        exec(code, {"image": Image.fromarray(pixels)})
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[\d+(, \d+)*\]", said[-1])


def test_the_table_is_what_the_methods_say():
    """On tiny models with weights; what writes the page asks large ones without."""
    table = support_table([tiny.model() for tiny in ALL.values()])
    assert docs.filled(PAGE, families_page.blocks()) == PAGE, "run 'python -m lib report docs'"
    assert families_page.table() == support_markdown(table)
    assert list(table) == available()
    for name, row in table.items():
        for support in row.values():
            assert support.reason is None or len(support.reason) > 20, (name, support)
    assert all(support.reason is None for support in table["fastv"].values())
    assert {support.mark for support in table["tome"].values()} == {"✓", "–"}
    assert table["grid"]["Qwen2.5-VL"].mark == "o"


def test_the_page_must_have_its_marks():
    with pytest.raises(ValueError, match="no block between '<!-- support -->' and"):
        docs.filled("no table", {"support": "a table"})
