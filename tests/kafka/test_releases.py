"""Releases on a real broker: what to serve now, each change of it, and adapters that are what was evaluated or nothing."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace_schemas.codec import encode
from headrace_schemas.events import ReleasePromoted, ReleaseRevoked, ReleaseRolledBack
from headrace_streams import release_log
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.settings import Settings
from support.odd_headers import name, odd_names_allowed
from support.released import BUCKET, adapter, awrite, event, release, write

pytestmark = pytest.mark.kafka


def open_releases(settings: Settings, **options: object) -> headrace.Releases:
    places: dict[str, Any] = {"store": settings.store, "cache": settings.data_dir / "cache", **options}
    return headrace.Releases(settings.bootstrap, deployment=settings.deployment, **places)


class Follower:
    """Follows in a thread; `next` waits for one release."""

    def __init__(self, releases: headrace.Releases) -> None:
        self._seen: queue.Queue[headrace.Release | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(releases,), daemon=True)
        self._thread.start()

    def _run(self, releases: headrace.Releases) -> None:
        for one in releases.follow():
            self._seen.put(one)
        self._seen.put(None)

    def next(self) -> headrace.Release | None:
        return self._seen.get(timeout=30)


@pytest.fixture
def releases(settings: Settings) -> Iterator[headrace.Releases]:
    with open_releases(settings, buckets=[BUCKET]) as releases:
        yield releases


def test_nothing_is_released_yet(releases: headrace.Releases) -> None:
    assert releases.current(BUCKET) is None
    with pytest.raises(ValueError, match="code/other"):
        releases.current("code/other")


def test_a_release_has_all_that_an_agent_needs(settings: Settings, tmp_path: Path) -> None:
    made = adapter(settings, tmp_path / "made")
    write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, made)))
    with open_releases(settings) as releases:
        served = releases.current(BUCKET)
        assert served is not None
        assert (served.bucket, served.id, served.sequence, served.kind) == (BUCKET, f"{BUCKET}-1", 1, "promoted")
        assert (served.digest, served.version_id, served.reason, served.base) == (made.digest, "v1", "better", "tiny-sql")
        assert served.adapter == made
        folder = served.fetch()
        assert folder == settings.data_dir / "cache" / "adapters" / made.digest[7:]
        assert (folder / "adapter_config.json").read_text() == '{"r":8}'


def test_a_forged_release_is_served_by_nobody(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may write the topic and puts something there is passed over, and whoever reads goes on with what the stage said."""
    right, wrong = adapter(settings, tmp_path / "right", 1), adapter(settings, tmp_path / "wrong", 2)
    write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, right)))
    forged = encode(event(ReleasePromoted, release(2, wrong)))
    topic, key = clients.full_name(settings, "releases"), BUCKET.encode()
    place = partition_for(key, settings.partitions)

    async def forge() -> None:
        async with clients.connected(clients.producer(settings)) as producer:
            await producer.send_and_wait(topic, forged, key, place)
            await producer.send_and_wait(topic, forged, key, 1 - place, headers=list(origin_without_input("release")))

    asyncio.run(forge())
    with open_releases(settings) as releases:
        served = releases.current(BUCKET)
        assert served is not None
        assert served.adapter == right
        assert releases.skipped == 2
        write(settings, "releases", BUCKET, event(ReleasePromoted, release(2, None)))
        deadline = time.monotonic() + 30
        while (served := releases.current(BUCKET)) is None or served.sequence < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert served.adapter is None
    assert sum("is not the release stage's and is skipped" in line for line in caplog.messages) == 2
    now = asyncio.run(release_log.served(Reader(settings)))
    assert now[BUCKET].sequence == 2


def test_follow_gives_the_current_one_and_then_each_change(
    settings: Settings, releases: headrace.Releases, tmp_path: Path
) -> None:
    one, two = adapter(settings, tmp_path / "1", 1), adapter(settings, tmp_path / "2", 2)
    other = "code/tiny"
    write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, one)), event(ReleasePromoted, release(2, two)))
    write(settings, "releases", other, event(ReleasePromoted, release(1, one, other)))
    deadline = time.monotonic() + 30
    while (served := releases.current(BUCKET)) is None or served.sequence < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    follower = Follower(releases)
    for expected in (
        release(2, two),
        release(3, one, reason="asked for"),
        release(4, None, reason="revoked"),
        release(5, two),
    ):
        if expected.sequence > 2:
            kind = {3: ReleaseRolledBack, 4: ReleaseRevoked, 5: ReleasePromoted}[expected.sequence]
            write(settings, "releases", other, event(kind, release(expected.sequence, None, other)))
            write(settings, "releases", BUCKET, event(kind, expected), event(kind, expected))  # twice: said once
        seen = follower.next()
        assert seen is not None
        assert (seen.sequence, seen.adapter, seen.reason) == (expected.sequence, expected.adapter, expected.reason)
        if seen.adapter is None:
            assert seen.digest is None
            assert (seen.kind, seen.base) == ("revoked", "tiny-sql")
            with pytest.raises(ValueError, match="no adapter"):
                seen.fetch()
    late = Follower(releases)
    seen = late.next()
    assert seen is not None
    assert seen.sequence == 5, "who comes late begins with what is served now"
    releases.close()
    assert follower.next() is None
    assert late.next() is None
    assert list(releases.follow()) == []
    with open_releases(settings) as all_of_them:
        follower = Follower(all_of_them)
        assert {served.bucket for served in (follower.next(), follower.next()) if served} == {BUCKET, other}


def test_a_wrong_adapter_is_refused_and_the_old_one_stays(
    settings: Settings, releases: headrace.Releases, tmp_path: Path
) -> None:
    good, bad, gone = (adapter(settings, tmp_path / str(seed), seed) for seed in (1, 2, 3))
    weights = Path(settings.store) / "adapters" / bad.digest[7:] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    (Path(settings.store) / "adapters" / gone.digest[7:] / "adapter_model.safetensors").unlink()
    follower, in_use, refused = Follower(releases), [], []
    for sequence, made in enumerate((good, bad, gone), 1):
        write(settings, "releases", BUCKET, event(ReleasePromoted, release(sequence, made)))
        served = follower.next()
        assert served is not None
        try:
            in_use.append(served.fetch())
        except headrace.AdapterRefused as error:
            refused.append(str(error))
    assert len(refused) == 2
    assert all("adapter_model.safetensors" in message for message in refused)
    assert [folder.name for folder in in_use] == [good.digest[7:]]
    assert (in_use[0] / "adapter_model.safetensors").exists()


def test_what_is_no_release_is_passed_over(settings: Settings, releases: headrace.Releases, tmp_path: Path) -> None:
    made = adapter(settings, tmp_path / "made")

    async def spoil() -> None:
        async with clients.connected(clients.producer(settings)) as producer:
            for value in (b"{", None, b"null"):
                for partition in (0, 1):
                    await producer.send_and_wait(clients.full_name(settings, "releases"), value, BUCKET.encode(), partition)

    asyncio.run(spoil())
    write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, made)))
    served = Follower(releases).next()
    assert served is not None
    assert served.digest == made.digest


def test_a_header_name_that_is_no_text_is_an_error_and_not_the_end_of_the_agent(settings: Settings) -> None:
    """Only we write this topic, so an agent's process has no patch against it; whoever breaks it is named in its log."""

    async def spoil() -> None:
        async with clients.connected(clients.producer(settings)) as producer:
            with odd_names_allowed():
                batch = producer.create_batch()
                assert batch.append(key=b"k", value=b"x", timestamp=None, headers=[(name(b"\xff"), b"v")])
                await (await producer.send_batch(batch, clients.full_name(settings, "releases"), partition=0))

    asyncio.run(spoil())
    program = f"""
import headrace
with headrace.Releases({settings.bootstrap!r}, deployment={settings.deployment!r}) as releases:
    for _ in range(2):
        try:
            print(releases.current("sql/m", timeout=3))
        except headrace.BrokerUnavailable as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("UnicodeDecodeError") == 2, "said whenever somebody asks"
    assert done.stderr.count("UnicodeDecodeError") == 1, "logged once"
    assert "Traceback" not in done.stderr


def test_async_releases_are_the_same(settings: Settings, tmp_path: Path) -> None:
    one, two = adapter(settings, tmp_path / "1", 1), adapter(settings, tmp_path / "2", 2)
    cache = tmp_path / "cache"

    async def serve() -> list[str | None]:
        seen: list[str | None] = []
        await awrite(settings, "releases", BUCKET, event(ReleasePromoted, release(1, one)))
        async with headrace.AsyncReleases(
            settings.bootstrap, buckets=[BUCKET], deployment=settings.deployment, store=settings.store, cache=cache
        ) as releases:
            current = await releases.current(BUCKET)
            assert current is not None
            assert (await current.fetch()).is_dir()
            async for served in releases.follow():
                seen.append(served.digest)
                if served.sequence == 1:
                    await awrite(settings, "releases", BUCKET, event(ReleasePromoted, release(2, two)))
                else:
                    await releases.close()
        return seen

    assert asyncio.run(asyncio.wait_for(serve(), 60)) == [one.digest, two.digest]


@pytest.mark.slow(seconds=10)
def test_the_broker_goes_and_comes_back(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path / "kafka")
    with kafka:
        settings = Settings(bootstrap=kafka.bootstrap, deployment="away", partitions=2, data_dir=tmp_path)
        asyncio.run(admin.declare(settings))
        one, two = adapter(settings, tmp_path / "1", 1), adapter(settings, tmp_path / "2", 2)
        write(settings, "releases", BUCKET, event(ReleasePromoted, release(1, one)))
        with open_releases(settings) as releases:
            follower = Follower(releases)
            served = follower.next()
            assert served is not None
            assert served.sequence == 1
            kafka.stop()
            current = releases.current(BUCKET)
            assert current is not None
            assert current.sequence == 1, "what is known stays known"
            kafka.start()
            write(settings, "releases", BUCKET, event(ReleasePromoted, release(2, two)))
            served = follower.next()
            assert served is not None
            assert served.sequence == 2


def test_a_broker_that_is_not_there_is_named() -> None:
    with headrace.Releases("127.0.0.1:1") as releases:
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
            releases.current(BUCKET, timeout=0.2)
        follower = Follower(releases)
    assert follower.next() is None, "close ends a follow that never had anything to say"
    with pytest.raises(TypeError, match="a list"):
        headrace.Releases("127.0.0.1:1", buckets="sql/tiny-sql")
