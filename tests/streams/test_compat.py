"""What is used of aiokafka's insides, each thing once: odd header names, addresses of a client. No broker."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest
from aiokafka.errors import NotCoordinatorForGroupError

from headrace_streams.kafka import clients, compat
from headrace_streams.kafka.compat import Batches
from headrace_streams.settings import Settings
from support.odd_headers import builder, name

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def records(data: bytes) -> list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]:
    """As the fetcher goes through them: by batch, and no offset twice."""
    batches = Batches(data)
    found: dict[int, Any] = {}
    while batches.has_next():
        batch = batches.next_batch()
        assert batch.validate_crc()
        for record in batch:
            found.setdefault(record.offset, record)
        assert batch.next_offset == max(found) + 1
    return [(record.offset, record.key, record.value, list(record.headers)) for record in found.values()]


def batch(first: bytes, second: bytes, codec: int = 0) -> bytes:
    made = builder(codec)
    made.append(0, 1, b"a", b"1" * 300, [("plain", b"\xff")])
    made.append(1, 1, None, None, [(name(first), None), ("é", b"v"), (name(second), b"")])
    made.append(2, 1, b"", b"3", [])
    return bytes(made.build())


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_odd_names_are_readable_and_nothing_else_changes(codec: int) -> None:
    expected = [
        (0, b"a", b"1" * 300, [("plain", b"\xff")]),
        (1, None, None, [("??x", None), ("é", b"v"), ("?", b"")]),
        (2, b"", b"3", []),
    ]
    assert records(batch(b"\xff\xfex", b"\xc3", codec)) == expected


def test_batches_beside_it_are_read_as_ever() -> None:
    good, odd = batch(b"x", b"y"), batch(b"\xff", b"y")
    names = [[header for header, _ in headers] for _, _, _, headers in records(good)]
    assert names == [["plain"], ["x", "é", "y"], []]
    found = Batches(good + odd + good)
    assert found.size_in_bytes() == 2 * len(good) + len(odd)
    seen = []
    while found.has_next():
        seen.append({record.offset: [header for header, _ in record.headers] for record in found.next_batch()})
    assert [batch[1] for batch in seen] == [["x", "é", "y"], ["?", "é", "y"], ["x", "é", "y"]]


def test_a_client_says_which_brokers_it_was_told_of() -> None:
    settings = Settings(bootstrap="127.0.0.1:1,127.0.0.2:2")

    async def told() -> list[set[str]]:
        made = (clients.consumer(settings), clients.producer(settings), clients.admin(settings))
        said = [set(compat.servers(client).split(",")) for client in made]
        for client in made:
            await clients.close(client)
        return said

    assert asyncio.run(told()) == [{"127.0.0.1:1", "127.0.0.2:2"}] * 3


UNTOUCHED = "assert fetcher.MemoryRecords is memory_records.MemoryRecords"
TOUCHED = "assert fetcher.MemoryRecords is compat.Batches"


@pytest.mark.parametrize(
    ("what", "then"),
    [
        ("import headrace_streams.kafka.clients, headrace_streams.kafka.admin, headrace_streams.outbox.sender", UNTOUCHED),
        ("compat.install()", TOUCHED),
        ("compat.install(); compat.install()", TOUCHED),
        ("from headrace_cli.main import invoke; invoke(['topics', 'check', '--bootstrap', '127.0.0.1:1'])", TOUCHED),
    ],
)
def test_a_process_reads_odd_names_only_when_it_was_told_to(what: str, then: str) -> None:
    program = f"""
from aiokafka.consumer import fetcher
from aiokafka.record import memory_records
from headrace_streams.kafka import clients, compat
clients.DEADLINE = 0.1
{what}
{then}
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_a_task_of_the_library_ended_with_after_all_is_dropped_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def main() -> None:
        compat.drop_lost_errors(asyncio.get_running_loop())
        for error in (NotCoordinatorForGroupError(), ValueError("a bug")):
            await asyncio.wait({asyncio.create_task(fail(error))})
        gc.collect()

    asyncio.run(main())
    assert ["a bug" in str(record.exc_info) for record in caplog.records] == [True]
