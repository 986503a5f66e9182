"""What commands print, as a terminal may have it: nobody's text moves its cursor, colours it or turns text around.

It is done where text leaves the process and nowhere else, so that no command can forget it. What a command itself wants of the
terminal (a progress line that is written over) it says by `control`; rich, which draws the demo, finds the terminal by itself.
Knows no command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

# Controls (C0 but line ends and tabs, delete, C1), marks that turn text around, separators of lines, halves of surrogates.
_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(f"[{_UNSEEN}]")
_MARKS = re.compile(r"[\\`*<>\[\]|]")
_CONTROL_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # what JSON itself does not escape


def plain(text: str) -> str:
    r"""`text` with what is not to be seen, or moves a cursor, as escapes such as `\x1b` and `\u202e`."""
    return _CONTROL.sub(_escaped, text) if not (text.isascii() and text.isprintable()) else text


def visible(text: str, *, lines: bool = False) -> str:
    r"""`text` on one line (on its own with `lines`) with all that can't be seen as escapes, harmless or not: `\n` and `\u200b`
    too, which `plain` leaves."""
    kept = "\n\t" if lines else ""
    return "".join(
        character if character.isprintable() or character in kept else character.encode("unicode_escape").decode()
        for character in text
    )


def markdown(text: str) -> str:
    """Anybody's text within a line of Markdown: no link, picture, HTML, code or cell is made of it."""
    return _MARKS.sub(r"\\\g<0>", visible(text))


def plain_json(encoded: bytes) -> bytes:
    r"""JSON that means the same and is plain too: `\u009b`."""
    text = encoded.decode()
    return _CONTROL_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() if not text.isprintable() else encoded


def control(text: str) -> None:
    """Writes to standard error as it is: for the terminal, never anybody's text."""
    stream = sys.stderr
    stream = stream.rich_proxied_file if isinstance(stream, PlainOutput) else stream
    stream.write(text)
    stream.flush()


class PlainOutput:
    """A text stream on which everything is written plainly. All else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # the name by which rich looks for the terminal behind a stream

    def write(self, text: str) -> int:
        return self.rich_proxied_file.write(plain(text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Within, standard output and standard error are plain."""
    out: Any = PlainOutput(sys.stdout)
    error: Any = PlainOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(error):
        yield


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
