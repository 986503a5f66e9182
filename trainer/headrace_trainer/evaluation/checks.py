"""Whether an answer passes the check of its task: the grader of suites, run where all graders are. Knows checks, no model.

What an answer says is run in a process of its own, and only values come back: it is here that they are compared, so an answer
that prints, exits or looks around gains nothing. SQL has no files and no settings to reach.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace_schemas.root_error import HeadraceError
from headrace_trainer.evaluation import answer_child
from headrace_trainer.policy import GraderPolicy

try:  # the process that grades is forked for each answer, and loads it once
    import duckdb
except ModuleNotFoundError:
    duckdb = None  # type: ignore[assignment]

NAME = "headrace_trainer.evaluation.checks:grade"
CHECKS = GraderPolicy(name=NAME, execution=True, needs_reference=False, seconds=10.0, disk_mb=16)
SECONDS = 5.0  # of the code of an answer
ROWS = 10_000  # a longer result is wrong
_PROGRAM = ("-I", "-S", answer_child.__file__)
_FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,_]*(?:\.\d+)?(?:[eE][-+]?\d+)?")

Given = Mapping[str, Any]  # a check, as JSON


class CheckFailed(HeadraceError):
    """An answer that does not pass; the message says why."""


class _NotDone(CheckFailed):
    """In the time that an answer has."""


def grade(prompt: Any, output: str, example: Given) -> float:
    """100.0 when `output` passes `example["check"]`, else 0.0."""
    return 0.0 if why_not(output, example["check"]) is not None else 100.0


def why_not(output: str, check: Given) -> str | None:
    """Why an answer does not pass; None when it does."""
    try:
        _CHECKS[check["kind"]](output, check)
    except CheckFailed as error:
        return str(error)
    return None


def code_of(output: str) -> str:
    """The longest fenced block of an answer; the whole of one without."""
    return max(_FENCED.findall(output), key=len, default=output)


def _python(output: str, check: Given) -> None:
    runs = [case["run"] for case in check["cases"]]
    results = _child({"setup": check.get("setup", ""), "code": code_of(output), "runs": runs}, SECONDS)
    if len(results) != len(runs):
        raise CheckFailed("its process said something else than what its calls give")
    for case, result in zip(check["cases"], results, strict=True):
        if case.get("raises") is not None:
            if case["raises"] not in (result.get("raises") or ()):
                raise CheckFailed(f"{case['run']} does not raise {case['raises']}: {_told(result)}")
        elif "gives" not in result or not same(result["gives"], case.get("gives")):
            raise CheckFailed(f"{case['run']} gives {_told(result)}, {case.get('gives')!r} is right")


def _tests(output: str, check: Given) -> None:
    """Each subject in a process of its own, in an order that the tests cannot know: those that saw the others, or who comes
    first, could tell right from broken by that."""
    subjects = [check["right"], *check["broken"]]
    tests, until = code_of(output), time.monotonic() + SECONDS
    missed: list[int] = []
    for number in sorted(range(len(subjects)), key=lambda _: secrets.randbits(64)):
        try:
            results = _child({"tests": tests, "subject": subjects[number]}, until - time.monotonic())
            result = results[0] if len(results) == 1 else {"why": "its process said something else than what they come to"}
        except _NotDone:
            raise
        except CheckFailed as error:
            result = {"why": str(error)}
        if number == 0 and result.get("passed") is not True:
            raise CheckFailed(f"what is right does not pass: {str(result.get('why'))[:200]}")
        if number and result.get("passed") is True:
            missed.append(number)
    if missed:
        raise CheckFailed(f"fault {min(missed)} of {len(subjects) - 1} is not found")


def _child(request: Given, seconds: float) -> list[dict[str, Any]]:
    """What the process of an answer says."""
    try:
        done = subprocess.run(
            [sys.executable, *_PROGRAM], input=json.dumps(request).encode(), capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _NotDone(f"it was not done within {SECONDS:g} s") from error
    try:
        results = json.loads(done.stdout)
    except (ValueError, RecursionError) as error:
        raise CheckFailed(f"its process ended with {done.returncode} before it had run") from error
    if isinstance(results, dict) and "error" in results:
        raise CheckFailed(str(results["error"])[:300])
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise CheckFailed("its process said what is no result")
    return results


def _told(result: Given) -> str:
    if "gives" in result:
        return repr(result["gives"])[:200]
    raised = result.get("raises")
    return f"{raised[0]}" if isinstance(raised, list) and raised else "nothing"


def same(value: Any, wanted: Any) -> bool:
    """Equal as JSON: true is not 1; numbers may differ in the ninth digit if one of them is no whole number."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        whole = isinstance(value, int) and isinstance(wanted, int)
        return value == wanted if whole else abs(value - wanted) <= 1e-9 * max(1.0, abs(wanted))
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(same(value[key], wanted[key]) for key in wanted)
    return type(value) is type(wanted) and bool(value == wanted)


def _sql(output: str, check: Given) -> None:
    rows, wanted = query(code_of(output), check["tables"]), [_plain(row) for row in check["rows"]]
    if not (rows == wanted if check.get("ordered") else Counter(rows) == Counter(wanted)):
        raise CheckFailed(f"it gives {len(rows)} rows, {rows[:3]!r} first; {len(wanted)} are right, {wanted[:3]!r} first")


def query(sql: str, tables: str) -> list[tuple[Any, ...]]:
    """The rows of one SELECT over `tables`. CheckFailed when it is none, takes too long or gives too many."""
    if duckdb is None:
        from headrace_streams.pip_line import pip_line

        raise RuntimeError(f"a check of SQL needs duckdb, which is not installed: {pip_line('trainer')}")
    connection = duckdb.connect(config={"threads": 1, "memory_limit": "256MB", "enable_external_access": False})
    with connection:
        connection.execute(tables)
        connection.execute("SET lock_configuration = true")
        timer = threading.Timer(SECONDS, connection.interrupt)
        timer.start()
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise CheckFailed("it is not one SELECT")
            rows = connection.execute(statements[0]).fetchmany(ROWS + 1)
        except duckdb.Error as error:
            raise CheckFailed(" ".join(str(error).split())[:300]) from error
        finally:
            timer.cancel()
    if len(rows) > ROWS:
        raise CheckFailed(f"it gives more than {ROWS} rows")
    return [_plain(row) for row in rows]


def _plain(row: Sequence[Any]) -> tuple[Any, ...]:
    """Values as they are compared: numbers in nine digits, what JSON does not have as text."""
    return tuple(
        value if value is None or isinstance(value, bool | str)
        else f"{float(value):.9g}" if _is_number(value)
        else str(value)
        for value in row
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _json(output: str, check: Given) -> None:
    text = code_of(output).strip()
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckFailed(f"it is no JSON: {text[:100]!r}") from error
    for holds in check["holds"]:
        try:
            found = eval(holds, {"answer": answer})  # the suite's words, not the answer's
        except Exception as error:
            raise CheckFailed(f"{holds}: {type(error).__name__}: {error}") from error
        if not found:
            raise CheckFailed(f"{holds} does not hold")


def _number(output: str, check: Given) -> None:
    numbers = _NUMBER.findall(output)
    if not numbers:
        raise CheckFailed("it has no number")
    last = float(numbers[-1].replace(",", "").replace("_", ""))
    if abs(last - check["value"]) > check.get("within", 1e-9):
        raise CheckFailed(f"its last number is {last:g}, {check['value']:g} is right")


def _text(output: str, check: Given) -> None:
    said = " ".join(output.split())
    if (allowed := check.get("equals")) and _folded(said) not in map(_folded, allowed):
        raise CheckFailed(f"it says {said[:100]!r}")
    for pattern in check.get("matches", ()):
        if not re.search(pattern, said, re.IGNORECASE):
            raise CheckFailed(f"{pattern!r} is not found in it")
    for pattern in check.get("without", ()):
        if re.search(pattern, said, re.IGNORECASE):
            raise CheckFailed(f"{pattern!r} is found in it")


def _folded(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


_CHECKS: dict[str, Callable[[str, Given], None]] = {
    "python": _python, "tests": _tests, "sql": _sql, "json": _json, "number": _number, "text": _text,
}  # fmt: skip
