"""Beats, on which the transactions of a process begin."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from headrace_streams.runtime.pace import BEATS, SHARE, Pace


def test_every_beat_is_one_of_the_shorter_ones_too() -> None:
    assert all(round(longer / shorter) * shorter == longer for shorter, longer in itertools.pairwise(BEATS))


@given(st.floats(1.7e9, 1.9e9), st.floats(0, 1))
def test_a_beat_is_a_moment_that_all_clocks_share(now: float, taken: float) -> None:
    pace = Pace(lambda: now)
    for _ in range(100):
        pace.took(taken)
    wait = pace.until_beat()
    assert 0 <= wait < pace.beat + 1e-6
    assert abs((now + wait) / pace.beat - round((now + wait) / pace.beat)) < 1e-4


def test_slow_transactions_make_beats_rare_and_quick_ones_frequent_again() -> None:
    pace = Pace(lambda: 0.0)
    assert pace.beat == BEATS[0]
    for _ in range(100):
        pace.took(BEATS[1] / SHARE)
    assert pace.beat == BEATS[1]
    for _ in range(100):
        pace.took(60.0)
    assert pace.beat == BEATS[-1]
    for _ in range(200):
        pace.took(0.001)
    assert pace.beat == BEATS[0]
