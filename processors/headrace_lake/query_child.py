"""The process that somebody's SELECT runs in: `python -m headrace_lake.query_child`. Knows the query, and its own limits.

DuckDB's own limit holds for what it sorts and joins, not for the texts that a query makes: those took 2 to 4 GiB. Here they meet
the process's limit of memory. It reads one line of JSON, writes one answer, and ends when nobody holds its input any more.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import os
import pickle
import resource
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from headrace_lake.manifest import LakeFolder
from headrace_lake.query import THREADS, QueryStopped, opened
from headrace_lake.query_process import READY
from headrace_schemas.root_error import HeadraceError

ROOM = 1024 * 1024 * 1024  # address space beside what the process has when it begins: DuckDB's 512 MB, and what it makes of them
_PLAIN = (bool, int, float, str, bytes, decimal.Decimal, uuid.UUID, datetime.date, datetime.time, datetime.timedelta)


def main() -> int:
    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer: Any = _answer(asked)
    except MemoryError:
        answer = (QueryStopped.__name__, f"SQL: the answer needs more than {ROOM // 2**20} MiB of memory: ask for less")
    except HeadraceError as error:
        answer = (type(error).__name__, str(error))
    _write(pickle.dumps(answer))
    os._exit(0)  # what DuckDB still holds needs no cleaning up


def _answer(asked: dict[str, Any]) -> tuple[list[str], list[tuple[Any, ...]], bool]:
    with opened(LakeFolder(Path(asked["folder"])), seconds=asked["seconds"], rows=asked["rows"]) as lake:
        _limit(asked["seconds"])
        _write(READY)
        found = lake.run(asked["sql"])
        return found.columns, [tuple(map(_plain, row)) for row in found.rows], found.more


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _limit(seconds: float) -> None:
    """From here on: so much more memory than there is now, and so much time of all its threads together."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    used = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    time = used + math.ceil(seconds * (THREADS + 1)) + 10
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, time), (resource.RLIMIT_CORE, 0)):
        most = resource.getrlimit(limit)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(limit, (value, value))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _plain(value: Any) -> Any:
    """A value that can be sent: what is none of the plain types is its text."""
    if value is None or isinstance(value, _PLAIN):
        zoned = isinstance(value, datetime.datetime | datetime.time) and value.tzinfo is not None
        return str(value) if zoned else value
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
