"""A real single-node Apache Kafka (KRaft) as a child process: starts, waits, stops, says what runs. Knows no topic and no client.

The data folder holds `kafka.properties`, `kafka.json` (what runs), `kafka.log` and `log/`. Whoever runs on a folder holds a lock
(flock) on `kafka.lock` there: the Java process inherits it, so it lives exactly as long as the broker does, however that ends.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from headrace_schemas.root_error import HeadraceError
from headrace_streams.file_lock import try_lock
from headrace_streams.local_kafka import credentials as logins
from headrace_streams.local_kafka.credentials import Credentials, write_private
from headrace_streams.local_kafka.jars import KAFKA_VERSION, MissingPiece, classpath, find_java
from headrace_streams.process_guard import ProcessGuard

# The quick compiler alone: the thorough one costs 1.8 s of CPU at each start, and twice the CPU for the first 100,000 records.
JVM = ("-XX:TieredStopAtLevel=1", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")
LOGGING = ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ")
PROPERTIES = """\
# Written by headrace at each start; edit nothing here.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
num.partitions=1
num.network.threads=2
num.io.threads=4
background.threads=2
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.dedupe.buffer.size=33554432
log.index.size.max.bytes=1048576
"""


class KafkaFailed(HeadraceError, RuntimeError):
    """The broker didn't start, or is not there to be stopped; with its last log lines where there are any."""


class AlreadyRunning(KafkaFailed):
    """Another broker runs on this data folder."""


class Running(NamedTuple):
    """What runs on a data folder."""

    pid: int
    port: int
    data_dir: str
    version: str
    secure: bool = False  # whoever connects must log in

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"


def status(data_dir: Path) -> Running | None:
    """What runs on `data_dir`; None when nothing does. Reads only."""
    with suppress(OSError), (data_dir / "kafka.lock").open("rb") as lock:
        if try_lock(lock):
            return None
        with suppress(OSError, ValueError, TypeError):
            return Running(**json.loads((data_dir / "kafka.json").read_bytes()))
    return None


def stop(data_dir: Path, timeout: float = 30.0) -> bool:
    """Ends the broker of `data_dir`: SIGTERM, and after `timeout` seconds SIGKILL. False when none was running."""
    running = status(data_dir)
    if running is None:
        return False
    for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(running.pid, number)
        if _wait_until(lambda: status(data_dir) is None, patience):
            return True
    raise KafkaFailed(f"Kafka (pid {running.pid}) on {data_dir} did not end")


class LocalKafka:
    """A broker on `data_dir`, which keeps its data over restarts. `port` 0 takes a free one.

    `secure`: whoever connects must log in, by credentials in the folder; a folder that has some is secured without being asked.
    As a context manager the broker lives no longer than this process, however that ends. Raises MissingPiece (no Java, no jars),
    AlreadyRunning, CredentialsError, KafkaFailed (with the last log lines)."""

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        secure: bool = False,
        wait: float = 60.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.port = port
        self.secure = secure
        self.credentials: Credentials | None = None  # once started, of a secured broker
        self.wait = wait
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: ProcessGuard | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise KafkaFailed("Kafka was not started")
        return self._process.pid

    def start(self, *, detach: bool = False) -> Self:
        """Starts and waits until it answers. `detach`: it outlives this process and is ended by `stop(data_dir)`."""
        logs = self.data_dir / "log"
        logs.mkdir(parents=True, exist_ok=True)
        for folder in (self.data_dir, logs):  # texts of people: for our eyes only, also in a folder that was there before
            folder.chmod(0o700)
        with (self.data_dir / "kafka.lock").open("ab") as lock:
            if not _wait_until(lambda: try_lock(lock), 0.5):  # `status` holds it for an instant
                raise AlreadyRunning(_already(self.data_dir))
            (self.data_dir / "kafka.json").unlink(missing_ok=True)  # of the last run: its pid may be somebody else's now
            self.credentials = logins.make(self.data_dir) if self.secure else logins.load(self.data_dir)
            self.secure = self.credentials is not None
            java, jars = find_java(), classpath(say=self._say)
            command = [str(java), *JVM, *LOGGING, "-cp", os.pathsep.join(map(str, jars))]
            try:
                self._start(command, lock, detach)
            except BaseException:
                self.stop(timeout=0)
                raise
        return self

    def _start(self, command: list[str], lock: IO[bytes], detach: bool) -> None:
        fixed = self.port != 0
        for attempt in (1, 2, 3):  # between finding a free port and Kafka's binding it, another process may take it
            self._configure(fixed)
            self._format(command)
            self._launch(command, lock, detach)
            if self._answers():
                return
            reason = self.last_lines()
            self.stop(timeout=0)
            if fixed or attempt == 3 or "BindException" not in reason:
                raise KafkaFailed(f"Kafka did not start on port {self.port}: {reason}")

    def stop(self, timeout: float = 30.0) -> None:
        """Ends it: SIGTERM, and after `timeout` seconds SIGKILL. Nothing happens when it is not running."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _configure(self, fixed: bool) -> None:
        with socket.socket() as one, socket.socket() as two:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", self.port if fixed else 0))
            except OSError as error:
                raise KafkaFailed(f"port {self.port} can't be used: {error.strerror}; choose another with --port") from error
            two.bind(("127.0.0.1", 0))
            self.port, controller = one.getsockname()[1], two.getsockname()[1]
        text = PROPERTIES.format(port=self.port, controller=controller, logs=self.data_dir / "log")
        if self.credentials is not None:
            text += self.credentials.properties(self.port, controller)
            logins.write_client_file(self.data_dir, self.credentials, self.port)
        write_private(self.data_dir / "kafka.properties", text)

    def _format(self, command: list[str]) -> None:
        if (self.data_dir / "log" / "meta.properties").is_file():
            return
        cluster = "H" + base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()[1:]  # "-" first would be an option
        self._say(f"preparing {self.data_dir} for Kafka, once")
        arguments = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", self._properties]
        users = self.data_dir / "kafka.users"  # read once: their passwords then stand in the log
        if self.credentials is not None:
            write_private(users, self.credentials.format_arguments())
            arguments.append(f"@{users}")
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        users.unlink(missing_ok=True)
        if done.returncode:
            raise KafkaFailed(f"{self.data_dir} can't be made Kafka's: {_telling(done.stdout + done.stderr)}")

    def _launch(self, command: list[str], lock: IO[bytes], detach: bool) -> None:
        self._say(f"starting Kafka {KAFKA_VERSION} on port {self.port}")
        with (self.data_dir / "kafka.log").open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*command, "kafka.Kafka", self._properties],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C is ours to handle; it must not reach the broker before its clients
            )
        if not detach:
            self._guard = ProcessGuard(self.pid)
        running = Running(self.pid, self.port, str(self.data_dir), KAFKA_VERSION, self.secure)
        write_private(self.data_dir / "kafka.json", json.dumps(running._asdict()))

    def _answers(self) -> bool:
        answers = self._says_started if self.secure else lambda: _has_broker(self.port)
        _wait_until(lambda: not self.alive() or answers(), self.wait)
        return self.alive() and answers()

    def _says_started(self) -> bool:
        """A secured broker answers strangers nothing that would tell; its log says when it is ready."""
        with (self.data_dir / "kafka.log").open("rb") as log:
            log.seek(self._log_start)
            return b"Kafka Server started" in log.read()

    def last_lines(self) -> str:
        """What the log of this start says last, errors first; on one line."""
        with (self.data_dir / "kafka.log").open("rb") as log:
            log.seek(self._log_start)
            return _telling(log.read().decode(errors="replace")) or f"no answer within {self.wait:g} s"

    @property
    def _properties(self) -> str:
        return str(self.data_dir / "kafka.properties")


def _telling(text: str) -> str:
    """The last lines of a log that name an error, or else just the last lines; on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(([line for line in lines if "Exception" in line or " ERROR " in line] or lines)[-3:])


def _already(data_dir: Path) -> str:
    running = status(data_dir)
    if running is None:
        return f"another start on {data_dir} is under way"
    return f"Kafka already runs on {data_dir}: pid {running.pid}, port {running.port}"


def _wait_until(condition: Callable[[], Any], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def _has_broker(port: int) -> bool:
    """True once a metadata request (version 1, about no topic) is answered with at least one broker."""
    body = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = b""
            while len(answer) < 12:  # size, correlation id, number of brokers
                chunk = connection.recv(4096)
                if not chunk:
                    return False
                answer += chunk
    except OSError:
        return False
    return bool(struct.unpack(">i", answer[8:12])[0] > 0)


__all__ = ["AlreadyRunning", "KafkaFailed", "LocalKafka", "MissingPiece", "Running", "status", "stop"]
