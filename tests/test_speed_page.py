"""The speed page: its tables are those of the stored measurements."""

import json
import re

from lib.study.paths import ROOT
from lib.study.reports.tables import catalogue

PAGE = (ROOT / "docs" / "speed.md").read_text()
RESULTS = ROOT / "data" / "results" / "shape"
METHODS = ("unpruned", "random", "tome", "fastv", "entropy", "entropy-layer2", "entropy-token",
           "adaptive")  # fmt: skip


def cells(name):
    """The rows of the table between two markers."""
    block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, re.S)[1]
    return [[c.strip() for c in line.split("|")[1:-1]] for line in block.splitlines()[2:]]


def ms(row, field, digits=1):
    return f"{1e3 * row[field]['median']:,.{digits}f}" if field in row else "–"


def test_the_speed_table_is_the_stored_one():
    record = json.loads((RESULTS / "benchmark.json").read_text())
    rows = [r for r in record["rows"] if r["new_tokens"] == 64]
    rows = {(row["method"], row["batch"]): row for row in rows}
    shown = cells("speed")
    assert len(shown) == len(METHODS)
    assert all(rows[name, batch]["compiled"] for name in METHODS for batch in (1, 8, 32))
    for (label, *found), name in zip(shown, METHODS):
        first = rows[name, 1]
        assert found == [
            "–" if name == "unpruned" else ms(first, "scorer", 2),
            *(ms(rows.get((name, batch), {}), "static_prefill") for batch in (1, 8, 32)),
            ms(first, "static_decode", 2),
            ms(first, "end_to_end", 0),
            ms(first, "static_end_to_end", 0),
            f"{first['cache_bytes'] / 1e6:.0f}",
        ], label


def test_the_scaling_table_is_the_stored_one():
    record = json.loads((RESULTS / "scaling.json").read_text())
    assert record["machine"]["device"] == "NVIDIA H200"
    shown = cells("scaling")
    assert len(shown) == len(record["rows"])
    assert [row["same_records"] for row in record["rows"]] == [None, True, True, True]
    for found, row in zip(shown, record["rows"]):
        assert row["captions"] == 1792 and not row["fast"]
        assert found[0].split(",")[0] == str(row["processes"])
        assert found[1:] == [
            f"{row['images_per_second']:.2f}",
            f"{row['gain']:.2f}",
            f"{100 * row['waiting_share']:.1f} %",
        ]


def test_captioning_on_the_fast_path_is_the_stored_one():
    record = json.loads((RESULTS / "captioning.json").read_text())
    assert record["machine"]["device"] == "NVIDIA H200"
    alone = [row for row in record["rows"] if row["processes"] == 1]
    alone.sort(key=lambda row: row["images_per_second"])  # of several runs the fastest
    rows = {(row["method"], row["batch_size"], row["fast"]): row for row in alone}
    twice = [row for row in alone if row["same_records"] is not None]
    assert all(row["same_records"] for row in twice), "the page says so"
    assert {(row["method"], row["fast"]) for row in twice} >= {("entropy", True)}
    names = {"Unpruned": "unpruned", "Entropy-Prune": "entropy"}
    places = [(names[label], int(size)) for label, size, *_ in cells("captioning")]
    assert places == [*(("unpruned", n) for n in (16, 32, 64)), ("entropy", 32), ("entropy", 64)]
    for place, (_, _, *found) in zip(places, cells("captioning")):
        plain, fast = (rows[*place, way] for way in (False, True))
        for pace, shown in (
            ("images_per_second", found[:3]),
            ("middle_images_per_second", found[3:]),
        ):
            times = fast[pace] / plain[pace]
            assert shown == [f"{number:.2f}" for number in (plain[pace], fast[pace], times)]
        assert plain["captions"] == fast["captions"] == 512


def test_the_growth_is_the_stored_one():
    record = json.loads((RESULTS / "benchmark.json").read_text())
    first = {
        (row["method"], row["tokens"]): row["static_prefill"]["median"]
        for row in record["growth"]
        if row["batch"] == 1
    }
    rules = json.loads((RESULTS / "choices.json").read_text())["choices"]
    alone = {
        (row["rule"], row["tokens"]): row["seconds"]["median"]
        for row in rules
        if row["batch"] == 1 and row["kept"] == row["tokens"] // 2
    }
    shown = cells("growth")
    assert [found[0] for found in shown] == ["144", "576", "1,296", "2,304", "4,096", "9,216"]
    for tokens, unpruned, fastv, *ours in shown:
        count = int(tokens.replace(",", ""))
        assert [unpruned, fastv] == [f"{1e3 * first[n, count]:.1f}" for n in ("unpruned", "fastv")]
        names = ("entropy", "Entropy-Prune"), ("adaptive", "Entropy + coverage")
        for found, (method, rule) in zip(ours, names):
            if (method, count) not in first:
                assert found == "–" and count == 9216
                continue
            seconds = first[method, count]
            share = 100 * alone[rule, count] / seconds
            assert found == f"{1e3 * seconds:.1f} ({share:.1f} %)"


def test_the_study_on_four_gpus_is_stored():
    record = json.loads((RESULTS / "study_on_4_gpus.json").read_text())
    assert record["processes"] == 4 and record["images"] == 128
    assert f"captions in {record['seconds']['captions']:.0f} s" in PAGE
    assert f"times in {record['seconds']['efficiency']:.0f} s" in PAGE


def test_the_first_tokens_in_turn_are_the_stored_ones():
    record = json.loads((RESULTS / "benchmark.json").read_text())
    keys = ("method", "batch", "against", "way", "layer")
    rows = {tuple(row.get(key) for key in keys): row["ratio"] for row in record["first_token"]}

    def ratios(*places):
        found = [rows[place] for place in places]
        return [f"{one['median']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in found]

    named = ("random", "entropy", "selection", "weighted", "unpruned")
    for (label, *found), name in zip(cells("first-token"), named, strict=True):
        places = [(name, batch, "fastv", "captured", 2) for batch in (1, 8, 32)]
        assert found == ratios(*places), label
    named = ("fastv", *named[:-1])
    for (label, *found), name in zip(cells("plainly"), named, strict=True):
        places = [(name, 1, "unpruned", way, 2) for way in ("plain", "step")]
        assert found == ratios(*places), label


def test_the_table_of_qwens_shapes_is_the_stored_one():
    records = [
        json.loads((RESULTS.parent / f"shape-{name}-vl" / "benchmark.json").read_text())
        for name in ("qwen2_5", "qwen3")
    ]
    rows = [row for record in records for row in record["growth"]]
    assert all(record["machine"]["device"] == "NVIDIA H200" for record in records)
    shown = cells("qwen")
    assert len(shown) == len(rows)
    for found, row in zip(shown, rows):
        assert found[1] == f"{row['tokens']:,}"
        assert found[3:] == [
            ms(row, "static_prefill"), ms(row, "scorer", 2), f"{row['peak_bytes'] / 1e9:.1f}",
        ]  # fmt: skip


def test_the_catalogue_tells_what_its_runs_take_on_the_shape():
    record = json.loads((RESULTS / "benchmark.json").read_text())
    ratios = {row["method"]: row for row in record["first_token"] if row.get("catalogue")}
    shown = catalogue.times("photos")["7B on a GPU, % of unpruned"]
    assert shown["VisionZip"].startswith(
        f"{100 * ratios['visionzip-a22']['ratio']['median']:.1f} ["
    )
    assert (shown != "–").all()
    plainly = [row["method"] for row in ratios.values() if not row["replayed"]]
    assert plainly == [f"head-entropy-a{share}" for share in (33, 22, 11)]
    assert shown.index[shown.str.endswith("(plainly)")].tolist() == ["HeadEntropy"]


def test_what_the_page_calls_fused_is():
    record = json.loads((RESULTS / "benchmark.json").read_text())
    in_turn = [row for row in record["first_token"] if not row.get("catalogue")]
    captured = [row for row in in_turn if row["way"] == "captured"]
    assert {row["layer"] for row in in_turn} == {2}
    assert all(row["compiled"] for row in captured + record["growth"] + record["step"])


def test_the_page_quotes_what_was_compared_with_random_tokens():
    record = json.loads((RESULTS / "benchmark.json").read_text())
    keys = ("method", "against", "batch", "way", "layer")
    rows = {tuple(row.get(key) for key in keys): row for row in record["first_token"]}
    text = " ".join(PAGE.split())
    for batch in (1, 8, 32):
        found = rows["entropy", "random", batch, "captured", 2]["ratio"]
        assert f"{found['median']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in text
    entropy, unpruned = (rows[n, "fastv", 1, "captured", 2] for n in ("entropy", "unpruned"))
    assert f"the unpruned first token comes after {ms(unpruned, 'seconds')} ms" in text
    ours, fastv = (ms(entropy, part, 2) for part in ("seconds", "baseline"))
    assert f"first token comes at {ours} ms, FastV's at {fastv}" in text
