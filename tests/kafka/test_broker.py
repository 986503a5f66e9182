"""The local Kafka as people meet it: data survives, one per folder, nothing is left running, failures say why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_schemas.topics import TOPICS
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka import process as broker
from headrace_streams.local_kafka.process import AlreadyRunning, KafkaFailed, LocalKafka
from headrace_streams.settings import Settings

pytestmark = pytest.mark.kafka

HEADRACE = [sys.executable, "-c", "from headrace_cli.main import main; main()"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for several starts, so that it is formatted once."""
    return tmp_path_factory.mktemp("kept")


def _until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"HEADRACE_DATA_DIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}


async def _put(settings: Settings, value: bytes) -> None:
    async with clients.connected(clients.producer(settings)) as sender:
        await sender.send_and_wait(clients.full_name(settings, "signals"), value, partition=0)


async def _all(settings: Settings) -> list[bytes]:
    return [record.value async for record in Reader(settings).read_partition("signals", 0)]


@pytest.mark.slow(seconds=12)
def test_data_survives_a_stop_and_a_kill_and_a_folder_has_one_broker(tmp_path: Path) -> None:
    from headrace_streams.kafka import admin

    signals = [topic for topic in TOPICS if topic.name == "signals"]
    with LocalKafka(tmp_path) as kafka:
        settings = Settings(bootstrap=kafka.bootstrap)
        asyncio.run(admin.declare(settings, signals))
        asyncio.run(_put(settings, b"one"))
        running = broker.status(tmp_path)
        assert running is not None
        assert (running.pid, running.bootstrap) == (kafka.pid, kafka.bootstrap)
        with pytest.raises(AlreadyRunning, match=f"pid {kafka.pid}, port {kafka.port}"):
            LocalKafka(tmp_path).start()
        assert kafka.alive()
    assert broker.status(tmp_path) is None

    with LocalKafka(tmp_path, port=kafka.port) as again:  # the same port, as a user's clients expect
        settings = Settings(bootstrap=again.bootstrap)
        assert asyncio.run(_all(settings)) == [b"one"]
        asyncio.run(_put(settings, b"two"))
        os.kill(again.pid, signal.SIGKILL)
        _until(lambda: broker.status(tmp_path) is None)  # what the dead one left behind stops nobody

    with LocalKafka(tmp_path) as last:
        assert asyncio.run(_all(Settings(bootstrap=last.bootstrap))) == [b"one", b"two"]


@pytest.mark.slow(seconds=8)
def test_in_the_background_it_starts_tells_and_stops(kept: Path) -> None:
    def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HEADRACE, "kafka", *arguments], env=_environment(kept), capture_output=True, text=True, check=False
        )

    try:
        started = headrace("start", "--wait", "--port", "0", "--json")
        assert started.returncode == 0, started.stderr
        told = json.loads(headrace("status", "--json").stdout)
        assert told == json.loads(started.stdout) | {"running": True}
        with socket.create_connection(("127.0.0.1", told["port"]), timeout=5):
            pass
        assert stat.S_IMODE((kept / "kafka").stat().st_mode) == stat.S_IMODE((kept / "kafka" / "log").stat().st_mode) == 0o700
        second = headrace("start", "--port", "0")
        assert second.returncode == 4
        assert second.stderr == f"headrace: Kafka already runs on {kept / 'kafka'}: pid {told['pid']}, port {told['port']}\n"
    finally:
        stopped = headrace("stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"Kafka on {kept / 'kafka'} is stopped\n")
    assert headrace("status").returncode == 1
    again = headrace("stop")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith(f"headrace: no Kafka runs on {kept / 'kafka'}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_in_the_foreground_it_ends_with_its_parent(kept: Path, number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [*HEADRACE, "kafka", "run", "--port", "0"],
        env=_environment(kept),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as parent:
        try:
            assert parent.stdout is not None
            assert any(b"Kafka answers on 127.0.0.1:" in line for line in parent.stdout)  # after what it says while it starts
            assert broker.status(kept / "kafka") is not None
            parent.send_signal(number)
            assert parent.wait(30) == code
        finally:
            parent.kill()
    _until(lambda: broker.status(kept / "kafka") is None)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(KafkaFailed, match=f"port {port} can't be used: .*--port"):
            LocalKafka(tmp_path, port=port).start()


def test_a_start_that_fails_shows_the_last_lines_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "PROPERTIES", broker.PROPERTIES + "num.io.threads=none\n")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "meta.properties").write_text("formatted\n")
    with pytest.raises(KafkaFailed, match=r"did not start on port \d+: .*num\.io\.threads"):
        LocalKafka(tmp_path).start()
    assert broker.status(tmp_path) is None


def test_a_folder_that_cannot_be_formatted_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "PROPERTIES", broker.PROPERTIES + "num.io.threads=none\n")
    with pytest.raises(KafkaFailed, match=r"can't be made Kafka's: .*num\.io\.threads"):
        LocalKafka(tmp_path).start()


def test_an_interrupted_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: LocalKafka) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalKafka, "_answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        LocalKafka(tmp_path).start()
    assert broker.status(tmp_path) is None


@pytest.mark.slow(seconds=6)
def test_passwords_reach_every_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that asks for SASL lets our clients in with the right password only."""
    from headrace_streams.kafka import admin

    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    users = 'username="us" password="inside" user_us="inside" user_ann="secret"'
    text = broker.PROPERTIES.replace("PLAINTEXT:PLAINTEXT\n", "PLAINTEXT:SASL_PLAINTEXT\n")
    text += "sasl.enabled.mechanisms=PLAIN\nsasl.mechanism.inter.broker.protocol=PLAIN\n"
    monkeypatch.setattr(broker, "PROPERTIES", f"{text}listener.name.plaintext.plain.sasl.jaas.config={login} {users};\n")

    def accepts(port: int) -> bool:  # the probe of `broker` has no password
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    monkeypatch.setattr(broker, "_has_broker", accepts)
    with LocalKafka(tmp_path) as kafka:
        security = {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "ann"}
        right = Settings(bootstrap=kafka.bootstrap, security=security | {"sasl_password": "secret"})
        wrong = Settings(bootstrap=kafka.bootstrap, security=security | {"sasl_password": "guess"})
        asyncio.run(_declare_when_ready(right))
        asyncio.run(_put(right, b"in"))
        assert asyncio.run(_all(right)) == [b"in"]
        monkeypatch.setattr(clients, "DEADLINE", 1.0)
        for refused in (wrong, Settings(bootstrap=kafka.bootstrap)):
            with pytest.raises(clients.BrokerUnavailable):
                asyncio.run(admin.check(refused))


async def _declare_when_ready(settings: Settings) -> None:
    from aiokafka.errors import KafkaError

    from headrace_streams.kafka import admin

    deadline = time.monotonic() + 30
    while True:
        try:
            await admin.declare(settings)
            return
        except (KafkaError, clients.BrokerUnavailable):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
