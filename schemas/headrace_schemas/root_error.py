"""The root of every error of ours, and what an error means to a shell. Knows no single error and imports nothing.

It lives in the lowest package because the lowest error, DecodeError, derives from it; apart from `errors`, because `headrace
--help` needs the exit codes and loads no msgspec.
"""

from __future__ import annotations

OK = 0
NO = 1  # the answer is no
USAGE = 2  # wrong usage or settings
UNREACHABLE = 3  # broker or store can't be reached
FAILED = 4  # the work failed
STUCK = 5  # told to end, and ended hard as something did not
INTERRUPTED = 130


class HeadraceError(Exception):
    """Base of every error that Headrace raises on purpose: its text is one line that names what is wrong and with which value.

    `exit_code` is what a command ends with that lets it through.
    """

    exit_code: int = FAILED
