"""The Kafka library's own lines: none from threads of ours, all as before from everybody else's."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging, threading, time
import headrace
{setup}
recorder = headrace.Recorder("127.0.0.1:1", agent="bot")
recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
deadline = time.monotonic() + 30
while recorder.trouble is None and time.monotonic() < deadline:
    time.sleep(0.01)
print(recorder.trouble)
{then}
try:
    recorder.close(0)
except headrace.Undelivered:
    pass
"""


def outage(setup: str = "", then: str = "") -> tuple[str, list[str]]:
    """What an agent without a broker prints, and the lines on its standard error."""
    program = PROGRAM.format(setup=setup, then=then)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip(), done.stderr.splitlines()


def test_an_outage_is_one_line_of_ours_and_trouble_says_it() -> None:
    trouble, lines = outage()
    assert trouble == "127.0.0.1:1 has not answered for 2 s"
    assert lines == ["127.0.0.1:1 has not answered for 2 s; records wait"]


@pytest.mark.parametrize("who", ["debug", "themselves"])
def test_who_wants_the_librarys_lines_has_them(who: str) -> None:
    if who == "debug":
        _, lines = outage(setup='logging.basicConfig(); logging.getLogger("aiokafka").setLevel("DEBUG")')
    else:
        _, lines = outage(then='logging.getLogger("aiokafka").error("Unable to connect, says the program")')
    assert any("nable" in line and "connect" in line for line in lines)
