"""What a stretch of a pruned cache holds, sees and loses, against loops over its rows."""

import dataclasses
import weakref
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lib.pruning.engine.cache import PrunedState, Segment, cache_bytes, extend


@st.composite
def segments(draw):
    """A segment of two rows and what it was made of: places, hidden flags, tokens given later."""
    seen, later = draw(st.integers(1, 7)), draw(st.integers(0, 3))
    hides, whole = draw(st.booleans()), draw(st.booleans())
    rows = [[*range(seen)]] * 2
    if not whole:
        rows = [sorted(draw(st.sets(st.integers(0, seen - 1), min_size=1))) for _ in range(2)]
        width = max(map(len, rows))
        rows = [[-1] * (width - len(row)) + row for row in rows]
    hidden = [[hides and draw(st.booleans()) for _ in row] for row in rows]
    segment = Segment(
        2, seen, None if whole else torch.tensor(rows), any(-1 in row for row in rows),
        torch.tensor(hidden) if hides else None, torch.tensor([[seen - len(r)] for r in rows]),
    )  # fmt: skip
    return segment, rows, hidden, later


@settings(deadline=None)
@given(segments(), st.booleans(), st.randoms(use_true_random=False))
def test_a_key_is_seen_unless_it_fills_is_hidden_or_its_token_is_masked(made, masked, random):
    segment, rows, hidden, later = made
    held = len(rows[0])
    assert segment.held == held and segment.given(held + later) == segment.seen + later
    mask = [[random.random() < 0.7 for _ in range(segment.seen + later)] for _ in rows]
    found = segment.visible(held + later, torch.tensor(mask) if masked else None)
    want = [
        [place >= 0 and not h and (not masked or m[place]) for place, h in zip(row, hide)]
        + [not masked or m[segment.seen + more] for more in range(later)]
        for row, hide, m in zip(rows, hidden, mask)
    ]
    if found is None:
        assert all(map(all, want)), "None: all are"
    else:
        assert found.tolist() == want
    nothing_to_say = not masked and segment.hidden is None and not segment.filled
    assert (found is None) == nothing_to_say


@settings(deadline=None)
@given(segments(), st.integers(0, 7))
def test_a_cut_leaves_each_row_its_tokens_before_it(made, target):
    segment, rows, hidden, _ = made
    target = min(target, segment.seen)
    cut, index = segment.cut(target)
    assert cut.seen == target and cut.layer == segment.layer and cut.shift is segment.shift
    kept = [[(p, h) for p, h in zip(*row) if 0 <= p < target] for row in zip(rows, hidden)]
    width = max(map(len, kept))
    assert cut.held == width
    if segment.columns is None:
        assert index is None and cut.columns is None
        if segment.hidden is not None:
            assert cut.hidden.tolist() == [[h for _, h in row] for row in kept]
        return
    assert cut.columns.tolist() == [[-1] * (width - len(r)) + [p for p, _ in r] for r in kept]
    assert cut.filled == any(len(row) < width for row in kept)
    assert torch.equal(segment.columns.gather(1, index)[cut.columns >= 0],
                       cut.columns[cut.columns >= 0])  # fmt: skip
    if segment.hidden is not None:
        for own, row in zip(cut.hidden.tolist(), kept):
            assert own[width - len(row) :] == [h for _, h in row]


@settings(deadline=None)
@given(segments())
def test_rows_are_moved_in_all_that_has_rows(made):
    segment, *_ = made
    turned = segment.of_rows(lambda tensor: tensor.flip(0))
    for name in ("columns", "hidden", "shift"):
        before, after = getattr(segment, name), getattr(turned, name)
        assert (after is None) if before is None else torch.equal(after, before.flip(0))
    assert (turned.layer, turned.seen, turned.filled) == (2, segment.seen, segment.filled)
    state = PrunedState((segment, segment), weakref.ref(Segment))
    moved = state.of_rows(lambda tensor: tensor[:1])
    assert len(moved.segments) == 2 and moved.owner is state.owner
    assert all(len(own.shift) == 1 for own in moved.segments)


def test_a_layer_belongs_to_the_last_segment_that_begins_before_it():
    owner = weakref.ref(Segment)
    early, late = Segment(2, 5), Segment(4, 6)
    state = PrunedState((early, late), owner)
    assert [state.at(n) for n in range(6)] == [None, None, early, early, late, late]
    again = Segment(2, 9)
    later = extend(state, [again, Segment(3, 9)], owner)
    assert [(s.layer, s.seen) for s in later.segments] == [(2, 9), (3, 9), (4, 6)]
    assert later.owner is owner
    assert [s.layer for s in extend(None, [late, early], owner).segments] == [2, 4]


def test_what_copies_of_a_cache_share_cannot_be_changed():
    state = PrunedState((Segment(2, 5),), weakref.ref(Segment))
    for owner, name in ((state, "segments"), (state.segments[0], "seen")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, name, None)


def test_bytes_are_those_of_keys_and_values():
    full, half = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 1, 4, dtype=torch.float16)
    layers = [SimpleNamespace(keys=full, values=full), SimpleNamespace(keys=half, values=half),
              SimpleNamespace(keys=None, values=None)]  # fmt: skip
    assert cache_bytes(SimpleNamespace(layers=layers)) == [2 * 120 * 4, 2 * 24 * 2, 0]
