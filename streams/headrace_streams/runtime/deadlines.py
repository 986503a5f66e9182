"""Which state values wait for time to pass, the earliest first. Knows a fold's `deadline`; reads no clock and writes nothing."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from headrace_streams.runtime.stage import DERIVED

_SLACK = 64  # entries that no longer count before the heap is made anew


class Deadlines:
    """A heap with one entry a state key that counts. An entry may come too early: it is looked at again when it comes up, so a
    deadline that moves on, as most do, costs nothing. All times are fold time in ms.

    Keys that `overdue` has named are not named again until `settle`, and then only `retry_ms` later unless their deadline
    changed: a fold that leaves a deadline where it was would otherwise be asked for ever."""

    def __init__(self, deadline: Callable[[str, Any], int | None], retry_ms: int) -> None:
        self._deadline, self._retry_ms = deadline, retry_ms
        self._heap: list[tuple[int, str]] = []
        self._at: dict[str, int] = {}  # when the entry of a key that counts comes up
        self._named: dict[str, int] = {}  # the deadline for which a key was named, as long as it has it
        self._unsettled: list[str] = []

    def load(self, deadlines: dict[str, int]) -> None:
        """Begins with those of a whole state by key, and takes them for its own."""
        self._at = deadlines
        self._named, self._unsettled = {}, []
        self._rebuild()

    def note(self, changes: Mapping[str, Any]) -> None:
        """Takes in state changes, `None` for a key that is gone."""
        deadline, named, ats = self._deadline, self._named, self._at
        for key, value in changes.items():
            if key.startswith(DERIVED):  # many of what curate changes, and not one of them has a deadline
                continue
            at = None if value is None else deadline(key, value)
            if named and named.get(key) != at:
                named.pop(key, None)
            if at is None:
                ats.pop(key, None)
            elif key not in named and at < ats.get(key, at + 1):
                self._push(key, at)

    @property
    def earliest(self) -> int | None:
        """No deadline is before that; None when nothing waits."""
        return self._heap[0][0] if self._at else None

    @property
    def waiting(self) -> bool:
        """Whether keys that were named have not been settled."""
        return bool(self._unsettled)

    def overdue(self, state: Mapping[str, Any], now: int, limit: int) -> list[str]:
        """Up to `limit` keys whose deadline is not after `now`, earliest first; they count as named."""
        keys: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(keys) < limit:
            at, key = heapq.heappop(self._heap)
            if self._at.get(key) != at:
                continue
            del self._at[key]
            deadline = self._deadline(key, state[key])
            if deadline is not None and deadline > now:
                self._push(key, deadline)
            elif deadline is not None:
                self._named[key] = deadline
                keys.append(key)
        self._unsettled += keys
        return keys

    def settle(self, now: int) -> None:
        """What was written for the named keys has been folded."""
        for key in self._unsettled:
            if key in self._named and key not in self._at:
                self._push(key, now + self._retry_ms)
        self._unsettled = []

    def _push(self, key: str, at: int) -> None:
        self._at[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(at, key) for key, at in self._at.items()]
        heapq.heapify(self._heap)
