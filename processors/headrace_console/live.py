"""Tells open pages that there is something new (server-sent events). Knows the manifest's file and the status; sends no content.

A page that hears it asks for itself again: what it shows then went through the same door, at one cut.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from headrace_console.reading import LakeReader
from headrace_console.status_watch import StatusWatch
from headrace_lake.manifest import MANIFEST

EVERY_SECONDS = 1.0  # a page is told at most so often
SILENCE_SECONDS = 15.0  # after which a line is sent that says nothing, so that nobody on the way gives up
MOST = 64  # connections; one more is told to come back later


class LiveFeed:
    """The connections that wait for news."""

    def __init__(self, reader: LakeReader, status: StatusWatch) -> None:
        self._reader, self._status = reader, status
        self._open = 0
        self._ending = asyncio.Event()

    async def end(self, app: web.Application) -> None:
        """The console ends: so does every connection."""
        self._ending.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self._open >= MOST:
            raise web.HTTPServiceUnavailable(text=f"{MOST} pages are kept new already", headers={"Retry-After": "5"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        self._open += 1
        try:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._tell(response, request.query.get("of") == "status")
        finally:
            self._open -= 1
        return response

    async def _tell(self, response: web.StreamResponse, status: bool) -> None:
        await response.write(b"retry: 2000\n\n")
        seen, silent = self._state(status), 0.0
        while not await self._ended():
            self._status.looked_at()
            silent += EVERY_SECONDS
            if (now := self._state(status)) != seen:
                await response.write(b"event: news\ndata: .\n\n")
                seen, silent = now, 0.0
            elif silent >= SILENCE_SECONDS:
                await response.write(b": .\n\n")
                silent = 0.0

    async def _ended(self) -> bool:
        """Waits for the next look; whether there is none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVERY_SECONDS):
                await self._ending.wait()
        return self._ending.is_set()

    def _state(self, status: bool) -> tuple[int, int | None, str | None]:
        """Another one when there is something to be shown anew; `status`: a newer status is."""
        try:
            changed = (self._reader.folder.path / MANIFEST).stat().st_mtime_ns
        except OSError:
            changed = 0
        seen = self._status.newest
        return changed, seen.at_ms if status else None, seen.error
