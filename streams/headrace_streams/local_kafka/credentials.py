"""Who may log in to a secured local broker: passwords made once, kept for its user alone. Knows Kafka's settings, starts nothing.

A data folder with a `credentials.json` is a secured one and stays so. `client.toml` beside it is a settings file for clients,
with the port that the broker was last started on.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from headrace_schemas.root_error import USAGE, HeadraceError

USER = "headrace"  # who may do everything
BROKER = "broker"  # how the broker logs in to itself
MECHANISM = "SCRAM-SHA-512"  # the server never learns the password, so that whoever takes its port doesn't either
CREDENTIALS, CLIENT = "credentials.json", "client.toml"

# Behind the unsecured properties: of two equal names Java takes the last. A controller can't use SCRAM: the users are in its log.
_PROPERTIES = """\
listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:SASL_PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol={mechanism}
sasl.mechanism.controller.protocol=PLAIN
listener.name.sasl_plaintext.sasl.enabled.mechanisms={mechanism}
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={scram} required username="{broker}" password="{password}";
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain} required username="{broker}" password="{password}" \\
  user_{broker}="{password}";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{user};User:{broker}
"""
_MODULES = "org.apache.kafka.common.security"


class CredentialsError(HeadraceError):
    """The credentials of a data folder can't be read, or can't be made for it; one line that says what to do."""

    exit_code = USAGE


class Credentials(NamedTuple):
    """Passwords by user name; `headrace` and the broker's own are always among them."""

    passwords: dict[str, str]

    def properties(self, port: int, controller: int) -> str:
        """What makes a broker on these ports ask who comes, and let only `headrace` do anything without an ACL."""
        return _PROPERTIES.format(
            port=port, controller=controller, mechanism=MECHANISM, user=USER, broker=BROKER, password=self.passwords[BROKER],
            scram=f"{_MODULES}.scram.ScramLoginModule", plain=f"{_MODULES}.plain.PlainLoginModule",
        )  # fmt: skip

    def format_arguments(self) -> str:
        """Arguments of Kafka's `format` that write the users into a new log, one a line: command lines can be read by all."""
        users = [f"[name={name},password={password}]" for name, password in self.passwords.items()]
        return "".join(f"--add-scram\n{MECHANISM}={user}\n" for user in users)


def load(data_dir: Path) -> Credentials | None:
    """The credentials of a secured data folder; None when it is none. Raises CredentialsError."""
    path = data_dir / CREDENTIALS
    try:
        passwords = json.loads(path.read_bytes())
        if not {USER, BROKER} <= passwords.keys():
            raise ValueError("a user is missing")
        return Credentials(passwords)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CredentialsError(f"{path} can't be used ({reason}): restore it, or name another --data-dir") from error


def make(data_dir: Path, *users: str) -> Credentials:
    """The credentials of a data folder, made if it has none, with `users` beside the two that are always there. Raises
    CredentialsError for a folder whose broker was formatted without any."""
    known = load(data_dir)
    if known is not None:
        return known
    if (data_dir / "log" / "meta.properties").is_file():
        raise CredentialsError(
            f"{data_dir} was made without --secure, and users are written when it is made: name another --data-dir"
        )
    credentials = Credentials({user: secrets.token_urlsafe(24) for user in (USER, BROKER, *users)})
    write_private(data_dir / CREDENTIALS, json.dumps(credentials.passwords))
    return credentials


def write_client_file(data_dir: Path, credentials: Credentials, port: int) -> None:
    """Writes `client.toml`: address and login as a settings file."""
    security = {
        "protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": MECHANISM,
        "sasl_username": USER,
        "sasl_password": credentials.passwords[USER],
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in security.items())
    write_private(data_dir / CLIENT, f'bootstrap = "127.0.0.1:{port}"\n\n[security]\n{lines}')


def write_private(path: Path, text: str) -> None:
    """Replaces a file by one that only its owner can read, before there is anything in it."""
    replacement = path.with_name(path.name + ".new")
    replacement.unlink(missing_ok=True)
    with os.fdopen(os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    replacement.replace(path)
