"""Forward decay: weights, effective size and running sums agree with their formulas and with each other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.decay import DAY_NS, RunningSum, effective_size, weight, weights

TIMES = st.lists(st.integers(0, 400 * DAY_NS), min_size=1, max_size=30)


def test_a_day_costs_lambda() -> None:
    assert weights([0, DAY_NS, 2 * DAY_NS], 0.95) == pytest.approx([0.95**2, 0.95, 1.0])
    assert weights([], 0.95) == []


def test_effective_size_of_equals_is_their_number_and_of_nothing_is_nothing() -> None:
    assert effective_size([0.3] * 7) == pytest.approx(7)
    assert effective_size([1.0, 0.0]) == pytest.approx(1)
    assert effective_size([]) == 0


@given(TIMES, st.integers(0, 4000))
def test_neither_normalised_weights_nor_effective_size_depend_on_when_one_looks(times: list[int], days: int) -> None:
    now = weights(times, 0.95)
    later = [value * weight(0.95, days * DAY_NS) for value in now]
    assert effective_size(now) == pytest.approx(effective_size(later))
    assert 1 - 1e-9 <= effective_size(now) <= len(times) + 1e-9


@given(TIMES, st.randoms(use_true_random=False))
def test_a_running_sum_is_the_sum_of_weights_in_any_order(times: list[int], random) -> None:  # type: ignore[no-untyped-def]
    random.shuffle(times)
    total = RunningSum()
    for time in times:
        total = total.add(time, 0.95)
    assert total.newest_ns == max(times)
    assert total.value == pytest.approx(math.fsum(weights(times, 0.95)))
    assert total.at(max(times) + DAY_NS, 0.95) == pytest.approx(total.value * 0.95)
