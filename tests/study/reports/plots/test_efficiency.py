"""The curves and bars of the cost show every number they are given."""

import pandas as pd

from lib.study.reports.plots import efficiency


def points(ax):
    return sorted(
        (round(float(x), 6), round(float(y), 6))
        for line in ax.lines
        for x, y in zip(line.get_xdata(), line.get_ydata())
    )


def test_the_split_adds_up_to_the_whole():
    frame = pd.DataFrame(
        {"end to end (ms)": [100.0], "prefill (ms)": [40.0], "vision (ms)": [20.0],
         "scorer (ms)": [5.0]}, ["FastV"],
    )  # fmt: skip
    figure = efficiency.split(frame, tokens=8)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [20, 5, 15, 60] and sum(widths) == 100
    assert "decoding 8 tokens" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_the_split_on_the_fast_path_has_the_first_token_and_the_rest():
    frame = pd.DataFrame(
        {"end to end (ms)": [100.0], "prefill (ms)": [40.0], "vision (ms)": [20.0],
         "scorer (ms)": [5.0], "fast path, first token (ms)": [16.0],
         "fast path, end to end (ms)": [80.0]}, ["FastV"],
    )  # fmt: skip
    figure = efficiency.split(frame, tokens=8)
    assert [patch.get_width() for patch in figure.axes[0].patches] == [16, 64]
    assert "fast path" in figure.axes[0].get_xlabel()


def measured(label, batch, kept, first, **more):
    row = {
        "label": label,
        "batch": batch,
        "kept": kept,
        "static_prefill": first,
        "prefill": 2 * first,
    }
    for name in ("static_prefill", "prefill"):
        row |= {f"{name} low": row[name] - 1, f"{name} high": row[name] + 2}
    return row | more


def test_bars_show_both_paths_and_a_dash_where_nothing_was_measured():
    frame = pd.DataFrame(
        [measured("Unpruned", 1, 1.0, 20.0), measured("FastV", 1, 0.5, 10.0),
         measured("Unpruned", 8, 1.0, 120.0)]
    )  # fmt: skip
    figure = efficiency.bars(frame, [("prefill", "First token")])
    one, eight = figure.axes
    assert [bar.get_width() for bar in one.patches] == [40, 20, 20, 10]
    assert [text.get_text() for text in one.texts] == ["20.0", "10.0"]
    assert [text.get_text() for text in eight.texts] == ["120", "–"]
    assert one.get_title("left") == "First token, batch 1"
    assert [t.get_text() for t in one.get_yticklabels()] == ["Unpruned", "FastV"]
    (spans, _) = [c.get_segments() for c in one.collections]
    assert [tuple(span[:, 0]) for span in spans] == [(39, 42), (19, 22)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["generate", "fast path"]


def test_savings_are_drawn_against_the_kept_share():
    rows = [measured("Unpruned", 8, 1.0, 100.0, cache=4.0)]
    rows += [measured("ToMe", 8, k, 100 * k, cache=4 * k) for k in (0.5, 0.25)]
    fields = [("static_prefill", "ms"), ("cache", "GB")]
    left, right = efficiency.savings(pd.DataFrame(rows), fields).axes
    assert {(25.0, 25.0), (50.0, 50.0)} < set(points(left))
    assert {(25.0, 1.0), (50.0, 2.0), (0.0, 4.0), (1.0, 4.0)} == set(points(right))


def test_growth_shows_the_time_and_the_share_against_tokens_and_batch():
    grown = pd.DataFrame(
        [measured(m, b, 0.5, n * b / 10, tokens=n, **{"scorer share": s})
         for m, s in (("Unpruned", 0.0), ("Entropy-Prune", 2.0))
         for b in (1, 8) for n in (576, 144)]
    )  # fmt: skip
    batches = pd.DataFrame(
        [measured("Entropy-Prune", b, 0.5, 10.0 * b, **{"scorer share": 4.0}) for b in (8, 1)]
    )
    figure = efficiency.growth(grown, batches, limit=5)
    time, time_by_batch, share, share_by_batch = figure.axes
    assert points(time) == sorted(2 * [(n, n * b / 10) for n in (144, 576) for b in (1, 8)])
    assert points(time_by_batch) == [(1, 10), (8, 80)]
    assert points(share) == [(0, 5), (1, 5), *2 * [(144, 2)], *2 * [(576, 2)]]
    assert set(points(share_by_batch)) == {(0, 5), (1, 5), (1, 4), (8, 4)}
    assert {line.get_linestyle() for line in time.lines} == {"-", "--"}
    assert [t.get_text() for t in share.get_xticklabels()] == ["144", "576"]
    said = [t.get_text() for t in figure.legends[0].get_texts()]
    assert said == ["Unpruned", "Entropy-Prune", "batch 1", "batch 8", "5 %"]
    assert not list(efficiency.growth(grown, batches.iloc[:0]).axes[1].lines)


def test_nothing_measured_is_no_figure():
    empty = pd.DataFrame(columns=["label", "batch"])
    assert efficiency.bars(empty, []) is None and efficiency.savings(empty, []) is None
    assert efficiency.growth(empty, empty) is None
