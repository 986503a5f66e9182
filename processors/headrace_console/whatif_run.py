"""One run of `headrace whatif` at a time, as a child, and what the last one found. Knows processes and files, no page.

All that it knows lies in a folder: a console that starts anew shows what the last run found, and two consoles start one between
them. The report has no text of an example, so that nothing of somebody who is forgotten stays in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from headrace_cli.common import PROGRAM
from headrace_schemas.root_error import NO, HeadraceError
from headrace_streams.file_lock import try_lock
from headrace_streams.process_guard import ProcessGuard
from headrace_streams.settings import Settings

_LAST_BYTES = 4096  # of what it says that are looked at


class TrialRunning(HeadraceError):
    """Another trial is under way; one line."""

    exit_code = NO


class TrialAsked(Struct, frozen=True, kw_only=True):
    """What somebody wants to be tried."""

    policy: str  # TOML
    by: str
    reason: str
    since: str = ""
    bucket: str = ""


class TrialSeen(Struct, frozen=True, kw_only=True):
    """The last trial. `running`: its last word on how far it is; `error`: why it found nothing."""

    asked: TrialAsked | None = None
    started_ms: int | None = None
    running: str | None = None
    error: str | None = None
    report: dict[str, Any] | None = None


class WhatIfRun:
    """`folder` is made when something is tried."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, asked: TrialAsked, lake: Path, deployment: str) -> None:
        """Begins a trial over a lake. TrialRunning."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._lock()
        if lock is None:
            raise TrialRunning("a trial is under way: the page What-if says how far it is")
        with lock:  # then only the child has it
            policy = self._folder / "policy.toml"
            policy.write_text(asked.policy, encoding="utf-8")
            about = {"started_ms": time.time_ns() // 1_000_000, **msgspec.structs.asdict(asked)}
            (self._folder / "asked.json").write_text(json.dumps(about), encoding="utf-8")
            options = ["--lake", str(lake), "--deployment", deployment, "--policy", str(policy), "--json", "--no-texts"]
            options += ["--top", "20", *(["--since", asked.since] if asked.since else [])]
            options += ["--bucket", asked.bucket] if asked.bucket else []
            with (self._folder / "report.json").open("wb") as out, (self._folder / "said.txt").open("wb") as said:
                child = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, "whatif", *options],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=said, pass_fds=[lock.fileno()], start_new_session=True,
                )  # fmt: skip
        threading.Thread(target=_wait, args=[child, ProcessGuard(child.pid)], name="what-if", daemon=True).start()

    def seen(self) -> TrialSeen:
        """How far the last trial is, or what it found."""
        try:
            about = json.loads((self._folder / "asked.json").read_text(encoding="utf-8"))
            said = (self._folder / "said.txt").read_bytes()[-_LAST_BYTES:].decode(errors="replace").split("\n")
            asked = msgspec.convert(about, TrialAsked)
        except (OSError, ValueError):
            return TrialSeen()
        started = about.get("started_ms")
        last = next((line for line in reversed(said) if line.strip()), "")
        lock = self._lock()
        if lock is None:
            return TrialSeen(asked=asked, started_ms=started, running=last or "it has begun")
        lock.close()
        with suppress(OSError, ValueError):
            report = json.loads((self._folder / "report.json").read_bytes())
            return TrialSeen(asked=asked, started_ms=started, report=report)
        return TrialSeen(asked=asked, started_ms=started, error=last or "it ended without a word")

    def _lock(self) -> IO[bytes] | None:
        """The lock that a running trial holds, if none runs."""
        file = os.fdopen(os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600), "rb")
        if try_lock(file):
            return file
        file.close()
        return None


def _wait(child: subprocess.Popen[bytes], guard: ProcessGuard) -> None:
    child.wait()
    guard.release()


def run_of(settings: Settings) -> WhatIfRun:
    """The trials of a deployment's console."""
    return WhatIfRun(settings.data_dir / "console" / f"{settings.deployment}.what-if")
