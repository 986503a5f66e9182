"""What an agent pays for `import headrace`, and that every public name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import headrace

HEAVY = ("faust", "mode", "torch", "transformers", "peft", "duckdb", "pyarrow", "numpy", "cryptography")


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_import_loads_next_to_nothing() -> None:
    program = (
        f"import sys, headrace; print([m for m in {(*HEAVY, 'aiokafka', 'pydantic', 'fsspec', 'sqlite3')!r} if m in sys.modules])"
    )
    assert run(program) == "[]\n"


def test_using_everything_loads_nothing_heavy() -> None:
    program = f"""
import sys, headrace
for name in headrace.__all__:
    getattr(headrace, name)
with headrace.Recorder("127.0.0.1:1", agent="bot") as recorder, headrace.Releases("127.0.0.1:1") as releases:
    import headrace_streams.outbox.sender
    recorder.flush(0)
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    assert run(program) == "[]\n"


def test_no_library_is_changed_in_the_process_of_an_agent() -> None:
    program = """
import headrace
for name in headrace.__all__:
    getattr(headrace, name)
with headrace.Recorder("127.0.0.1:1", agent="bot") as recorder, headrace.Releases("127.0.0.1:1") as releases:
    recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
    try:
        releases.current("sql/m", timeout=0.5)
    except headrace.BrokerUnavailable:
        print("used")
    recorder.flush(0.1)
    recorder._engine.outbox.delivered(recorder._engine.outbox.waiting())
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords
print(fetcher.MemoryRecords is MemoryRecords)
"""
    assert run(program) == "used\nTrue\n"


def test_it_is_quick() -> None:
    """Counted in modules, as a shared machine's clock says little: interpreter start has some 40 of its own."""
    assert int(run("import sys; n = len(sys.modules); import headrace; print(len(sys.modules) - n)")) < 40


def test_names() -> None:
    for name in headrace.__all__:
        assert getattr(headrace, name) is not None
    assert set(headrace.__all__) <= set(dir(headrace))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        headrace.nothing_like_this  # noqa: B018
