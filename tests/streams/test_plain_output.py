"""Whatever a text says, a command that prints it leaves the terminal as it is; JSON says the same as before."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_cli import main
from headrace_cli.common import CliError, emit, note, progress
from headrace_cli.main import invoke
from headrace_cli.plain_output import PlainOutput, plain

HOSTILE = "a\x1bc\x1b]0;title\x07\r\x9b31m\x7f\u202egnp.exe\u2066\u2028b\udcffc"
SHOWN = "a\\x1bc\\x1b]0;title\\x07\\x0d\\x9b31m\\x7f\\u202egnp.exe\\u2066\\u2028b\\udcffc"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def is_plain(text: str) -> bool:
    return not [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t"]


@given(TEXTS)
def test_what_is_plain_has_no_control_and_what_was_plain_stays(text: str) -> None:
    assert is_plain(plain(text))
    assert plain(plain(text)) == plain(text)
    if text.isprintable():
        assert plain(text) == text


def test_every_way_to_print_is_plain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def prints(_: object) -> int:
        click.echo(HOSTILE)
        click.secho(HOSTILE, err=True)
        note(HOSTILE)
        progress(HOSTILE)
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE, "\n"])
        return 0

    monkeypatch.setattr(main, "_invoke", prints)
    assert invoke([]) == 0
    out, error = capsys.readouterr()
    assert out == f"{SHOWN}\n" * 3
    assert error == f"{SHOWN}\n" * 4
    assert not isinstance(sys.stdout, PlainOutput)


def test_errors_and_unknown_words_are_plain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke([HOSTILE.replace("\udcff", "")]) == 2
    assert is_plain(capsys.readouterr().err)

    def fails(*_: object) -> None:
        raise CliError(1, f"reason: {HOSTILE}")

    monkeypatch.setattr(main.headrace, "invoke", fails)
    assert invoke(["config"]) == 1
    error = capsys.readouterr().err
    assert "\\x1bc" in error
    assert (is_plain(error), error.count("\n")) == (True, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_json_is_plain_and_means_the_same(capsys: pytest.CaptureFixture[str], text: str) -> None:
    emit({"text": text, text: 1})
    out = capsys.readouterr().out
    assert is_plain(out)
    assert out.count("\n") == 1
    assert json.loads(out) == {"text": text, text: 1}


def test_a_progress_line_is_written_over_on_a_terminal_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(main, "_invoke", lambda _: progress(HOSTILE.replace("\udcff", "")))
    invoke([])
    written = terminal.getvalue()
    assert written.startswith("\r\x1b[K")
    assert is_plain(written.removeprefix("\r\x1b[K"))


def test_rich_finds_the_terminal_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    plainly = PlainOutput(io.StringIO())
    monkeypatch.setattr(sys, "stdout", plainly)
    console = Console(force_terminal=True, color_system="standard", width=40)
    console.print("[red]red[/red]")
    assert "\x1b[31m" in plainly.getvalue()
