"""The process of answers, forked for each instead of started anew: what checks of many answers cost is mostly Python's start.

Run by path it is that process; knows the module of `headrace_trainer.evaluation.answer_child` by its file."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def forked_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checks use one process that forks, until the end of the block."""
    from headrace_trainer.evaluation import answer_child, checks

    command = [sys.executable, __file__, answer_child.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server, monkeypatch.context() as patched:
        assert server.stdin is not None
        assert server.stdout is not None
        stdin, stdout = server.stdin, server.stdout

        def child(request: Mapping[str, Any], seconds: float) -> list[dict[str, Any]]:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            results = json.loads(stdout.readline())
            if isinstance(results, dict):
                raise checks.CheckFailed(str(results.get("error")))
            return list(results)

        patched.setattr(checks, "_child", child)
        yield
        stdin.close()


def main() -> None:
    functions = runpy.run_path(sys.argv[1])
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if os.fork() == 0:
            results = functions["tests_of" if "tests" in request else "runs_of"](request)
            os.write(1, json.dumps(results).encode() + b"\n")
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main()
