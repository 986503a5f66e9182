"""The lake as pages read it: one cut a page, a bounded number of queries at once. Knows the lake's query, no page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from headrace_lake.manifest import ForeignLake, LakeFolder, Manifest
from headrace_lake.query import LakeQuery
from headrace_lake.shared_query import SharedQuery
from headrace_lake.text_opener import TextOpener
from headrace_schemas.root_error import NO, HeadraceError

QUERIES = 4  # pages that read at once
EACH = 3  # of them for one visitor: somebody who opens many leaves one for others
PATIENCE_SECONDS = 2.0  # that one more waits for its turn
SECONDS, ROWS = 5.0, 5000  # of one query

Read = TypeVar("Read")


class LakeBusy(HeadraceError):
    """More pages are asked for than are read at once: 503, and it is tried again."""

    exit_code = NO


class LakeReader:
    """Runs what reads the lake in threads of its own; the event loop waits for none of it. Of another `deployment` than the one
    that is named nothing is read: what a page asks for goes to our log."""

    def __init__(self, folder: LakeFolder, deployment: str | None = None) -> None:
        self.folder, self._deployment = folder, deployment
        self._lake = SharedQuery(folder, seconds=SECONDS, rows=ROWS)
        self._slots = asyncio.Semaphore(QUERIES)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by visitor, while they read
        self._threads = ThreadPoolExecutor(QUERIES, "page")

    async def read(
        self, work: Callable[[LakeQuery, Manifest], Read], visitor: str = "", opener: TextOpener | None = None
    ) -> Read:
        """What `work` makes of the lake at the cut that it has now; `opener` opens sealed texts for it. LakeBusy, LakeError, and
        what `work` raises."""
        async with self._slot(visitor):
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work, opener or TextOpener())

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._lake.close()

    @asynccontextmanager
    async def _slot(self, visitor: str) -> AsyncIterator[None]:
        own = self._own.setdefault(visitor, asyncio.Semaphore(EACH))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await held.enter_async_context(own)
                    await held.enter_async_context(self._slots)
            except TimeoutError:
                whose = f"{EACH} pages of yours" if own.locked() else f"{QUERIES} pages"
                raise LakeBusy(f"{whose} are read already: this one is tried again in a moment") from None
            yield

    def _read(self, work: Callable[[LakeQuery, Manifest], Read], opener: TextOpener) -> Read:
        with self._lake.at_cut() as (lake, manifest):
            lake.opener = opener
            if self._deployment not in (None, manifest.deployment):
                where = (
                    f"{self.folder.path}: it is the lake of deployment {manifest.deployment!r}, and this is {self._deployment!r}"
                )
                raise ForeignLake(f"{where}: take another folder")
            return work(lake, manifest)
