"""A lake asked by many at once: one DuckDB a cut, a cursor for each who asks. Knows the manifest and the query, nobody who asks.

To make the views of a cut takes 50 ms, a cursor none of that. An older cut's DuckDB goes when the last who reads it is done; the
lock of the folder is held only while somebody reads, so that a feeder can remove what it has replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from headrace_lake.manifest import LakeFolder, Manifest
from headrace_lake.query import ROWS, SECONDS, LakeQuery, connected, readable
from headrace_lake.spill import spill_folder


class _CutDatabase:
    """One cut's DuckDB, and how many read it."""

    def __init__(self, folder: LakeFolder, manifest: Manifest) -> None:
        self.manifest, self.readers, self.current = manifest, 0, True
        with ExitStack() as stack:
            spill, _ = stack.enter_context(spill_folder())
            self.connection = connected(folder, manifest, str(spill))
            stack.callback(self.connection.close)
            self._held = stack.pop_all()

    def close(self) -> None:
        self._held.close()


class SharedQuery:
    """For threads. `seconds` and `rows` bound each query; all that run at one time share the memory of one."""

    def __init__(self, folder: LakeFolder, *, seconds: float = SECONDS, rows: int = ROWS) -> None:
        self.folder = folder
        self._seconds, self._rows = seconds, rows
        self._lock = threading.Lock()
        self._newest: _CutDatabase | None = None

    @contextmanager
    def at_cut(self) -> Iterator[tuple[LakeQuery, Manifest]]:
        """The lake at the cut that it has now, for one thread. LakeError."""
        with self.folder.open() as manifest:
            database = self._taken(manifest)
            try:
                with readable(self.folder), closing(database.connection.cursor()) as cursor:
                    yield LakeQuery(cursor, self._seconds, self._rows), manifest
            finally:
                self._left(database)

    def close(self) -> None:
        """No more is asked; what is being read is read to its end."""
        with self._lock:
            self._let_go()

    def _taken(self, manifest: Manifest) -> _CutDatabase:
        with self._lock:
            if self._newest is None or self._newest.manifest != manifest:
                made = _CutDatabase(self.folder, manifest)
                self._let_go()
                self._newest = made
            self._newest.readers += 1
            return self._newest

    def _left(self, database: _CutDatabase) -> None:
        with self._lock:
            database.readers -= 1
            if not database.current and not database.readers:
                database.close()

    def _let_go(self) -> None:
        """The newest is not the newest any more."""
        database, self._newest = self._newest, None
        if database is not None:
            database.current = False
            if not database.readers:
                database.close()
