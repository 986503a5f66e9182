"""Child processes that end with this process, however it ends: a signal, a crash, SIGKILL. Knows no program.

Beside the child runs a small shell that waits for the end of a pipe whose other end only this process holds. That works for
programs that are not ours (Java) and on every POSIX system, and runs no code between fork and exec.
"""

from __future__ import annotations

import subprocess

# TERM to the child; ten seconds later KILL to its whole group, at once if the child is gone.
_WAIT = 'read line; kill -s TERM "$0" 2>/dev/null && sleep 10; kill -s KILL -- "-$0" 2>/dev/null'


class ProcessGuard:
    """Guards the child `pid`, which leads a process group of its own (`start_new_session=True`)."""

    def __init__(self, pid: int) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT, str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """The child may outlive this process from here on, or has ended: its number may soon be somebody else's."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()
