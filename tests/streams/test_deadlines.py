"""Deadlines of state values: named when they have passed, never before, and not for ever. Examples and a plain model."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_streams.runtime.deadlines import Deadlines
from headrace_streams.runtime.stage import all_deadlines

RETRY_MS = 60


def own(key: str, value: Any) -> int | None:
    return value if isinstance(value, int) else None


def watching(state: dict[str, Any]) -> Deadlines:
    deadlines = Deadlines(own, RETRY_MS)
    deadlines.load(all_deadlines(own, state))
    return deadlines


def put(deadlines: Deadlines, state: dict[str, Any], **changes: Any) -> None:
    for key, value in changes.items():
        state.pop(key, None)
        if value is not None:
            state[key] = value
    deadlines.note(changes)


def test_keys_are_named_in_the_order_of_their_deadlines_and_in_portions() -> None:
    state: dict[str, Any] = {"c": 3, "a": 1, "d": 9, "b": 2, "text": "waits for nothing"}
    deadlines = watching(state)
    assert deadlines.earliest == 1
    assert deadlines.overdue(state, 0, 9) == []
    assert deadlines.overdue(state, 3, 2) == ["a", "b"]
    assert deadlines.overdue(state, 3, 2) == ["c"]
    assert deadlines.earliest == 9


def test_a_deadline_that_moves_on_or_goes_is_not_named() -> None:
    state: dict[str, Any] = {"a": 1, "b": 1, "c": 1}
    deadlines = watching(state)
    put(deadlines, state, a=5, b=None, c="nothing")
    assert deadlines.overdue(state, 4, 9) == []
    assert deadlines.overdue(state, 5, 9) == ["a"]


def test_a_deadline_that_comes_nearer_is_named_once() -> None:
    state: dict[str, Any] = {"a": 9}
    deadlines = watching(state)
    put(deadlines, state, a=4)
    assert deadlines.overdue(state, 4, 9) == ["a"]
    assert deadlines.overdue(state, 9, 9) == []


def test_a_key_that_was_named_is_named_again_only_when_what_was_written_is_folded_and_later() -> None:
    state: dict[str, Any] = {"a": 1}
    deadlines = watching(state)
    assert deadlines.overdue(state, 1, 9) == ["a"]
    assert deadlines.waiting
    put(deadlines, state, a=1)  # a record that leaves it as it was
    assert deadlines.overdue(state, 100, 9) == []
    deadlines.settle(100)
    assert not deadlines.waiting
    assert deadlines.overdue(state, 159, 9) == []
    assert deadlines.overdue(state, 160, 9) == ["a"]


def test_a_key_whose_deadline_moved_is_not_named_again_for_the_old_one() -> None:
    state: dict[str, Any] = {"a": 1, "b": 1}
    deadlines = watching(state)
    assert deadlines.overdue(state, 1, 9) == ["a", "b"]
    put(deadlines, state, a=5, b=None)
    deadlines.settle(2)
    assert deadlines.overdue(state, 500, 9) == ["a"]


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    state: dict[str, Any] = {}
    deadlines = watching(state)
    for number in range(10_000):
        put(deadlines, state, **{f"k{number}": 10**9 + number})
        put(deadlines, state, **{f"k{number}": None})
    assert len(deadlines._heap) <= 100
    assert deadlines.earliest is None


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=40))
def test_exactly_what_is_due_is_named(moves: list[tuple[str, int | None, int, bool]]) -> None:
    """Beside a model that looks at the whole state each time. Named keys are settled at once, so the retry is all that delays."""
    state: dict[str, Any] = {}
    deadlines, now = watching(state), 0
    retried: dict[str, tuple[int, int]] = {}  # key -> deadline that it was named with, when it may be named again
    for key, value, passed, look in moves:
        now += passed
        put(deadlines, state, **{key: value})
        if value is None or retried.get(key, (value,))[0] != value:
            retried.pop(key, None)
        if look:
            due = [(at, name) for name, at in all_deadlines(own, state).items() if at <= now]
            expected = {name for _, name in due if now >= retried.get(name, (0, 0))[1]}
            assert set(deadlines.overdue(state, now, 9)) == expected
            for name in expected:
                retried[name] = (state[name], now + RETRY_MS)
            deadlines.settle(now)


def test_a_derived_value_has_no_deadline() -> None:
    """It follows from others, which have theirs."""
    state: dict[str, Any] = {"~index": 1, "value": 2}
    deadlines = watching(state)
    put(deadlines, state, **{"~other": 1})
    assert deadlines.overdue(state, 100, 10) == ["value"]
