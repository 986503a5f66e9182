"""Among which members near-duplicates are looked for: ids and the bands of their sketches. Knows no text and no state key.

A NearIndex is a value, as state must be, and yet costs no copy for each member that comes: those of one line of changes share a
table that only grows, and each sees of it what was there when it was made. Whoever changes one that is not the newest of its line
(its step was given up, say) gets a table of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import nsmallest
from struct import Struct

import numpy as np

from headrace_processors.curate.near_duplicates import BANDS

VERIFIED = 16  # candidates of one text that are compared exactly, those with most equal bands first
MANY = 64  # equal bands, from which on they are counted by numpy
ROOM = 64  # members that a new table has room for
SPARSE = 64  # members that are gone, beyond as many as there are, until a table is made anew

_each = Struct(f"<{BANDS}Q").unpack
_STAYS = (1 << 63) - 1  # a version that no table comes to


class _Table:
    """The members of all versions, in the order in which they came, and the version from which on each is gone."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.newest = 0
        self.ids, self.rows = list(members), list(members.values())
        self.numbers = {example_id: number for number, example_id in enumerate(self.ids)}  # of those in the newest version
        self.gone = np.full(max(ROOM, 2 * len(members)), _STAYS)
        self.known = set(np.frombuffer(b"".join(self.rows), "<u8").tolist())  # every band of any member, in any version

    def grow(self) -> None:
        self.gone = np.concatenate((self.gone, np.full_like(self.gone, _STAYS)))


class NearIndex:
    """Members by id. Most texts have no band in common with any: that is asked of one set. For the others all rows are compared:
    they are as few as an open bucket may hold, and that costs less than sixteen tables."""

    __slots__ = ("_count", "_size", "_table", "_version")

    def __init__(self, members: Mapping[str, bytes] | None = None) -> None:
        self._take(_Table(members or {}))

    def _take(self, table: _Table) -> NearIndex:
        """The newest version of a table: how many members of all versions it has, and how many of this one."""
        self._table, self._version, self._size, self._count = table, table.newest, len(table.ids), len(table.numbers)
        return self

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NearIndex) and self.members() == other.members()

    __hash__ = None  # type: ignore[assignment]  # it is looked for by no one

    def __repr__(self) -> str:
        return f"NearIndex({self.members()})"

    def members(self) -> dict[str, bytes]:
        """The bands of each member by id, ascending."""
        table = self._table
        there = {table.ids[number]: number for number in (table.gone[: self._size] > self._version).nonzero()[0].tolist()}
        return {example_id: table.rows[there[example_id]] for example_id in sorted(there)}

    def add(self, example_id: str, bands: bytes) -> NearIndex:
        """With one member more, and the bands of its sketch."""
        table = self._own_table()
        number = len(table.ids)
        if number == len(table.gone):
            table.grow()
        table.known.update(_each(bands))
        table.ids.append(example_id)
        table.rows.append(bands)
        table.numbers[example_id] = number
        table.newest += 1
        return NearIndex.__new__(NearIndex)._take(table)

    def remove(self, example_id: str) -> NearIndex:
        """Without a member that is there."""
        table = self._own_table()
        table.newest += 1
        table.gone[table.numbers.pop(example_id)] = table.newest
        left = NearIndex.__new__(NearIndex)._take(table)
        return left if left._size <= 2 * left._count + SPARSE else NearIndex(left.members())

    def candidates(self, bands: bytes) -> list[str]:
        """Members that share a band, those that share most first, and of these by id."""
        table = self._table
        if table.known.isdisjoint(_each(bands)):
            return []
        rows = np.frombuffer(b"".join(table.rows[: self._size]), "<u8").reshape(-1, BANDS)
        shared = rows == np.frombuffer(bands, "<u8")
        if np.count_nonzero(shared) <= MANY:
            counts = dict(Counter(shared.nonzero()[0].tolist()))
        else:
            added = shared.sum(axis=1)
            added[table.gone[: self._size] <= self._version] = 0
            least = max(1, np.partition(added, -VERIFIED)[-VERIFIED]) if self._size > VERIFIED else 1
            best = (added >= least).nonzero()[0]
            counts = dict(zip(best.tolist(), added[best].tolist(), strict=True))
        there = [(-count, table.ids[number]) for number, count in counts.items() if table.gone[number] > self._version]
        return [example_id for _, example_id in nsmallest(VERIFIED, there)]

    def _own_table(self) -> _Table:
        """A table of which this is the newest version."""
        return self._table if self._table.newest == self._version else _Table(self.members())
