"""Runs pip for `make install` and says what it is doing: what comes, what is under way, how long it has taken. Needs no package.

    .venv/bin/python deploy/install.py --editable '.[demo]'        (what follows the file's name goes to `pip install`)

On a terminal one line is rewritten; in a log a line comes every ten seconds. All of pip's output is in `pip.log` in the virtual
environment. When pip fails its own error is shown and the exit code is pip's.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TextIO

HEAD = """\
installing Headrace into {folder}, once: about a hundred packages, of which torch is by far the largest.
With CUDA (the usual build) that is some 5 GB and several minutes; for CPU alone a tenth of it: README, "Two commands"."""
TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0
RAW_PROGRESS = (24, 1)  # pip from this version on can print progress as plain numbers
SHOWN_LINES, SHOWN_CHARACTERS = 15, 200
_WHEEL = re.compile(r"(?:Downloading|Using cached) (?:\S*/)?([A-Za-z0-9_.]+?)-\d\S* \(([^)]*)\)")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


class Activity:
    """What pip is doing, from the lines that it prints."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.files = 0
        self.installed = 0
        self._doing = "starting pip"
        self._percent = ""

    def take(self, line: str) -> None:
        progress = _PROGRESS.match(line.strip())
        if progress:
            done, of = int(progress[1]), int(progress[2])
            self._percent = f", {100 * done // of} %" if of else ""
            return
        self.lines.append(line)
        words = line.split()
        wheel = _WHEEL.search(line)
        if wheel:
            self.files += 1
            self._set(f"fetching {wheel[1]} ({wheel[2]})")
        elif words[:1] == ["Collecting"] and len(words) > 1:
            self._set(f"looking for {re.split(r'[^A-Za-z0-9._-]', words[1])[0]}")
        elif line.startswith("Installing collected packages:"):
            names = line.partition(":")[2].replace(",", " ").split()
            self._set(f"unpacking {len(names)} packages{', which takes a while for torch' if 'torch' in names else ''}")
        elif line.startswith("Successfully installed"):
            self.installed = len(words) - 2
        elif words[:1] in (["Building"], ["Preparing"], ["Installing"]):
            self._set(line.strip()[0].lower() + line.strip()[1:])

    def _set(self, doing: str) -> None:
        self._doing, self._percent = doing, ""

    def __str__(self) -> str:
        return f"{self.files} packages fetched; {self._doing}{self._percent}" if self.files else f"{self._doing}{self._percent}"


class Screen:
    """Where it is shown: a line that is rewritten on a terminal, or a line now and then in a log."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._began = self._shown = time.monotonic()
        self.seconds = TERMINAL_SECONDS if self._terminal else LOG_SECONDS

    def clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def show(self, activity: Activity) -> None:
        """At most once in `seconds`."""
        if time.monotonic() - self._shown < self.seconds:
            return
        self._shown = time.monotonic()
        text = f"{self.clock():>6}  {activity}"
        if self._terminal:
            self._out.write(f"\r\033[K{text[: _width() - 1]}")
        else:
            self._out.write(f"{text}\n")
        self._out.flush()

    def line(self, text: str) -> None:
        self._out.write(f"{chr(13)}\033[K{text}\n" if self._terminal else f"{text}\n")
        self._out.flush()


def install(arguments: Sequence[str], out: TextIO, error: TextIO) -> int:
    """Runs `pip install` with these arguments; pip's exit code."""
    screen, activity = Screen(out), Activity()
    log = Path(sys.prefix, "pip.log")
    screen.line(HEAD.format(folder=_shown(Path(sys.prefix))))
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", _progress()]
    with (
        log.open("w", encoding="utf-8") as whole,
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as pip,
    ):
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(pip, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=screen.seconds)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line:
                whole.write(line)
                activity.take(line.rstrip())
                if line.startswith("WARNING: Retrying"):  # pip goes on trying for minutes where nothing answers
                    screen.line(line.rstrip()[:SHOWN_CHARACTERS])
            screen.show(activity)
    if pip.returncode:
        screen.line(f"pip has failed after {screen.clock()}; all that it said is in {_shown(log)}. Its error:")
        error.write("\n".join(telling(activity.lines)) + "\n")
    else:
        screen.line(f"installed in {screen.clock()}, {activity.installed} packages new")
    return pip.returncode


def telling(lines: Sequence[str]) -> list[str]:
    """From pip's first error on, or the last lines where none is called one; not more than can be read."""
    first = next((number for number, line in enumerate(lines) if line.lstrip().lower().startswith("error")), None)
    shown = lines[-SHOWN_LINES:] if first is None else lines[first : first + SHOWN_LINES]
    return [line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} …" for line in shown]


def _shown(path: Path) -> str:
    """Relative where it is under the folder that people stand in."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _read(pip: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in pip.stdout or ():
        lines.put(line)
    lines.put(None)


def _progress() -> str:
    version = tuple(int(part) for part in re.findall(r"\d+", metadata.version("pip"))[:2])
    return "raw" if version >= RAW_PROGRESS else "off"


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 80


if __name__ == "__main__":
    try:
        sys.exit(install(sys.argv[1:], sys.stdout, sys.stderr))
    except KeyboardInterrupt:
        sys.exit(130)
