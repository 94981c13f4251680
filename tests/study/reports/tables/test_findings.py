"""The sentences hold the record's numbers."""

from lib.study.reports.tables.findings import findings
from tests.study.reports.tables.records import record, timing


def test_the_findings_are_computed_from_the_record():
    made = record()
    said = "\n".join(findings(made, keep=0.5))
    assert "within 20.0 % of the median" in said
    assert "64 tokens in 140 ms against 560 ms through generate, 4.0 times faster" in said
    assert "a further token in 0.5 ms against 1.5 ms" in said
    assert "at batch 8, Entropy-Prune, the scorer included: 80 ms to 40 ms, 2.00 times" in said
    assert "Scorer of Entropy-Prune: 0.10 at batch 1, 0.10 at batch 8 (ms an image)" in said
    # 0.8 of 42 ms, 0.1 of 7 and of 57.6 and of 14.4 ms
    assert "at most 1.9 % of the time to the first token (batch 8)" in said
    assert "0.50 ms, by its definition 3,000 ms: 6,000 times faster" in said
    assert "float32, 1 method, 128 tokens each: every one the same" in said
    assert "in bfloat16, as timed: 25 to 50 %" in said
    made["growth"][1]["scorer"] = timing(7.2)
    made["agreement"][0]["same"] = 0.5
    said = "\n".join(findings(made, keep=0.5))
    assert "at most 50.0 % of the time to the first token (144 visual tokens, batch 1)" in said
    assert "the same but for Entropy-Prune 50.0 %" in said
