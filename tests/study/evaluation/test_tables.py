"""A table shows intervals, dashes and why there is a dash."""

from lib.study.evaluation import METRICS, format_table, score_many
from tests.study.evaluation.corpora import corpus


def test_the_table_shows_intervals_dashes_and_reasons(scored, monkeypatch):
    *_, results = scored
    table = format_table(results, digits=2)
    assert list(table.index) == ["good", "poor"] and list(table.columns) == list(METRICS)
    low, high = results["good"].intervals["CIDEr"]
    expected = f"{100 * results['good'].values['CIDEr']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    assert table.loc["good", "CIDEr"] == expected
    fractions = format_table(results, scale=1, digits=3, metrics=["BLEU-4"])
    assert fractions.loc["poor", "BLEU-4"].startswith(f"{results['poor'].values['BLEU-4']:.3f} [")
    without = score_many(
        {"a": corpus(3)[1]["good"]}, corpus(3)[0], n_bootstrap=0, metrics=["BLEU-1"]
    )["a"]
    monkeypatch.setitem(without.values, "SPICE", None)
    monkeypatch.setitem(without.reasons, "SPICE", "no CoreNLP: `make spice`")
    text = format_table({"a": without}, markdown=True)
    head, line, row = text.splitlines()[:3]
    assert [cell.strip() for cell in head.split("|")] == ["", "Method", "BLEU-1", "SPICE", ""]
    assert set(line) <= set("|:-")
    value = f"{100 * without.values['BLEU-1']:.1f}"
    assert [cell.strip() for cell in row.split("|")] == ["", "a", value, "–", ""]
    assert text.endswith("– SPICE: no CoreNLP: `make spice`\n")
