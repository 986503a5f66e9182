"""`headrace worker` that says where each of its asyncio tasks stands when it gets SIGUSR1: a run that does not recover asks."""

from __future__ import annotations

import asyncio
import signal
import sys
from types import FrameType
from typing import Any

from headrace_cli.main import main


def dump(_number: int, _frame: FrameType | None) -> None:
    for task in asyncio.all_tasks():
        print(f"--- {task.get_name()}", file=sys.stderr)
        waiting: Any = task.get_coro()
        while waiting is not None:  # a stack of the outermost frame only says little
            code = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None) or getattr(waiting, "gi_frame", None)
            if code is None:
                print(f"    {waiting!r}", file=sys.stderr)
                break
            print(f"    {code.f_code.co_filename}:{code.f_lineno} {code.f_code.co_name}", file=sys.stderr)
            waiting = (
                getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None) or getattr(waiting, "gi_yieldfrom", None)
            )
    sys.stderr.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, dump)
    sys.argv[1:] = ["worker"]
    main()
