"""Decides whether an output is right, in a child process with limits. Knows processes and entry points, no model.

A grader is a function `grade(prompt, output, example, **options) -> 0..100`: `prompt` as the example has it, `output` the text
that was generated, `example` the data of its `ExampleRewarded`. Whatever it does, it costs one row, never the run.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import orjson

from headrace_schemas.derived import Example
from headrace_schemas.root_error import USAGE, HeadraceError
from headrace_trainer.policy import GraderPolicy

GROUP = "headrace.graders"
_START_SECONDS = 60.0  # a grader may import a lot


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
    """One child process for many rows; after a crash or time-out the next row gets a new one. Use as a context manager."""

    def __init__(self, policy: GraderPolicy) -> None:
        find(policy.name)
        self.policy = policy
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def grade(self, output: str, example: Example) -> Grade:
        """GraderMissing only when the grader cannot even be loaded."""
        if self._child is None:
            self._start()
        request = {"prompt": example.content.prompt, "output": output, "example": example}
        answer = self._ask(msgspec.json.encode(request) + b"\n", self.policy.seconds + 1.0)
        if answer is None:
            return Grade(0.0, self._stop(f"no answer within {self.policy.seconds:g} s"))
        if "error" in answer:
            return Grade(0.0, str(answer["error"]))
        return Grade(float(answer["grade"]))

    def close(self) -> None:
        if self._child is not None:
            self._stop("")

    def _start(self) -> None:
        arguments = orjson.dumps(self.policy.model_dump(mode="json")).decode()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "headrace_trainer.evaluation.grader_child", arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        answer = self._ask(b"\n", _START_SECONDS)
        if answer is None or "error" in answer:
            why = self._stop("it does not start")
            raise GraderMissing(f"grader {self.policy.name!r} cannot be loaded: {answer['error'] if answer else why}")

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
