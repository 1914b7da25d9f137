"""Spans: merged, turned around, intersected, cut out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.data.spans import Span, complement, cut, intersection, merged, total_s


def spans(*pairs: tuple[float, float]) -> list[Span]:
    return [Span(*pair) for pair in pairs]


def test_merging_sorts_joins_what_touches_and_drops_what_is_empty() -> None:
    assert merged(spans((5, 6), (1, 2), (2, 3), (2.5, 2.7), (4, 4), (9, 8))) == spans((1, 3), (5, 6))


def test_spans_within_the_gap_become_one() -> None:
    assert merged(spans((0, 1), (1.2, 2), (2.5, 3)), gap_s=0.2) == spans((0, 2), (2.5, 3))


def test_complement_is_what_is_left_of_the_recording() -> None:
    assert complement(spans((1, 2), (4, 5)), 6) == spans((0, 1), (2, 4), (5, 6))
    assert complement([], 3) == spans((0, 3))
    assert complement(spans((-1, 1), (2, 9)), 3) == spans((1, 2))
    assert complement(spans((0, 3)), 3) == []
    assert complement(spans((5, 6)), 3) == spans((0, 3))


def test_intersection_is_what_lies_in_both() -> None:
    assert intersection(spans((0, 2), (3, 6)), spans((1, 4), (5, 9))) == spans((1, 2), (3, 4), (5, 6))
    assert intersection(spans((0, 1)), spans((1, 2))) == []


def test_overlaps_are_counted_once() -> None:
    assert total_s(spans((0, 2), (1, 3), (10, 10.5))) == pytest.approx(3.5)
    assert Span(1.5, 4).seconds == 2.5


def test_cutting_keeps_the_samples_inside_in_their_order() -> None:
    samples = np.arange(20, dtype=np.float32)
    np.testing.assert_array_equal(cut(samples, 10, spans((1.5, 9), (0.2, 0.4))), [2, 3, 15, 16, 17, 18, 19])
    assert cut(samples, 10, []).dtype == np.float32
    assert len(cut(samples, 10, [])) == 0


LISTS = st.lists(
    st.tuples(st.integers(-3, 30), st.integers(-3, 30)).map(lambda pair: Span(*map(float, pair))), max_size=8
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(LISTS, LISTS)
def test_they_agree_with_sets_of_whole_seconds(first: list[Span], second: list[Span]) -> None:
    def seconds(some: list[Span]) -> set[int]:
        return {second for span in some for second in range(int(span.start_s), int(span.end_s))}

    assert seconds(merged(first)) == seconds(first)
    assert seconds(complement(first, 20)) == set(range(20)) - seconds(first)
    assert seconds(intersection(first, second)) == seconds(first) & seconds(second)
    assert total_s(first) == len(seconds(first))
    joined = merged(first)
    assert all(one.end_s < two.start_s for one, two in pairwise(joined))
