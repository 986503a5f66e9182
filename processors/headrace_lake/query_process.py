"""Somebody's SELECT over a lake, in a process of its own with limits of memory and time. Knows the process, no DuckDB.

Whatever a query does, the worst that happens is that its process is ended. What it spilled goes with it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import select
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from headrace_lake.manifest import LakeError, LakeFolder
from headrace_lake.query_result import QueryRefused, QueryResult, QueryStopped
from headrace_lake.spill import spill_folder
from headrace_schemas.root_error import FAILED, HeadraceError

STUBBORN_SECONDS = 5.0  # that an interrupted query may take to end
READY = b"+"  # the lake is open and the limits hold: a process writes it before its answer, and no answer begins so
START_SECONDS = 60.0  # that a process may take until it can be asked, on a machine that is busy
_ERRORS: dict[str, type[HeadraceError]] = {kind.__name__: kind for kind in (QueryRefused, QueryStopped, LakeError)}
_TYPES = {("datetime", name) for name in ("date", "time", "datetime", "timedelta")}
_TYPES |= {("decimal", "Decimal"), ("uuid", "UUID"), ("uuid", "SafeUUID")}


class QueryFailed(HeadraceError):
    """The process of a query died, for no reason of the query's."""

    exit_code = FAILED


def ask_apart(folder: LakeFolder, sql: str, *, seconds: float, rows: int) -> QueryResult:
    """The answer to one SELECT at the cut that the lake has now. QueryRefused, QueryStopped, LakeError, QueryFailed."""
    folder.load()  # what is wrong with it is said at once
    asked = {"folder": str(folder.path.absolute()), "sql": sql, "seconds": seconds, "rows": rows}
    with spill_folder() as (spill, lock):
        child = subprocess.Popen(
            [sys.executable, "-m", "headrace_lake.query_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(spill)},
            pass_fds=[lock],
            start_new_session=True,
        )
        try:
            out, said = _answer_of(child, json.dumps(asked).encode() + b"\n", seconds + STUBBORN_SECONDS)
        except subprocess.TimeoutExpired:
            raise QueryStopped(f"SQL: the query was ended after {seconds:g} s and could not be interrupted") from None
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                assert pipe is not None
                pipe.close()
    if not (answered := out.removeprefix(READY)):
        raise _died(child.returncode, said, seconds)
    answer = _Reader(io.BytesIO(answered)).load()
    if isinstance(answer[0], str):
        raise _ERRORS.get(answer[0], QueryFailed)(answer[1])
    return QueryResult(*answer)


def _answer_of(child: subprocess.Popen[bytes], question: bytes, seconds: float) -> tuple[bytes, bytes]:
    """What it writes and says until it ends, `seconds` after it was ready at the latest. Its input stays open meanwhile: it ends
    when that is closed, as it is when this process dies. TimeoutExpired."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):
        child.stdin.write(question)
        child.stdin.flush()
    if not select.select([child.stdout], [], [], START_SECONDS)[0]:  # what comes first is that it is ready
        raise subprocess.TimeoutExpired(child.args, START_SECONDS)
    stdin, child.stdin = child.stdin, None  # or `communicate` would close it
    try:
        return child.communicate(timeout=seconds)
    finally:
        child.stdin = stdin


def _died(code: int, said: bytes, seconds: float) -> HeadraceError:
    """Why a process left no answer."""
    if code == -signal.SIGXCPU:
        return QueryStopped(f"SQL: the query was ended after {seconds:g} s of each of its threads: ask for less")
    if code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL, -signal.SIGBUS):
        return QueryStopped("SQL: the query was ended: it needs more memory than it may have: ask for less")
    last = said.decode(errors="replace").strip().rpartition("\n")[2]
    return QueryFailed(f"SQL: the process of the query ended with {code}: {last or 'it said nothing'}")


class _Reader(pickle.Unpickler):
    """Takes the plain types of an answer, and no other."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _TYPES:
            raise QueryFailed(f"SQL: the query's process answered with a {module_name}.{global_name}")
        return super().find_class(module_name, global_name)
