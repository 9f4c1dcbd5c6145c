"""Durations counted in ranges."""

from __future__ import annotations

from cyrusext.runtime.histogram import Histogram


def test_a_value_is_counted_where_it_ends() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.add(value)
    assert histogram.cumulative() == [("0.1", 2), ("1", 3), ("+Inf", 4)]
    assert histogram.total == 7.65
