"""TLS and mutual TLS on a real broker: a certificate that is right, and each kind that is not, in one line that says which."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import headrace
from headrace_cli.main import invoke
from headrace_streams.kafka import admin, clients
from headrace_streams.local_kafka import process as broker
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.certificates import Certificate, certificate

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=40)]


class Certificates(NamedTuple):
    """Whom the broker trusts, and somebody else; by name what they have signed."""

    authority: Certificate
    stranger: Certificate
    ours: Certificate
    expired: Certificate
    foreign: Certificate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = certificate(folder, "authority"), certificate(folder, "stranger")
    return Certificates(
        authority,
        stranger,
        certificate(folder, "ours", authority),
        certificate(folder, "expired", authority, expired=True),
        certificate(folder, "foreign", stranger),
    )


@contextmanager
def tls_kafka(folder: Path, shown: Certificate, trusted: Certificate) -> Iterator[int]:
    """A broker that shows a certificate and wants one that `trusted` has signed; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        inner = f",INNER://127.0.0.1:{free.getsockname()[1]}"  # how the broker talks to itself, whatever its certificate is worth
    text = broker.PROPERTIES
    for old, new in (
        ("CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT,INNER:PLAINTEXT,PLAINTEXT:SSL"),
        ("broker.listener.name=PLAINTEXT", "broker.listener.name=INNER"),
        ("advertised.listeners=PLAINTEXT://127.0.0.1:{port}", "advertised.listeners=PLAINTEXT://localhost:{port}" + inner),
        ("\nlisteners=PLAINTEXT://127.0.0.1:{port}", "\nlisteners=PLAINTEXT://127.0.0.1:{port}" + inner),
    ):
        assert old in text
        text = text.replace(old, new)
    text += f"""ssl.keystore.type=PEM
ssl.keystore.location={shown.both}
ssl.truststore.type=PEM
ssl.truststore.location={trusted.certfile}
listener.name.plaintext.ssl.client.auth=required
"""
    kafka = LocalKafka(folder)
    with pytest.MonkeyPatch.context() as patch:  # for its start alone: others start theirs meanwhile
        patch.setattr(broker, "PROPERTIES", text)
        patch.setattr(broker, "_has_broker", lambda port: b"Kafka Server started" in (folder / "kafka.log").read_bytes())
        kafka.start()
    try:
        yield kafka.port
    finally:
        kafka.stop()


@pytest.fixture(scope="module")
def port(made: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tls_kafka(tmp_path_factory.mktemp("kafka"), made.ours, made.authority) as port:
        yield port


def security(made: Certificates, shown: Certificate | None, trusted: Certificate) -> dict[str, Any]:
    own = {} if shown is None else {"ssl_certfile": shown.certfile, "ssl_keyfile": shown.keyfile}
    return {"protocol": "SSL", "ssl_cafile": trusted.certfile, **own}


async def connect(settings: Settings) -> None:
    for make in (clients.admin, clients.consumer, clients.producer):
        async with clients.connected(make(settings)):
            pass


def test_a_certificate_that_is_right_gets_in_and_records_go_both_ways(made: Certificates, port: int, tmp_path: Path) -> None:
    login = security(made, made.ours, made.authority)
    settings = Settings.model_validate({"bootstrap": f"localhost:{port}", "security": login, "partitions": 1})
    asyncio.run(connect(settings))
    asyncio.run(admin.declare(settings))
    with headrace.Recorder(settings.bootstrap, agent="a", kafka=login) as recorder:
        recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
        assert recorder.flush(30), recorder.trouble
    with headrace.Releases(settings.bootstrap, kafka=login, store=tmp_path) as releases:
        assert releases.current("sql/m") is None


@pytest.mark.parametrize(
    ("shown", "trusted", "message"),
    [
        (None, "authority", "localhost:PORT wants a client certificate: security.ssl_certfile and ssl_keyfile"),
        (
            "foreign",
            "authority",
            "localhost:PORT does not accept our certificate (expired, or signed by nobody that the broker trusts)",
        ),
        ("expired", "authority", "localhost:PORT does not accept our certificate ("),
        (
            "ours",
            "stranger",
            "localhost:PORT: the broker's certificate is signed by nobody that is trusted: check security.ssl_cafile",
        ),
    ],
)
def test_each_certificate_that_is_not_right_is_one_line_and_at_once(
    made: Certificates, port: int, shown: str | None, trusted: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    login = security(made, getattr(made, shown) if shown else None, getattr(made, trusted))
    settings = Settings.model_validate({"bootstrap": f"localhost:{port}", "security": login})
    message = message.replace("PORT", str(port))
    with pytest.raises(clients.NotAllowed) as refused:
        asyncio.run(connect(settings))
    assert message in str(refused.value)
    with headrace.Recorder(settings.bootstrap, agent="a", kafka=login) as recorder:
        recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
        deadline = time.monotonic() + 20
        while message not in (recorder.trouble or ""):
            assert time.monotonic() < deadline, recorder.trouble
            time.sleep(0.05)
        with pytest.raises(headrace.HeadraceError, match="are lost"):
            recorder.close(0)


def test_a_client_that_speaks_no_tls_is_told(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["topics", "check", "--bootstrap", f"localhost:{port}"]) == 3
    error = capsys.readouterr().err
    assert "closes the connection: it may want TLS or a login, and security.protocol is 'PLAINTEXT'" in error
    assert error.count("\n") == 1


def test_tls_to_a_broker_that_speaks_none_is_told(made: Certificates, broker: str) -> None:
    login = security(made, made.ours, made.authority)
    with pytest.raises(clients.NotAllowed, match=r"does not speak TLS: security\.protocol is 'SSL'"):
        asyncio.run(connect(Settings.model_validate({"bootstrap": broker, "security": login})))


@pytest.mark.parametrize(
    ("hosts", "expired", "message"),
    [
        (("localhost",), True, "the broker's certificate has expired"),
        (("elsewhere.example",), False, "the broker's certificate is for another host than 'localhost'"),
    ],
)
def test_a_broker_with_a_wrong_certificate_is_not_talked_to(
    made: Certificates, tmp_path: Path, hosts: tuple[str, ...], expired: bool, message: str
) -> None:
    shown = certificate(tmp_path, "broker", made.authority, hosts=hosts, expired=expired)
    with tls_kafka(tmp_path / "kafka", shown, made.authority) as port:
        login = security(made, made.ours, made.authority)
        with pytest.raises(clients.NotAllowed, match=message):
            asyncio.run(connect(Settings.model_validate({"bootstrap": f"localhost:{port}", "security": login})))
