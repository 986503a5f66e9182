"""Records that were accepted but not yet acknowledged by a broker, in one SQLite file. Knows bytes and order, no Kafka.

What `append` returned for is on disk (WAL, `synchronous=FULL`). Appends of several threads that wait at the same time share one
commit, so one fsync. Any number of processes may append to one file; one at a time sends from it, and when that one goes, however
it goes, another takes over. WAL needs a local disk: no network file system.

What waits is for one deployment on one broker, and nobody sends it elsewhere by mistake: the file says whom it is for.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from headrace_streams.outbox.database import Database, OutboxError, OutboxFull, join

__all__ = ["MAX_BYTES", "MAX_ROWS", "Destination", "Entry", "Outbox", "OutboxError", "OutboxFull", "Refusal"]

MAX_BYTES = 1 << 30
MAX_ROWS = 1_000_000
CLEAR_SECONDS = 60.0


class Destination(NamedTuple):
    """Whom records are for. Two are the same when the deployment is and the brokers' addresses have one in common."""

    deployment: str
    bootstrap: str

    def __str__(self) -> str:
        return f"{self.deployment} at {self.bootstrap}"

    def is_same_as(self, name: str) -> bool:
        deployment, _, bootstrap = name.partition(" at ")
        brokers = ({server.strip() for server in servers.split(",")} for servers in (self.bootstrap, bootstrap))
        return deployment == self.deployment and not set.isdisjoint(*brokers)


class Entry(NamedTuple):
    """One record on its way. `topic` is the short name; `seq` grows with every append and is never used again."""

    seq: int
    topic: str
    key: bytes
    value: bytes

    @property
    def size(self) -> int:
        return len(self.key) + len(self.value)


class Refusal(NamedTuple):
    """A record that the broker refuses for good, and what it said."""

    entry: Entry
    error: str


class Outbox:
    """`path` None keeps everything in memory: the same behaviour without the disk, for whoever can lose what is not flushed.

    Threads may share one; several on one file share what is under them. `destination` None asks nobody whom the file is for.
    A file that holds records for another destination raises OutboxError, unless `rebind` says that they are for this one now.
    OutboxError too when `path` can't be opened or is another kind of file.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        max_bytes: int = MAX_BYTES,
        max_rows: int = MAX_ROWS,
        destination: Destination | None = None,
        rebind: bool = False,
    ) -> None:
        self.path = None if path is None else Path(path).absolute()
        self._max_bytes, self._max_rows = max_bytes, max_rows
        self._destination = destination
        self._bound_to: str | None = None  # what the file says, as long as that is us
        self._closed = False
        self._clears_at = 0.0  # by the monotonic clock
        self._database = join(self.path, self)
        try:
            self._bind(rebind)
        except BaseException:
            self.close()
            raise

    def _bind(self, rebind: bool) -> None:
        if self._destination is None:
            return
        with self._reading() as database:
            name = database.bound_to()
        if name is not None and self._destination.is_same_as(name):
            return

        def work() -> None:
            database, name = self._database, self._database.destination
            holds = database.entries + int(database.connection.execute("SELECT count(*) FROM refused").fetchone()[0])
            if name is not None and holds and not rebind:
                self._check(name)
            database.bind(str(self._destination))

        self._commit(work)

    def _check(self, name: str | None) -> None:
        """Raises OutboxError when the file, by what it says, is for somebody else (by now: an empty one can be bound anew)."""
        if self._destination is None or name is None or name == self._bound_to:
            return
        if not self._destination.is_same_as(name):
            raise OutboxError(
                f"outbox {self._name} holds records for {name}, not for {self._destination}: "
                "take another file, or say that they shall go there (rebind_outbox=True, `headrace publish --rebind`)"
            )
        self._bound_to = name

    @property
    def _name(self) -> str:
        return self._database.name

    def append(self, topic: str, key: bytes, value: bytes) -> int:
        """The entry's `seq`, once it is on disk. OutboxFull or OutboxError: it was not accepted."""
        database = self._database
        if not self._closed and database.lock.acquire(blocking=False):
            try:
                known = database.destination == self._bound_to and self._takes(len(key) + len(value))
                seq = database.add_alone(topic, key, value) if known else None
            finally:
                database.lock.release()
            if seq is not None:
                return seq

        return int(self._commit(lambda: self._add(topic, key, value)))

    def append_all(self, records: Iterable[tuple[str, bytes, bytes]]) -> list[OutboxError | None]:
        """In one transaction; of each record None once it is on disk, or why it was not accepted. OutboxError: none was."""

        def add(record: tuple[str, bytes, bytes]) -> OutboxError | None:
            try:
                self._add(*record)
            except OutboxError as error:
                return error
            return None

        outcomes: list[OutboxError | None] = self._commit(lambda: [add(record) for record in records])
        return outcomes

    def _add(self, topic: str, key: bytes, value: bytes) -> int:
        """Within a transaction."""
        database = self._database
        self._check(database.destination)
        if not self._takes(len(key) + len(value)):
            raise OutboxFull(
                f"outbox {self._name} is full: {database.entries} records, {database.bytes} bytes wait for the broker "
                f"(at most {self._max_rows}, {self._max_bytes})"
            )
        return database.add(topic, key, value)

    def _takes(self, size: int) -> bool:
        """Under the lock: whether so many bytes more may wait, by what is known of the file."""
        database = self._database
        return database.entries < self._max_rows and database.bytes + size <= self._max_bytes

    def delivered(self, entries: Iterable[Entry] = ()) -> None:
        """Forgets what the broker has acknowledged. OutboxError: the file still has it; this process won't send it again, and
        the next commit that succeeds, or a call without entries, removes it. When nothing waits, no byte of what was there stays
        in the file; this is seen to once in CLEAR_SECONDS, and when it is closed."""
        with self._reading() as database:
            database.acknowledged |= {entry.seq: entry.size for entry in entries}
        while database.acknowledged:
            self._commit(lambda: None)
        if not database.entries and time.monotonic() >= self._clears_at:
            self._clears_at = time.monotonic() + CLEAR_SECONDS
            database.clear_log()

    @property
    def unwritten(self) -> int:
        """Entries that are acknowledged and still in the file, as it could not be written."""
        return len(self._database.acknowledged)

    def refuse(self, entry: Entry, error: str) -> None:
        """Moves an entry out of the way, with the reason; `requeue` brings it back."""

        def work() -> None:
            if self._database.take(entry.seq, entry.size):
                self._database.connection.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?)", (*entry, error))

        self._commit(work)

    def requeue(self) -> int:
        """All refused entries wait again, as the newest. Their number."""

        def work() -> int:
            self._check(self._database.destination)
            refusals = self.refusals()
            for refusal in refusals:
                self._database.add(*refusal.entry[1:])
            self._database.connection.execute("DELETE FROM refused")
            return len(refusals)

        return int(self._commit(work))

    def waiting(self, limit: int = 500, size: int = 4 << 20, *, after: int = 0, without: Collection[str] = ()) -> list[Entry]:
        """The oldest entries behind seq `after`, but those of the topics `without`: at most `limit`, and no more than the first
        that makes `size` bytes full. OutboxError when the file is for somebody else by now."""
        entries: list[Entry] = []
        query = "SELECT seq, topic, key, value FROM waiting WHERE seq > ? AND topic NOT IN ({}) ORDER BY seq".format(
            ", ".join("?" * len(without))
        )
        with self._reading() as database:
            self._check(database.bound_to())
            rows = database.connection.execute(query, (max(after, database.settled_to), *without))
            for row in rows:
                if len(entries) >= limit or size <= 0:
                    break
                if row[0] not in database.acknowledged:
                    entries.append(Entry(*row))
                    size -= entries[-1].size
            rows.close()
            if entries and not after and not without:
                database.settled_to = entries[0].seq - 1
        return entries

    def refusals(self) -> list[Refusal]:
        with self._reading() as database:
            rows = database.connection.execute("SELECT seq, topic, key, value, error FROM refused ORDER BY seq").fetchall()
        return [Refusal(Entry(*row[:4]), row[4]) for row in rows]

    @property
    def pending(self) -> int:
        """Entries that wait, of all processes."""
        with self._reading() as database:
            return database.totals()[0] - self.unwritten

    @property
    def refused(self) -> int:
        with self._reading() as database:
            return int(database.connection.execute("SELECT count(*) FROM refused").fetchone()[0])

    @property
    def oldest(self) -> int | None:
        """The smallest `seq` that waits; None when nothing does."""
        with self._reading() as database:
            rows = database.connection.execute("SELECT seq FROM waiting WHERE seq > ? ORDER BY seq", (database.settled_to,))
            oldest = next((int(seq) for (seq,) in rows if seq not in database.acknowledged), None)
            rows.close()
            if oldest is not None:
                database.settled_to = oldest - 1
            return oldest

    @property
    def newest(self) -> int:
        """The largest `seq` ever given out; 0 when there was none."""
        with self._reading() as database:
            return database.totals()[2]

    def try_to_send(self) -> bool:
        """Whether this outbox is now (or was already) the one that sends from its file. The lock goes with the process.

        Raises OutboxError when something else than another sender stands in the way."""
        with self._reading() as database:
            return database.lend_sending(self)

    def close(self) -> None:
        """Ends sending and appending from here. What waits stays in the file (in memory: is gone)."""
        if not self._closed:
            with suppress(OutboxError):  # it would be sent again by the next start
                self.delivered()
            self._closed = True
            self._database.leave(self)

    def _commit(self, work: Callable[[], Any]) -> Any:
        if self._closed:
            raise OutboxError(f"outbox {self._name} is closed")
        return self._database.commit(work)

    @contextmanager
    def _reading(self) -> Iterator[Database]:
        """The database, for this thread alone."""
        with self._database.lock:
            if self._closed:
                raise OutboxError(f"outbox {self._name} is closed")
            try:
                yield self._database
            except sqlite3.Error as error:
                raise OutboxError(f"outbox {self._name} can't be read: {error}") from error
