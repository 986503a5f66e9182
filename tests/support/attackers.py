"""Graders that attack what they run in, or run an answer that does. Each returns 50 when it got nowhere, or says what else."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SEEN: list[str] = []


def reads_secrets(prompt: Any, output: str, example: Any) -> float:
    """`output` is a secret of the trainer: in no environment that can be read, and in no command line."""
    found = [*os.environ.values()]
    for name in ("environ", "cmdline"):
        for file in Path("/proc").glob(f"*/{name}"):
            with contextlib.suppress(OSError):
                found.append(file.read_bytes().decode(errors="replace"))
    return 100.0 if any(output in text for text in found) else 50.0


def has_variable(prompt: Any, output: str, example: Any) -> float:
    return 100.0 if output in os.environ else 50.0


def connects(prompt: Any, output: str, example: Any) -> float:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(output)), timeout=5):
        return 100.0
    return 50.0


def writes(prompt: Any, output: str, example: Any) -> float:
    with contextlib.suppress(OSError):
        Path(output).write_text("it was here")
        return 100.0
    return 50.0


def reads(prompt: Any, output: str, example: Any) -> float:
    with contextlib.suppress(OSError):
        return 100.0 if Path(output).read_text() else 0.0
    return 50.0


def daemonises(prompt: Any, output: str, example: Any) -> float:
    """A process in a session of its own, whose parent is gone. `output` marks its command line."""
    sleeps = "[sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]"
    program = f"import os, subprocess, sys; os.setsid(); subprocess.Popen({sleeps})"
    subprocess.run([sys.executable, "-c", program, output], check=True)
    return 50.0


def bombs(prompt: Any, output: str, example: Any) -> float:
    if output == "good":
        return 50.0
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def runs(prompt: Any, output: str, example: Any) -> float:
    """Runs the answer in its own process, as it should not."""
    exec(output, {})
    return 50.0


def runs_apart(prompt: Any, output: str, example: Any) -> float:
    """Runs the answer in a process of its own, as it should: 60 when that ended well."""
    done = subprocess.run([sys.executable, "-I", "-c", output], capture_output=True, check=False)
    return 60.0 if done.returncode == 0 else 50.0


def fills(prompt: Any, output: str, example: Any) -> float:
    for number in range(1000):
        Path(f"file{number}").write_bytes(b"0" * 1_000_000)
    return 100.0


def remembers(prompt: Any, output: str, example: Any) -> float:
    """100 when anything is left of the row before."""
    found = (
        bool(SEEN) or any(Path(folder, "left").exists() for folder in (".", "/tmp", os.environ["TMPDIR"])) or "LEFT" in os.environ
    )
    SEEN.append(output)
    os.environ["LEFT"] = output
    Path("left").write_text(output)
    Path(os.environ["TMPDIR"], "left").write_text(output)
    return 100.0 if found else 50.0


def prints(prompt: Any, output: str, example: Any) -> float:
    """Prints so many megabytes; without end for a negative number."""
    line, lines = "x" * 1023 + "\n", int(output) * 1024
    while lines:
        sys.stdout.write(line)
        lines -= 1
    return 50.0


def kills(prompt: Any, output: str, example: Any) -> float:
    """Everybody whom it can see, and its parent."""
    for pid in (os.getppid(), -1):
        with contextlib.suppress(OSError):
            if pid != 0:
                os.kill(pid, signal.SIGKILL)
    return 50.0


def sleeps(prompt: Any, output: str, example: Any) -> float:
    time.sleep(600)
    return 50.0
