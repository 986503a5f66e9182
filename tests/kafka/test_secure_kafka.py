"""`headrace kafka start --secure` as people meet it: a login that commands find by themselves, files for its user alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace_streams.kafka import clients
from headrace_streams.local_kafka import credentials
from headrace_streams.local_kafka.credentials import CredentialsError
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings, load

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=30)]

HEADRACE = [sys.executable, "-c", "from headrace_cli.main import main; main()"]


class Home:
    """A user's world: data folder and state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kafka = folder, folder / "data" / "kafka"
        self.environment = os.environ | {"HEADRACE_DATA_DIR": str(folder / "data"), "XDG_STATE_HOME": str(folder / "state")}

    def headrace(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in (self.environment | more).items() if value}
        return subprocess.run([*HEADRACE, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, str]]:
    """A user with a secured broker in the background, and its address."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.kafka.mkdir(parents=True, mode=0o755)  # as an earlier version may have left it
    started = home.headrace("kafka", "start", "--secure", "--port", "0", "--json")
    try:
        assert started.returncode == 0, started.stderr
        yield home, json.loads(started.stdout)["bootstrap"]
    finally:
        assert home.headrace("kafka", "stop").returncode == 0


async def connect(settings: Settings, make: Callable[[Settings], Any]) -> None:
    async with clients.connected(make(settings)):
        pass


def test_the_folder_and_all_secrets_are_the_users_alone(home: tuple[Home, str]) -> None:
    folder = home[0].kafka
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "log")} == dict.fromkeys(
        (folder, folder / "log"), 0o700
    )
    passwords = credentials.load(folder)
    assert passwords is not None
    secrets = {
        path
        for path in folder.iterdir()
        if path.is_file() and any(p in path.read_text(errors="replace") for p in passwords[0].values())
    }
    assert {path.name for path in secrets} == {"client.toml", "credentials.json", "kafka.properties"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_commands_find_the_login_by_themselves(home: tuple[Home, str]) -> None:
    user, bootstrap = home
    assert user.headrace("topics", "create", "--bootstrap", bootstrap).returncode == 0
    origins = json.loads(user.headrace("config", "--bootstrap", bootstrap, "--json").stdout)
    assert origins["security.sasl_password"] == {"value": "**********", "origin": f"file {user.kafka / 'client.toml'}"}
    # Another data folder: the record that `kafka stop` goes by leads there too.
    assert user.headrace("topics", "check", "--bootstrap", bootstrap, HEADRACE_DATA_DIR="").returncode == 0
    explicit = user.headrace("topics", "check", "--bootstrap", bootstrap, HEADRACE_SECURITY_PROTOCOL="PLAINTEXT")
    assert explicit.returncode == 3, explicit.stderr
    assert "closes the connection: it may want TLS or a login, and security.protocol is 'PLAINTEXT'" in explicit.stderr
    assert user.headrace("topics", "check", "--config", str(user.kafka / "client.toml")).returncode == 0


def test_nobody_gets_in_without_the_password(home: tuple[Home, str]) -> None:
    _, bootstrap = home
    right = load(config=home[0].kafka / "client.toml").settings
    wrong = Settings.model_validate(
        {**right.model_dump(exclude={"security"}), "security": {**right.security.model_dump(), "sasl_password": "guess"}}
    )
    for settings, message in (
        (Settings(bootstrap=bootstrap), "security.protocol is 'PLAINTEXT'"),
        (wrong, "refuses the login of 'headrace': wrong user name or password"),
    ):
        for make in (clients.admin, clients.consumer, clients.producer):
            with pytest.raises(clients.NotAllowed, match=message):
                asyncio.run(connect(settings, make))


def test_a_recorder_with_a_wrong_password_keeps_what_it_accepted(home: tuple[Home, str], tmp_path: Path) -> None:
    user, bootstrap = home
    assert user.headrace("topics", "create", "--bootstrap", bootstrap).returncode == 0
    right = load(config=user.kafka / "client.toml").settings.security
    login = {**right.model_dump(exclude_none=True), "sasl_password": "guess"}
    with headrace.Recorder(bootstrap, agent="a", kafka=login, outbox=tmp_path / "outbox.db") as recorder:
        recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
        assert not recorder.flush(3)
        assert recorder.trouble is not None
        assert "refuses the login of 'headrace': wrong user name or password" in recorder.trouble
        recorder.close(0)
    assert right.sasl_password is not None
    login["sasl_password"] = right.sasl_password.get_secret_value()
    with headrace.Recorder(bootstrap, agent="a", kafka=login, outbox=tmp_path / "outbox.db") as recorder:
        assert recorder.flush(30), recorder.trouble
        assert (recorder.pending, recorder.refused) == (0, 0)


def test_doctor_says_who_can_connect(home: tuple[Home, str], broker: str) -> None:
    user, bootstrap = home

    def access(address: str) -> dict[str, str]:
        lines = map(json.loads, user.headrace("doctor", "--bootstrap", address, "--json").stdout.splitlines())
        [finding] = [line for line in lines if line["what"] == "access"]
        return dict(finding)

    assert access(bootstrap) == {"what": "access", "verdict": "ok", "detail": "SASL_PLAINTEXT, rights by ACLs"}
    open_to_all = access(broker)
    assert open_to_all["verdict"] == "warn"
    assert open_to_all["detail"].startswith(
        "no login: every user of this machine can read and write everything: `headrace kafka start"
    )


def test_a_secured_folder_stays_secured_and_keeps_its_passwords(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka", secure=True) as first:
        assert first.credentials is not None
        before = first.credentials
    with LocalKafka(tmp_path / "kafka") as again:
        assert (again.secure, again.credentials) == (True, before)
        with pytest.raises(clients.NotAllowed):
            asyncio.run(connect(Settings(bootstrap=again.bootstrap), clients.admin))
        settings = load(config=tmp_path / "kafka" / "client.toml").settings
        assert settings.bootstrap == again.bootstrap
        assert asyncio.run(clients.partition_counts(settings, [])) == {}


def test_a_folder_that_was_made_open_is_not_secured_by_halves(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka"):
        pass
    with pytest.raises(CredentialsError, match=r"was made without --secure.*name another --data-dir"):
        LocalKafka(tmp_path / "kafka", secure=True).start()
    assert not (tmp_path / "kafka" / "credentials.json").exists()


def test_credentials_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{}")
    with pytest.raises(CredentialsError, match=r"credentials.json can't be used \(a user is missing\): restore it"):
        LocalKafka(tmp_path).start()
