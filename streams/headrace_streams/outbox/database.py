"""The SQLite file under an outbox, as this process has it open: one connection, whoever asks. Knows tables and totals, no Kafka.

One connection per process and file, and nothing else ever opens the path: closing any descriptor of a file drops all POSIX locks
that the process holds on it, SQLite's among them. Another process would then take itself for the last one and remove the
write-ahead log under our hands.

Connections must not cross a fork (the child would believe in locks that only its parent holds), so they are closed before one
and opened again on both sides. In memory, the child begins with nothing: what waits is the parent's to send.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from headrace_schemas.root_error import HeadraceError

_APPLICATION = 0x48445243  # "HDRC" in the header of the file: not somebody else's database
_VERSION = 2  # of the tables; a file that has them is not written to at a start, so that a full disk keeps nobody from sending
_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, error TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY CHECK (id = 1), entries INTEGER NOT NULL, bytes INTEGER NOT NULL, newest INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS destination (id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL);
"""  # noqa: E501 - one table a line
_FIRST = (
    f"INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0); PRAGMA application_id={_APPLICATION}; PRAGMA user_version={_VERSION};"
)
_TO_2 = (
    "ALTER TABLE totals ADD COLUMN newest INTEGER NOT NULL DEFAULT 0",
    "UPDATE totals SET newest = (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'waiting')",
    "PRAGMA user_version = 2",
)
_NEWEST_1 = "(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'waiting') AS newest"
_TOTALS = """
SELECT entries + (SELECT count(*) FROM waiting WHERE seq > newest),
       bytes + (SELECT coalesce(sum(length(key) + length(value)), 0) FROM waiting WHERE seq > newest),
       max(newest, (SELECT coalesce(max(seq), 0) FROM waiting)), newest
FROM (SELECT entries, bytes, {} FROM totals)
"""
_ADD = "INSERT INTO waiting (seq, topic, key, value) VALUES (?, ?, ?, ?)"
_ADD_ALONE = """
INSERT INTO waiting (seq, topic, key, value)
SELECT ?, ?, ?, ? WHERE (SELECT newest FROM totals) = ? AND (SELECT name FROM destination) IS ?
"""
_BUSY_SECONDS = 30  # that another process may hold the file
_AT_ONCE = 2_000  # acknowledged entries that one transaction forgets
_UNCOUNTED = 100  # entries behind those that the totals count: written with every commit, they are a page more (12 us of 30)


class OutboxError(HeadraceError):
    """The outbox can't be used: not ours, not writable, of another deployment, or the disk failed."""


class OutboxFull(OutboxError):
    """The outbox holds as much as it may; nothing was accepted. It empties when the broker is reached again."""


class _Ticket:
    """One wish of one thread: settled by whichever thread commits it."""

    __slots__ = ("error", "result", "settled", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.settled = False


class Database:
    """Shared by `users`; the last one to leave closes it. `lock` guards everything here; `commit` takes it by itself.

    Within a transaction `entries` and `bytes` are the totals of what waits, `newest` is the last seq given out and `destination`
    whom the file is for; they are read anew only when another process has written. In the file the totals are those of when
    their `newest` was it: what came since is counted by whoever reads them. What is `acknowledged` (size by seq) is gone
    although it is still in the file: each commit removes it, as soon as one succeeds."""

    def __init__(self, path: Path | None, real: str | None) -> None:
        self.path, self._real, self._name = path, real, str(path)
        self.lock = threading.RLock()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.acknowledged: dict[int, int] = {}
        self.settled_to = 0  # no entry up to this seq is still to be sent
        self.entries = self.bytes = self.newest = 0
        self.destination: str | None = None
        self.failed = False
        self._tickets: deque[_Ticket] = deque()
        self._sender: weakref.ref[Any] | None = None
        self._sender_lock: sqlite3.Connection | None = None
        try:
            self.connection = self._open()
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(f"outbox {self.name} can't be opened: {error}") from error

    @property
    def name(self) -> str:
        return str(self.path or "in memory")

    @property
    def replaced(self) -> bool:
        """Whether the path leads to another file by now, or to none: what is written here would be lost."""
        return self.path is not None and _identity(self._name) != self._file

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            with contextlib.suppress(FileExistsError):  # a new file has no locks yet that closing it could drop
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # texts of people: for our eyes only
        db = sqlite3.connect(self.path or ":memory:", isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)
        try:
            application, version, tables = (
                db.execute(query).fetchone()[0]
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
            if tables and application != _APPLICATION:
                raise OutboxError(f"outbox {self.name} is another kind of database")
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=1", "secure_delete=ON"):
                db.execute(f"PRAGMA {pragma}").fetchall()
            if not tables:
                db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{_FIRST}COMMIT;")
            elif version == 0:
                db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version=1;COMMIT;")
        except BaseException:
            db.close()
            raise
        self._file = None if self.path is None else _identity(self._name)
        self._cursor = db.cursor()
        self._seen: int | None = None  # the file's state, as SQLite numbers it, that is known here; None: none
        self._counted = 0  # newest entry that the totals in the file count; -1 when they are wrong
        self._alone = False  # whether the last commit was one thread's
        return db

    def commit(self, work: Callable[[], Any]) -> Any:
        """Runs `work` in a transaction together with that of all threads that are waiting: the first one in does it for all.

        An OutboxError of `work`, raised before it writes anything, fails it alone."""
        ticket = _Ticket(work)
        self._tickets.append(ticket)
        with self.lock:
            if not ticket.settled:
                group = [self._tickets.popleft() for _ in range(len(self._tickets))]
                try:
                    self._run(group)
                except sqlite3.Error as error:
                    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL  # the disk, that is
                    for other in group:
                        kind = OutboxFull if full else OutboxError
                        other.error = other.error or kind(f"outbox {self.name} can't be written: {error}")
                except BaseException:  # an interrupt of this thread: the others must not believe that they are on disk
                    for other in group:
                        other.error = other.error or OutboxError(f"outbox {self.name}: the write was interrupted")
                    raise
                finally:
                    for other in group:
                        other.settled = True
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def clear_log(self) -> None:
        """Lets go of what the write-ahead log still holds of entries that are gone; in the file itself `secure_delete` does that.
        Where somebody else reads it stays until the next time: whoever appends would wait for that reader too. Not within a
        transaction."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            try:
                for pragma in ("busy_timeout=0", "wal_checkpoint(TRUNCATE)"):
                    self._cursor.execute(f"PRAGMA {pragma}").fetchall()
            finally:
                self._cursor.execute(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}").fetchall()

    def _run(self, group: list[_Ticket]) -> None:
        if self.replaced:
            raise sqlite3.OperationalError("it was removed or replaced while in use")
        execute = self._cursor.execute
        try:
            execute("BEGIN IMMEDIATE")
            state = execute("PRAGMA data_version").fetchone()[0]  # others' commits change it, ours do not
            if state != self._seen:
                self._read()
            self._seen = None
            gone = list(islice(self.acknowledged.items(), _AT_ONCE))
            for seq, size in gone:
                self.take(seq, size)
            for ticket in group:
                try:
                    ticket.result = ticket.work()
                except OutboxError as error:
                    ticket.error = error
            if self.newest - self._counted > _UNCOUNTED or self._counted < 0:
                execute("UPDATE totals SET entries = ?, bytes = ?, newest = ?", (self.entries, self.bytes, self.newest))
                self._counted = self.newest
            execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self._seen, self._alone = state, len(group) == 1
        for seq, _ in gone:
            self.acknowledged.pop(seq, None)

    def _read(self) -> None:
        """Within a transaction: what the file says by now."""
        if self._version() == 1:
            for statement in _TO_2:
                self.connection.execute(statement)
        self.entries, self.bytes, self.newest, self._counted = self.totals()
        self.destination = self.bound_to()

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def totals(self) -> tuple[int, int, int, int]:
        """(entries, bytes, newest) as the file has them, and the newest that the table `totals` counts."""
        entries, size, newest, counted = self.connection.execute(
            _TOTALS.format(_NEWEST_1 if self._version() == 1 else "newest")
        ).fetchone()
        return entries, size, newest, counted

    def add_alone(self, topic: str, key: bytes, value: bytes) -> int | None:
        """Under the lock: an entry more, in a transaction of its own that is one statement (2.5 us less of 16). Its seq; None
        when it takes more than that, and nothing was done: others wait with it or have written, or something is wrong.

        That others have written shows in a seq that is there, or in another `newest` of the totals, which removals write."""
        state = self._seen
        if state is None or not self._alone or self.acknowledged or self.newest - self._counted > _UNCOUNTED or self.replaced:
            return None
        self._seen = None
        try:
            done = self._cursor.execute(_ADD_ALONE, (self.newest + 1, topic, key, value, self._counted, self.destination))
        except sqlite3.Error:
            return None
        if done.rowcount != 1:
            return None
        self._seen = state
        self.newest += 1
        self.entries += 1
        self.bytes += len(key) + len(value)
        return self.newest

    def bound_to(self) -> str | None:
        """Whom the file says it is for."""
        found = self.connection.execute("SELECT name FROM destination").fetchone()
        return found and str(found[0])

    def bind(self, destination: str) -> None:
        """Within a transaction: whom the file is for from now on."""
        self.connection.execute("INSERT OR REPLACE INTO destination VALUES (1, ?)", (destination,))
        self.destination = destination

    def add(self, topic: str, key: bytes, value: bytes) -> int:
        """Within a transaction: a waiting entry more. Its seq."""
        self.newest += 1
        self.entries += 1
        self.bytes += len(key) + len(value)
        self._cursor.execute(_ADD, (self.newest, topic, key, value))
        return self.newest

    def take(self, seq: int, size: int) -> bool:
        """Within a transaction: removes a waiting entry. Whether it was there."""
        there = self.connection.execute("DELETE FROM waiting WHERE seq = ?", (seq,)).rowcount == 1
        if there:
            self.entries -= 1
            self.bytes -= size
            self._counted = -1
        return there

    def lend_sending(self, user: object) -> bool:
        """Whether `user` is now, or was already, the only one that sends from this file, of all users of all processes.

        The lock goes with the process. It needs no room on the disk. Raises OutboxError when it is not another sender that
        keeps it from being taken."""
        with self.lock:
            sender = self._sender and self._sender()
            if self._sender_lock is None and self.path is not None:
                self._sender_lock = self._take_sender_lock()
                if self._sender_lock is None:
                    return False
            if sender is None:
                self._sender = weakref.ref(user)
            return sender is None or sender is user

    def _take_sender_lock(self) -> sqlite3.Connection | None:
        try:
            lock = sqlite3.connect(f"{self.path}.sender", isolation_level=None, check_same_thread=False, timeout=0)
            try:
                lock.execute("PRAGMA journal_mode=MEMORY")  # of an empty file even BEGIN would write a journal
                lock.execute("BEGIN EXCLUSIVE")
            except BaseException:
                lock.close()
                raise
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return None
            raise OutboxError(f"outbox {self.name}: {self.path}.sender can't be locked: {error}") from error
        return lock

    def leave(self, user: object) -> None:
        """`user` is done. Another may send now; the last one closes the file."""
        with _registry_lock, self.lock:
            self.users.discard(user)
            if self._sender is not None and self._sender() in (user, None):
                self._release_sending()
            if not self.users:
                if self._real is not None and _shared.get(self._real) is self:
                    del _shared[self._real]
                self._disconnect()

    def _disconnect(self) -> None:
        self.connection.close()
        self._release_sending()

    def _release_sending(self) -> None:
        self._sender = None
        if self._sender_lock is not None:
            self._sender_lock.close()
            self._sender_lock = None

    def before_fork(self) -> None:
        self.lock.acquire()
        if self.path is not None:
            self._disconnect()

    def after_fork(self, child: bool) -> None:
        if child:  # no other thread lives here: nobody will release the old lock or come back for a ticket
            self._tickets = deque()
            if self.path is None:
                self.acknowledged, self.settled_to, self._sender = {}, 0, None
        if child or self.path is not None:
            try:
                self.connection = self._open()
            except (sqlite3.Error, OSError, OutboxError):
                self.failed = True  # every further call says so
        if child:
            self.lock = threading.RLock()
        else:
            self.lock.release()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # looks without opening
    except OSError:
        return None
    return found.st_dev, found.st_ino


_shared: weakref.WeakValueDictionary[str, Database] = weakref.WeakValueDictionary()
_all: weakref.WeakSet[Database] = weakref.WeakSet()
_registry_lock = threading.RLock()
_forking: list[Database] = []


def join(path: Path | None, user: object) -> Database:
    """The database at `path`, by whatever name the file is called; None is one in memory, for `user` alone. OutboxError."""
    with _registry_lock:
        real = None if path is None else os.path.realpath(path)
        database = None if real is None else _shared.get(real)
        if database is None or database.failed or database.replaced:
            database = Database(path, real)
            _all.add(database)
            if real is not None:
                _shared[real] = database
        database.users.add(user)
        return database


def _before_fork() -> None:
    _registry_lock.acquire()
    _forking.extend(database for database in _all if database.users and not database.failed)
    for database in _forking:
        database.before_fork()


def _after_fork(child: bool) -> None:
    global _registry_lock
    while _forking:
        _forking.pop().after_fork(child)
    if child:
        _registry_lock = threading.RLock()
    else:
        _registry_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=lambda: _after_fork(False), after_in_child=lambda: _after_fork(True))
