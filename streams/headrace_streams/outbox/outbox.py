"""Records that were accepted but not yet acknowledged by a broker, in one SQLite file. Knows bytes and order, no Kafka.

What `append` returned for is on disk (WAL, `synchronous=FULL`). Appends of several threads that wait at the same time share one
commit, so one fsync. Any number of processes may append to one file; one at a time sends from it, and when that one goes, however
it goes, another takes over. WAL needs a local disk: no network file system.

SQLite connections must not cross a fork (the child would believe in locks that only its parent holds), so they are closed before
one and opened again on both sides. In memory, the child begins with nothing: what waits is the parent's to send.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from headrace_schemas.root_error import HeadraceError

MAX_BYTES = 1 << 30
MAX_ROWS = 1_000_000
_APPLICATION = 0x48445243  # "HDRC" in the header of the file: not somebody else's database
_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, error TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY CHECK (id = 1), entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0);
"""  # noqa: E501 - one table a line


class OutboxError(HeadraceError):
    """The outbox can't be used: not ours, not writable, or the disk failed."""


class OutboxFull(OutboxError):
    """The outbox holds as much as it may; nothing was accepted. It empties when the broker is reached again."""


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


class _Ticket:
    """One wish of one thread: settled by whichever thread commits it."""

    __slots__ = ("error", "result", "settled", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.settled = False


class Outbox:
    """`path` None keeps everything in memory: the same behaviour without the disk, for whoever can lose what is not flushed.

    Raises OutboxError when `path` can't be opened or is another kind of file. Threads may share one.
    """

    def __init__(self, path: str | Path | None, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> None:
        self.path = None if path is None else Path(path).absolute()
        self._max_bytes, self._max_rows = max_bytes, max_rows
        self._commit_lock = threading.RLock()
        self._tickets: deque[_Ticket] = deque()
        self._entries = self._bytes = 0  # totals within the running transaction
        self._sender_lock: sqlite3.Connection | None = None
        self._closed = False
        try:
            self._db = self._open()
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(f"outbox {self._name} can't be opened: {error}") from error
        _OPEN.add(self)

    @property
    def _name(self) -> str:
        return str(self.path or "in memory")

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # texts of people: for our eyes only
        db = sqlite3.connect(self.path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30)
        try:
            (application,), (tables,) = (
                db.execute("PRAGMA application_id").fetchone(),
                db.execute("SELECT count(*) FROM sqlite_master").fetchone(),
            )
            if tables and application != _APPLICATION:
                raise OutboxError(f"outbox {self._name} is another kind of database")
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=1", f"application_id={_APPLICATION}"):
                db.execute(f"PRAGMA {pragma}").fetchall()
            db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
        except BaseException:
            db.close()
            raise
        return db

    def append(self, topic: str, key: bytes, value: bytes) -> int:
        """The entry's `seq`, once it is on disk. OutboxFull or OutboxError: it was not accepted."""

        def work() -> int:
            if self._entries >= self._max_rows or self._bytes + len(key) + len(value) > self._max_bytes:
                raise OutboxFull(
                    f"outbox {self._name} is full: {self._entries} records, {self._bytes} bytes wait for the broker "
                    f"(at most {self._max_rows}, {self._max_bytes})"
                )
            cursor = self._db.execute("INSERT INTO waiting (topic, key, value) VALUES (?, ?, ?)", (topic, key, value))
            self._count(1, len(key) + len(value))
            return int(cursor.lastrowid or 0)

        return int(self._commit(work))

    def delivered(self, entries: Iterable[Entry]) -> None:
        """Forgets what the broker has acknowledged."""
        gone = list(entries)
        self._commit(lambda: [self._take(entry) for entry in gone])

    def refuse(self, entry: Entry, error: str) -> None:
        """Moves an entry out of the way, with the reason; `requeue` brings it back."""

        def work() -> None:
            if self._take(entry):
                self._db.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?)", (*entry, error))

        self._commit(work)

    def requeue(self) -> int:
        """All refused entries wait again, as the newest. Their number."""

        def work() -> int:
            refusals = self.refusals()
            for refusal in refusals:
                self._db.execute("INSERT INTO waiting (topic, key, value) VALUES (?, ?, ?)", refusal.entry[1:])
                self._count(1, refusal.entry.size)
            self._db.execute("DELETE FROM refused")
            return len(refusals)

        return int(self._commit(work))

    def waiting(self, limit: int = 500, size: int = 4 << 20) -> list[Entry]:
        """The oldest entries: at most `limit`, and no more than the first that makes `size` bytes full."""
        entries: list[Entry] = []
        with self._reading():
            for row in self._db.execute("SELECT seq, topic, key, value FROM waiting ORDER BY seq LIMIT ?", (limit,)):
                entries.append(Entry(*row))
                size -= entries[-1].size
                if size <= 0:
                    break
        return entries

    def refusals(self) -> list[Refusal]:
        with self._reading():
            rows = self._db.execute("SELECT seq, topic, key, value, error FROM refused ORDER BY seq").fetchall()
        return [Refusal(Entry(*row[:4]), row[4]) for row in rows]

    @property
    def pending(self) -> int:
        """Entries that wait, of all processes."""
        return self._number("SELECT entries FROM totals")

    @property
    def refused(self) -> int:
        return self._number("SELECT count(*) FROM refused")

    @property
    def oldest(self) -> int | None:
        """The smallest `seq` that waits; None when nothing does."""
        return self._number("SELECT coalesce(min(seq), 0) FROM waiting") or None

    @property
    def newest(self) -> int:
        """The largest `seq` ever given out; 0 when there was none."""
        return self._number("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'waiting'")

    def try_to_send(self) -> bool:
        """Whether this outbox is now (or was already) the one that sends from its file. The lock goes with the process."""
        if self.path is None or self._sender_lock is not None:
            return True
        lock = sqlite3.connect(f"{self.path}.sender", isolation_level=None, check_same_thread=False, timeout=0)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            lock.close()
            return False
        self._sender_lock = lock
        return True

    def close(self) -> None:
        """Ends sending and appending from here. What waits stays in the file (in memory: is gone)."""
        with self._commit_lock:
            self._closed = True
            self._disconnect()

    def _disconnect(self) -> None:
        self._db.close()
        if self._sender_lock is not None:
            self._sender_lock.close()
            self._sender_lock = None

    def _take(self, entry: Entry) -> bool:
        there = self._db.execute("DELETE FROM waiting WHERE seq = ?", (entry.seq,)).rowcount == 1
        if there:
            self._count(-1, -entry.size)
        return there

    def _count(self, entries: int, size: int) -> None:
        self._entries += entries
        self._bytes += size

    def _reading(self) -> threading.RLock:
        if self._closed:
            raise OutboxError(f"outbox {self._name} is closed")
        return self._commit_lock

    def _number(self, query: str) -> int:
        with self._reading():
            return int(self._db.execute(query).fetchone()[0])

    def _commit(self, work: Callable[[], Any]) -> Any:
        """Runs `work` in a transaction together with that of all threads that are waiting: the first one in does it for all."""
        ticket = _Ticket(work)
        self._tickets.append(ticket)
        with self._commit_lock:
            if not ticket.settled:
                group = [self._tickets.popleft() for _ in range(len(self._tickets))]
                try:
                    self._run(group)
                except (sqlite3.Error, OutboxError) as error:
                    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL  # the disk, that is
                    for other in group:
                        kind = OutboxFull if full else OutboxError
                        other.error = other.error or kind(f"outbox {self._name} can't be written: {error}")
                except BaseException:  # an interrupt of this thread: the others must not believe that they are on disk
                    for other in group:
                        other.error = other.error or OutboxError(f"outbox {self._name}: the write was interrupted")
                    raise
                finally:
                    for other in group:
                        other.settled = True
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def _run(self, group: list[_Ticket]) -> None:
        if self._closed:
            raise OutboxError("it is closed")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._entries, self._bytes = self._db.execute("SELECT entries, bytes FROM totals").fetchone()
            for ticket in group:
                try:
                    ticket.result = ticket.work()
                except OutboxFull as error:  # raised before anything was written: the rest of the group goes on
                    ticket.error = error
            self._db.execute("UPDATE totals SET entries = ?, bytes = ?", (self._entries, self._bytes))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _before_fork(self) -> None:
        self._commit_lock.acquire()
        if self.path is not None and not self._closed:
            self._disconnect()

    def _after_fork(self, child: bool) -> None:
        if child:  # no other thread lives here: nobody will release the old lock or come back for a ticket
            self._tickets = deque()
        if not self._closed and (child or self.path is not None):
            try:
                self._db = self._open()
            except (sqlite3.Error, OSError, OutboxError):
                self._closed = True  # every further call says so
        if child:
            self._commit_lock = threading.RLock()
        else:
            self._commit_lock.release()


_OPEN: weakref.WeakSet[Outbox] = weakref.WeakSet()
_forking: list[Outbox] = []


def _before_fork() -> None:
    _forking.extend(_OPEN)
    for outbox in _forking:
        outbox._before_fork()


def _after_fork(child: bool) -> None:
    while _forking:
        _forking.pop()._after_fork(child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=lambda: _after_fork(False), after_in_child=lambda: _after_fork(True))
