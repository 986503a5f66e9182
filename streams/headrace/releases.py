"""Releases: what to serve now, per bucket, and every change of it. Knows the topic `releases` and the reader's adapter store.

The log says *what* to serve, by digest. Where its bytes come from is the reader's own `store`: nothing on the log is an address.

An agent stays on what it has until it holds something better:

    for release in releases.follow():
        try:
            folder = release.fetch() if release.adapter else None
        except headrace.StoreError as error:        # missing, damaged or not what was evaluated: the old one stays in use
            log.warning("not switching: %s", error)
            continue
        swap_to(folder)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from platformdirs import user_cache_path

from headrace.library_log import hush_this_thread
from headrace_schemas.derived import Adapter, ReleaseDecision
from headrace_streams.background import Background
from headrace_streams.backoff import Backoff
from headrace_streams.settings import Settings, from_arguments

if TYPE_CHECKING:
    from headrace_streams.kafka.reader import KafkaRecord, TopicPartition
    from headrace_streams.release_log import ReleaseFilter
    from headrace_streams.signing import TrustedKeys

log = logging.getLogger("headrace.releases")

WAIT = 30.0  # seconds that `current` waits for the broker
STOP = 5.0
BACKOFF = (0.1, 5.0)  # first and longest seconds between attempts to reach the broker


@dataclass(frozen=True, slots=True)
class ReleaseInfo:
    """What to serve for a bucket. `adapter` and `digest` None: the base itself. `sequence` counts 1, 2, 3 … per bucket;
    `kind` says how it came about; `decision` has the rest of what the release stage said."""

    bucket: str
    id: str
    sequence: int
    kind: Literal["promoted", "rolled_back", "revoked"]
    base: str
    adapter: Adapter | None
    version_id: str | None
    reason: str
    decision: ReleaseDecision = field(repr=False)
    cache: Path = field(repr=False)
    store: str = field(repr=False)

    @property
    def digest(self) -> str | None:
        """Digest of the adapter: what an interaction's `adapter` field wants."""
        return self.adapter.digest if self.adapter else None

    def _fetch(self) -> Path:
        from headrace_streams.adapter_store import Store, fetch

        if self.adapter is None:
            raise ValueError(f"release {self.id} serves the base {self.base}: there is no adapter to fetch")
        return fetch(Store(self.store), self.adapter.digest, self.cache, self.adapter.files)


@dataclass(frozen=True, slots=True)
class Release(ReleaseInfo):
    def fetch(self) -> Path:
        """A folder with the PEFT adapter, every file verified; from the cache when it is there, else from the reader's store.
        Blocks while it loads, and no longer than a store may take to answer.

        AdapterRefused: not in the store, or not what was evaluated. StoreError: the store can't be reached. ValueError: no
        adapter."""
        return self._fetch()


@dataclass(frozen=True, slots=True)
class AsyncRelease(ReleaseInfo):
    async def fetch(self) -> Path:
        """As `Release.fetch`, in a thread."""
        return await asyncio.to_thread(self._fetch)


R = TypeVar("R", bound=ReleaseInfo)
Deliver = Callable[[R | None], object]


class _Feed(Generic[R]):
    """Reads the topic from its beginning in a thread of its own and tells subscribers; starts anew after whatever fails."""

    def __init__(
        self, settings: Settings, buckets: Collection[str] | None, make: type[R], cache: Path, trusted: TrustedKeys | None
    ) -> None:
        self._settings, self.buckets, self._make, self._cache, self._trusted = settings, buckets, make, cache, trusted
        self._changed = threading.Condition()
        self._table: dict[str, R] = {}
        self._subscribers: list[Deliver[R]] = []
        self._positions: dict[TopicPartition, int] = {}
        self._complete = self._closed = False
        self.trouble: str | None = None
        self.skipped = 0
        self._taken: ReleaseFilter | None = None
        self._background = Background("headrace-releases", self._run)

    @property
    def here(self) -> bool:
        return self._background.here

    def current(self, bucket: str, timeout: float) -> R | None:
        if self.buckets is not None and bucket not in self.buckets:
            raise ValueError(f"bucket {bucket!r} is not among those followed: {', '.join(sorted(self.buckets))}")
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._complete:
                if self._closed:
                    raise RuntimeError("these Releases are closed")
                if (left := deadline - time.monotonic()) <= 0:
                    from headrace_streams.kafka.clients import BrokerUnavailable

                    why = self.trouble or "no answer yet"
                    raise BrokerUnavailable(f"releases can't be read from {self._settings.bootstrap} within {timeout:g} s: {why}")
                self._changed.wait(left)
            return self._table.get(bucket)

    def subscribe(self, deliver: Deliver[R]) -> None:
        """`deliver` gets what is served now, as soon as that is known, then each change, and None at the end."""
        with self._changed:
            if self._closed:
                deliver(None)
                return
            if self._complete:
                for release in self._table.values():
                    deliver(release)
            self._subscribers.append(deliver)

    def unsubscribe(self, deliver: Deliver[R]) -> None:
        with self._changed, contextlib.suppress(ValueError):
            self._subscribers.remove(deliver)

    def close(self) -> None:
        if not self.here:  # in a forked child: the parent's to close, and its lock may have been held when we were forked
            return
        self._background.stop(STOP)
        with self._changed:
            self._closed = True
            for deliver in self._subscribers:
                deliver(None)
            self._subscribers.clear()
            self._changed.notify_all()

    async def _run(self) -> None:
        backoff = Backoff(*BACKOFF)
        while True:
            try:
                async for _ in self._read():
                    self.trouble = None
                    backoff.reset()
            except Exception as error:  # an agent goes on serving what it has, however long the broker is away
                text = f"{type(error).__name__}: {error}".rstrip(": ")
                if text != self.trouble:
                    log.warning("releases can't be read from %s: %s; trying on", self._settings.bootstrap, text)
                self.trouble = text
            await backoff.wait()

    async def _read(self) -> AsyncIterator[None]:
        """Yields after each answer of the broker, and only ends by raising."""
        from headrace_streams.kafka import clients
        from headrace_streams.kafka.reader import OffsetOutOfRangeError, TopicPartition
        from headrace_streams.release_log import ReleaseFilter

        hush_this_thread()
        topic = clients.full_name(self._settings, "releases")
        counts = await clients.partition_counts(self._settings, ["releases"])
        partitions = [TopicPartition(topic, number) for number in range(counts["releases"])]
        if self._taken is None:
            self._taken = ReleaseFilter(counts["releases"], "releases", self._trusted)
        async with clients.connected(clients.consumer(self._settings)) as consumer:
            consumer.assign(partitions)
            begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
            for partition in partitions:
                consumer.seek(partition, self._positions.get(partition, begins[partition]))
            while True:
                try:
                    batches = await consumer.getmany(timeout_ms=1000 if self._complete else 100)
                except OffsetOutOfRangeError:
                    self._positions.clear()  # compaction never goes past us while we read: the topic was made anew
                    self._taken = None
                    raise
                for records in batches.values():
                    for record in records:
                        self._apply(record)
                for partition in partitions:
                    self._positions[partition] = await consumer.position(partition)
                if not self._complete and all(self._positions[partition] >= ends[partition] for partition in partitions):
                    self._announce_all()
                yield

    def _apply(self, record: KafkaRecord) -> None:
        assert self._taken is not None
        taken = self._taken.decision(record)
        self.skipped = self._taken.skipped
        if taken is None or taken.kind not in ("promoted", "rolled_back", "revoked"):
            return
        decision = taken.data
        if self.buckets is not None and decision.bucket not in self.buckets:
            return
        release = self._make(
            bucket=decision.bucket,
            id=decision.release_id,
            sequence=decision.sequence,
            kind=taken.kind,
            base=decision.base,
            adapter=decision.adapter,
            version_id=decision.version_id,
            reason=decision.reason,
            decision=decision,
            cache=self._cache,
            store=self._settings.store,
        )
        with self._changed:
            self._table[release.bucket] = release
            if self._complete:
                self._deliver(release)

    def _announce_all(self) -> None:
        with self._changed:
            self._complete = True
            for release in self._table.values():
                self._deliver(release)
            self._changed.notify_all()

    def _deliver(self, release: R) -> None:
        for deliver in self._subscribers:
            deliver(release)


class _Base(Generic[R]):
    _make: type[R]

    def __init__(
        self,
        bootstrap: str = "127.0.0.1:9092",
        *,
        buckets: Collection[str] | None = None,
        deployment: str = "headrace",
        kafka: Mapping[str, Any] | None = None,
        store: str | Path | None = None,
        cache: str | Path | None = None,
        trusted_keys: Collection[str | Path] | None = None,
    ) -> None:
        """`buckets`: which to follow (`artifact_type/base`); None: all. `kafka`: security settings, as the Recorder's. `store`:
        the folder or URL that adapters are fetched from, default that of the setting `store` when nothing is set (`store/` in the
        user's data folder). `cache`: where fetched ones are kept, default the user's cache folder. `trusted_keys`: public keys,
        each a PEM file or PEM text; a release that none of them has signed is skipped (extra `signing`). Reading begins at once;
        a broker that is away is no error. Raises SettingsError for settings that can't be."""
        if isinstance(buckets, str):
            raise TypeError(f"buckets: a list of buckets, not the text {buckets!r}")
        settings = from_arguments(bootstrap, deployment, kafka, store, trusted_keys)
        trusted = None
        if settings.trusted_keys is not None:
            from headrace_streams import signing

            trusted = signing.trusted_keys(settings)
        folder = Path(cache) if cache is not None else user_cache_path("headrace", appauthor=False)
        self._arguments = (settings, None if buckets is None else frozenset(buckets), self._make, folder, trusted)
        self._start()

    def _start(self) -> None:
        self.__feed = _Feed(*self._arguments)
        self._finalizer = weakref.finalize(self, self.__feed.close)

    @property
    def _feed(self) -> _Feed[R]:
        if not self.__feed.here:  # a forked child: the thread is the parent's
            self._finalizer.detach()
            self._start()
        return self.__feed

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read at the moment; None when nothing is known to be wrong."""
        return self._feed.trouble

    @property
    def skipped(self) -> int:
        """Records of the topic that the release stage did not write or no trusted key has signed, which are skipped; the log
        `headrace.releases` says why."""
        return self._feed.skipped

    def _close(self) -> None:
        self._finalizer()


class Releases(_Base[Release]):
    """What to serve now and every change of it; from any thread."""

    _make = Release

    def current(self, bucket: str, timeout: float = WAIT) -> Release | None:
        """What to serve for `bucket`; None when nothing was ever released. BrokerUnavailable when the broker can't be read within
        `timeout` seconds; once it was read, the last known answer is given at once."""
        return self._feed.current(bucket, timeout)

    def follow(self) -> Iterator[Release]:
        """What is served now, one release per bucket, then each change. Waits for the broker as long as it takes; ends with
        `close`."""
        arrived: queue.SimpleQueue[Release | None] = queue.SimpleQueue()
        feed = self._feed
        feed.subscribe(arrived.put)
        try:
            while (release := arrived.get()) is not None:
                yield release
        finally:
            feed.unsubscribe(arrived.put)

    def close(self) -> None:
        """Ends every `follow`."""
        self._close()

    def __enter__(self) -> Releases:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncReleases(_Base[AsyncRelease]):
    """Releases for asyncio: `await current(…)`, `async for … in follow()`, `await release.fetch()`."""

    _make = AsyncRelease

    async def current(self, bucket: str, timeout: float = WAIT) -> AsyncRelease | None:
        """As `Releases.current`."""
        return await asyncio.to_thread(self._feed.current, bucket, timeout)

    async def follow(self) -> AsyncIterator[AsyncRelease]:
        """As `Releases.follow`."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[AsyncRelease | None] = asyncio.Queue()

        def deliver(release: AsyncRelease | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended without saying so
                loop.call_soon_threadsafe(arrived.put_nowait, release)

        feed = self._feed
        feed.subscribe(deliver)
        try:
            while (release := await arrived.get()) is not None:
                yield release
        finally:
            feed.unsubscribe(deliver)

    async def close(self) -> None:
        """As `Releases.close`."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> AsyncReleases:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
