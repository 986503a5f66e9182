"""The process that a grader lives in: loads it once, forks one process a row, and says what came of each. Run by `grader`.

One JSON line in, one out. It knows processes and pipes, and nothing of models. A row's process, and the code of an answer in it
if the grader runs it there, has no way to this one but a pipe, on which only what begins with this row's nonce is a grade.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import secrets
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, NoReturn

import orjson

from headrace_trainer.evaluation import isolation

Function = Callable[..., float]
Reply = dict[str, Any]

_SET_UP = 30.0  # seconds for a process to be made and sealed; it takes 0.01
_LONGEST = 1 << 16  # bytes of a reply
_NOISE = 1 << 12  # bytes that a row may print and that are seen
_SEALED = b"+"


def load(name: str) -> Function:
    """The function of an entry point, or of `module:function`."""
    module, colon, attribute = name.partition(":")
    if colon:
        function: Function = getattr(importlib.import_module(module), attribute)
        return function
    (entry,) = entry_points(group="headrace.graders", name=name)
    loaded: Function = entry.load()
    return loaded


def answer(function: Function, line: bytes, options: dict[str, Any]) -> Reply:
    """The grade of one request, or why there is none."""
    try:
        value = float(function(**orjson.loads(line), **options))
    except Exception as error:
        return _none("raised", f"{type(error).__name__}: {error}"[:500])
    if not (math.isfinite(value) and 0 <= value <= 100):
        return _none("out_of_range", f"grade {value} is outside 0-100")
    return {"grade": value}


class Rows:
    """Grades rows, each in a process of its own that is gone, with all that it started, when its grade is known."""

    def __init__(self, function: Function, policy: dict[str, Any], requests: int, *, isolated: bool) -> None:
        self._function, self._policy, self._requests, self._isolated = function, policy, requests, isolated
        cpu = math.ceil(policy["seconds"] * (os.cpu_count() or 1)) + 1
        memory, disk = policy["memory_mb"] << 20, policy["disk_mb"] << 20
        self._limits = isolation.Limits(memory, policy["processes"], cpu, disk)
        if not isolated:
            with contextlib.suppress(OSError, AttributeError):
                isolation.adopt_orphans()

    def grade(self, line: bytes) -> Reply:
        """The reply to one request. EOFError when whoever asks is gone."""
        nonce = secrets.token_hex(16).encode()
        replies, noise = os.pipe(), os.pipe()
        folder = None if self._isolated else tempfile.mkdtemp(prefix="headrace-grader-")
        child = isolation.fork() if self._isolated else os.fork()
        if child == 0:
            self._row(line, nonce, replies[1], noise[1], folder)
        os.close(replies[1])
        os.close(noise[1])
        try:
            received, late = self._listen(child, replies[0], noise[0])
        finally:
            status = self._end(child)
            os.close(replies[0])
            os.close(noise[0])
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return _reply(received, nonce, late, status, self._policy["seconds"])

    def _row(self, line: bytes, nonce: bytes, reply_to: int, noise: int, folder: str | None) -> NoReturn:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for source, target in ((nothing, 0), (noise, 1), (noise, 2)):
                os.dup2(source, target)
            reply_to = _only(reply_to)
            try:
                self._seal(folder)
            except OSError as error:
                reply = _none("not_sealed", f"its process can't be cut off: {error}")
            else:
                os.write(reply_to, _SEALED)
                reply = answer(self._function, line, self._policy["options"])
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os.write(reply_to, nonce + orjson.dumps(reply) + b"\n")
            os._exit(0)
        finally:
            os._exit(1)

    def _seal(self, folder: str | None) -> None:
        if folder is None:
            isolation.seal(self._limits)
            return
        os.setsid()
        os.chdir(folder)
        os.environ["TMPDIR"] = os.environ["HOME"] = folder
        isolation.limit(self._limits)

    def _listen(self, child: int, replies: int, noise: int) -> tuple[bytes, bool]:
        """What the row's process said, and whether it was cut short: it had neither ended nor said a line in time."""
        received, seen = b"", 0
        deadline = time.monotonic() + _SET_UP
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            for source in (replies, noise, self._requests):
                selector.register(source, selectors.EVENT_READ)
            if hasattr(os, "pidfd_open"):  # something that it started may hold its pipe
                with contextlib.suppress(OSError):
                    ended = os.pidfd_open(child)
                    stack.callback(os.close, ended)
                    selector.register(ended, selectors.EVENT_READ, "ended")
            while True:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if time.monotonic() >= deadline:  # also of one that never stops printing
                    return received, True
                sources = {key.fileobj for key, _ in ready}
                if self._requests in sources:
                    raise EOFError
                if noise in sources:
                    chunk = os.read(noise, 65536)
                    os.write(2, chunk[: max(0, _NOISE - seen)])
                    seen += len(chunk)
                    if not chunk:
                        selector.unregister(noise)
                if replies in sources:
                    chunk = os.read(replies, 65536)
                    if not received and chunk:
                        deadline = time.monotonic() + float(self._policy["seconds"])
                    received += chunk
                    if not chunk or received.endswith(b"\n") or len(received) > _LONGEST:
                        return received, False
                elif any(key.data == "ended" for key, _ in ready):
                    return received, False

    def _end(self, child: int) -> int:
        """Ends the row's process and all that it started; its status."""
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == 0:
                time.sleep(0.001)  # it may be ending by itself, and how it does tells more than that it was killed
                pid, status = os.waitpid(child, os.WNOHANG)
            if not self._isolated:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child, signal.SIGKILL)
            if pid == 0:
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
            if not self._isolated:
                _end_orphans()
            return os.waitstatus_to_exitcode(status)
        return 0


def _reply(received: bytes, nonce: bytes, late: bool, status: int, seconds: float) -> Reply:
    if received.startswith(_SEALED):
        received = received[len(_SEALED) :]
    if received.startswith(nonce) and received.endswith(b"\n") and received.count(b"\n") == 1:
        reply: Reply = orjson.loads(received[len(nonce) :])
        return reply
    if received:
        return _none("forged", "it wrote what is no grade where grades are told")
    if late:
        return _none("late", f"no answer within {seconds:g} s")
    if status < 0:
        return _none("ended", f"it ended with {signal.Signals(-status).name}")
    return _none("ended", f"it ended with exit code {status} before it had a grade")


def _none(kind: str, reason: str) -> Reply:
    """No grade: why in a word for counting, and in words that may repeat what the row says."""
    return {"error": reason, "kind": kind}


def _only(kept: int) -> int:
    """Closes all descriptors but the first three and `kept`, which has a new number then."""
    os.dup2(kept, 3, inheritable=False)
    os.closerange(4, 65536)
    return 3


def _end_orphans() -> None:
    """Kills what was adopted, until there is nothing; children of what is killed are adopted in turn."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:
            return
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def main() -> None:
    # A grader may print: answers get a descriptor of their own, and standard output becomes standard error.
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    lines = os.fdopen(requests, "rb", buffering=1 << 16)

    def say(reply: Reply) -> None:
        os.write(answers, orjson.dumps(reply) + b"\n")

    policy = orjson.loads(lines.readline())
    isolated = policy["isolation"] != "off"
    if isolated:
        try:
            isolation.enter(network=policy["network"], visible=policy["folders"])
        except isolation.NotIsolated as error:
            return say({"refused": str(error)})
    try:
        function = load(policy["name"])
    except Exception as error:
        return say({"error": f"{type(error).__name__}: {error}"[:500]})
    say({})
    rows = Rows(function, policy, requests, isolated=isolated)
    with contextlib.suppress(EOFError):
        for line in lines:
            say(rows.grade(line))
    return None


if __name__ == "__main__":
    main()
