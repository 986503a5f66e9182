"""The child process of a grader: limits first, then one JSON line in, one out. Run by `grader`; knows nothing of models."""

from __future__ import annotations

import importlib
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import orjson

Function = Callable[..., float]


def load(name: str) -> Function:
    """The function of an entry point, or of `module:function`."""
    module, colon, attribute = name.partition(":")
    if colon:
        function: Function = getattr(importlib.import_module(module), attribute)
        return function
    (entry,) = entry_points(group="headrace.graders", name=name)
    loaded: Function = entry.load()
    return loaded


def limit(memory_mb: int) -> None:
    """Address space may grow by `memory_mb` from here on (where the system can say what is used now); no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    ceiling = used + memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))


def answer(function: Function, line: bytes, options: dict[str, Any]) -> dict[str, Any]:
    """The grade of one request, or why there is none."""
    try:
        value = float(function(**orjson.loads(line), **options))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if not (math.isfinite(value) and 0 <= value <= 100):
        return {"error": f"grade {value} is outside 0-100"}
    return {"grade": value}


def main(policy: dict[str, Any]) -> None:
    # A grader may print: answers get a descriptor of their own, and standard output becomes standard error.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        sys.stdin.buffer.readline()
        try:
            function = load(policy["name"])
        except Exception as error:
            answers.write(orjson.dumps({"error": f"{type(error).__name__}: {error}"[:500]}) + b"\n")
            return
        limit(policy["memory_mb"])
        answers.write(b"{}\n")
        answers.flush()
        for line in sys.stdin.buffer:
            # The default action of this alarm ends the process, whatever the grader is doing and even if its parent is gone.
            signal.setitimer(signal.ITIMER_REAL, policy["seconds"])
            reply = answer(function, line, policy["options"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            answers.write(orjson.dumps(reply) + b"\n")
            answers.flush()


if __name__ == "__main__":
    main(orjson.loads(sys.argv[1]))
