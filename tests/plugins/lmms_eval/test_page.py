"""`docs/lmms-eval.md`: its table is made from what lmms-eval writes, its arguments are there."""

import json
import re

from lib.plugins.lmms_eval import options
from lib.plugins.lmms_eval.model import _arguments
from lib.study.paths import ROOT

PAGE = (ROOT / "docs" / "lmms-eval.md").read_text(encoding="utf-8")


def write(folder, options, kept, accuracy):
    """Files as lmms-eval 0.7.3 writes them, cut to what the page reads."""
    folder.mkdir(parents=True)
    scores = {"alias": "pope", "pope_accuracy,none": accuracy, "pope_f1_score,none": 0.8}
    run = {
        "results": {"pope": scores},
        "config": {"model_args": f"pretrained=llava-hf/llava-1.5-7b-hf,{options}"},
    }
    (folder / "20261127_021805_results.json").write_text(json.dumps(run))
    counts = {"input_tokens": 600, "visual_tokens": 576, "kept_tokens": kept}
    # an answer from the cache has none
    lines = [json.dumps({"doc_id": n, "token_counts": [counts if n else None]}) for n in range(3)]
    (folder / "20261127_021805_samples_pope.jsonl").write_text("\n".join(lines) + "\n")


def test_the_table_is_made_from_the_results(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"<!-- tested: table -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    write(tmp_path / "results" / "0.25" / "llava", "method=entropy,keep=0.25", 144, 0.8512)
    write(tmp_path / "results" / "none" / "llava", "method=none", 576, 0.8634)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        "| method=entropy,keep=0.25 | 25.0% | 0.8512 | 0.8000 |",
        "| method=none | 100.0% | 0.8634 | 0.8000 |",
    ]


def test_the_arguments_of_the_page_are_there():
    rows = re.findall(r"^\| (`.*?) \| ", PAGE.split("## Arguments")[1].split("##")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"keep", "layer"}
    # these two are lmms-eval's own options
    assert named == set(_arguments()) - {"batch_size", "max_batch_size"}


def test_the_methods_of_the_commands_can_be_made():
    for given in re.findall(r"method=(\w+),keep=\$keep,layer=(\d)", PAGE):
        assert options.pruner(given[0], {"keep": 0.125, "layer": int(given[1])})
