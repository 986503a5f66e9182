"""Waits grow up to a bound, and begin anew when it went well."""

from __future__ import annotations

import asyncio

import pytest

from headrace_streams.backoff import Backoff


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []

    async def sleep(duration: float) -> None:
        seconds.append(duration)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


def wait(growing: Backoff, times: int) -> None:
    async def main() -> None:
        for _ in range(times):
            await growing.wait()

    asyncio.run(main())


def test_each_wait_is_twice_the_one_before_up_to_the_longest(waits: list[float]) -> None:
    wait(Backoff(0.5, 3.0), 5)
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_success_begins_anew_and_a_floor_holds_once(waits: list[float]) -> None:
    growing = Backoff(0.5, 3.0)
    wait(growing, 2)
    growing.reset()
    growing.at_least(2.0)
    wait(growing, 2)
    assert waits == [0.5, 1.0, 2.0, 3.0]


def test_the_spread_keeps_within_its_share_and_differs(waits: list[float]) -> None:
    growing = Backoff(1.0, 1.0, spread=0.5)
    wait(growing, 200)
    assert all(0.5 <= seconds <= 1.5 for seconds in waits)
    assert len(set(waits)) > 100
