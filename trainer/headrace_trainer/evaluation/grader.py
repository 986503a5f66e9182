"""Decides whether an output is right, in processes that are cut off. Knows processes and entry points, no model.

A grader is a function `grade(prompt, output, example, **options) -> 0..100`: `prompt` as the example has it, `output` the text
that was generated, `example` the data of its `ExampleRewarded`. Whatever it does, it costs one row, never the run. What holds it
is in `isolation`, and what of it where in SECURITY.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import orjson

from headrace_schemas.derived import Example
from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_trainer.policy import GraderPolicy
from headrace_trainer.suites.check import Check

GROUP = "headrace.graders"
CHILD = ("-m", "headrace_trainer.evaluation.grader_child")
_START_SECONDS = 60.0  # a grader may import a lot
_ROW_SECONDS = 45.0  # beyond the row's own, until its process counts as lost: a busy machine makes processes slowly
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")

log = logging.getLogger("headrace.grader")


class GraderMissing(HeadraceError):
    """A grader that no installed package offers, or that does not load."""

    exit_code = USAGE


class Grade(NamedTuple):
    """`value` 0-100; `reason` says why a grade is 0 that the grader did not give."""

    value: float
    reason: str | None = None


def find(name: str) -> None:
    """GraderMissing unless `name` is `module:function` or an installed entry point; nothing is loaded."""
    known = sorted(entry.name for entry in entry_points(group=GROUP))
    if ":" not in name and name not in known:
        raise GraderMissing(f"grader {name!r} is not installed; entry points {GROUP}: {', '.join(known) or 'none'}")


class Grader:
    """One process that has the grader loaded, for many rows, each of which gets a fork of it. Use as a context manager.

    `failures` counts the rows whose grade is 0 because there was none, by kind: late, ended, raised, out_of_range, forged,
    not_sealed, lost. `only_limited` says why the grader is not isolated; None when it is, when its policy says `off`, or
    before its first row."""

    def __init__(self, policy: GraderPolicy) -> None:
        find(policy.name)
        self.policy = policy
        self.failures: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self.only_limited: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._isolation = policy.isolation

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def grade(self, output: str, example: Example, check: Check | None = None) -> Grade:
        """GraderMissing only when the grader cannot even be loaded, or not be isolated where the policy requires it. `check`: of
        a suite's task, which the grader of checks is told instead of the example."""
        if self._child is None:
            self._start()
        told: Any = example if check is None else {"check": check.model_dump(mode="json", exclude_none=True)}
        request = {"prompt": example.content.prompt, "output": output, "example": told}
        answer = self._ask(msgspec.json.encode(request) + b"\n", self.policy.seconds + _ROW_SECONDS)
        if answer is None:
            return self._failed("lost", self._stop(f"no answer within {self.policy.seconds:g} s"))
        if "error" in answer:
            return self._failed(str(answer["kind"]), str(answer["error"]))
        return Grade(float(answer["grade"]))

    def close(self) -> None:
        if self._child is not None:
            self._stop("")
        for kind, rows in self.failures.items():
            log.warning("grader %s: %d rows %s, the first: %s", self.policy.name, rows, kind, self._first[kind])

    def _failed(self, kind: str, reason: str) -> Grade:
        self.failures[kind] += 1
        self._first.setdefault(kind, reason)
        return Grade(0.0, reason)

    def _start(self) -> None:
        answer = self._load()
        if answer is not None and "refused" in answer:
            self._stop("")
            self.only_limited = f"this machine does not let it be isolated: {answer['refused']}"
            if self.policy.isolation == "required":
                raise GraderMissing(f"grader {self.policy.name!r}: {self.only_limited}; `isolation` of its policy says required")
            log.warning("grader %s is limited only: %s", self.policy.name, self.only_limited)
            self._isolation = "off"
            answer = self._load()
        if answer is None or "error" in answer:
            why = self._stop("it does not start")
            raise GraderMissing(f"grader {self.policy.name!r} cannot be loaded: {answer['error'] if answer else why}")

    def _load(self) -> dict[str, Any] | None:
        """What a new child says once it has loaded the grader, or has not."""
        self._child = subprocess.Popen(
            [sys.executable, *CHILD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment(), start_new_session=True,
        )  # fmt: skip
        policy = {**self.policy.model_dump(mode="json"), "isolation": self._isolation}
        return self._ask(orjson.dumps(policy) + b"\n", _START_SECONDS)

    def _environment(self) -> dict[str, str]:
        """Nothing of ours: there are logins in it. One thread for libraries that would make one for each core, of each row."""
        path = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
        plain = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONPATH": path}
        asked = {name: os.environ[name] for name in self.policy.environment if name in os.environ}
        return {**plain, **dict.fromkeys(_THREADS, "1"), **asked}

    def _ask(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """The child's answer, or None when it died, kept silent or babbled."""
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            return None
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except BrokenPipeError:
            return None
        deadline, received = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not selector.select(remaining):
                    return None
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    return None
                received += chunk
        try:
            answer = orjson.loads(received)
        except orjson.JSONDecodeError:
            return None
        return answer if isinstance(answer, dict) else None

    def _stop(self, silent: str) -> str:
        """Ends the child and what it started; returns how it ended."""
        child, self._child = self._child, None
        if child is None:
            return silent
        try:
            code = child.wait(0.1 if silent else 0)  # its own death, if it died
        except subprocess.TimeoutExpired:
            code = None
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if code is None or code == -signal.SIGALRM:
            return silent
        return f"it ended with {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def ungraded(*graders: Grader | None) -> dict[str, int] | None:
    """How many answers got no grade of these graders, by what happened; None when all did."""
    failures: Counter[str] = Counter()
    for grader in graders:
        failures.update({} if grader is None else grader.failures)
    return dict(failures) or None
