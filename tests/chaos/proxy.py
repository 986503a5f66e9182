"""A TCP proxy whose connections can be cut or black-holed while it runs. Knows bytes, and nothing of what they mean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading


class Proxy:
    """Forwards `port` on the loopback to `target`, in a thread of its own."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()  # cleared: bytes go into a black hole, until it opens again
        self._writers: set[asyncio.StreamWriter] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._open.set()
        self._cut()
        self._server.close()
        self._loop.run_until_complete(asyncio.sleep(0.1))  # what was passed on ends by itself
        self._loop.close()

    def cut(self) -> None:
        """Resets every connection; new ones are welcome."""
        self._loop.call_soon_threadsafe(self._cut)

    def swallow(self, on: bool) -> None:
        """Nothing gets through any more, and nobody is told; or all goes on, the way TCP does after an outage."""
        self._loop.call_soon_threadsafe(self._open.clear if on else self._open.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._open.set()
        self._started.set()
        self._loop.run_forever()

    def _cut(self) -> None:
        for writer in [writer for writer in self._writers if not writer.is_closing()]:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an orderly end
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._writers |= both
        directions = {asyncio.create_task(self._pass(reader, back)), asyncio.create_task(self._pass(there, writer))}
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        self._writers -= both
        for end in both:
            end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
