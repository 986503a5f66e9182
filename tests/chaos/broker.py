"""A real broker behind a proxy, that can be killed, frozen, stopped and starved of disk. Knows no topic."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from pathlib import Path

from headrace_streams.local_kafka.process import LocalKafka

from .proxy import Proxy


class BrokerBehindProxy(LocalKafka):
    """`front` is where clients go; `back` is a second listener past the proxy, for whoever watches."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, _free_port())
        self._back = _free_port()
        self.proxy = Proxy(self.port)
        self.proxy.start()
        self.front, self.back = f"127.0.0.1:{self.proxy.port}", f"127.0.0.1:{self._back}"

    def _configure(self, fixed: bool) -> None:
        super()._configure(fixed)
        path = self.data_dir / "kafka.properties"
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name == "listeners":
                line = f"listeners={value},BACK://{self.back}"
            elif name == "advertised.listeners":
                line = f"advertised.listeners=PLAINTEXT://{self.front},BACK://{self.back}"
            elif name == "listener.security.protocol.map":
                line = f"{line},BACK:PLAINTEXT"
            elif name == "inter.broker.listener.name":
                line = "inter.broker.listener.name=BACK"
            lines.append(line)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def kill(self) -> None:
        """SIGKILL; what it had told the operating system is kept."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def freeze(self, seconds: float) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)

    def fill_disk(self, patience: float = 60.0) -> bool:
        """No file may grow any more. True once the broker has given up over it, as it does with a full disk."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        until = time.monotonic() + patience
        while self.alive() and time.monotonic() < until:
            time.sleep(0.1)
        gone = not self.alive()
        if not gone:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return gone


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
