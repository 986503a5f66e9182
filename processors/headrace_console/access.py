"""Who may come in: the holder of a token on this machine, or whom a proxy names. Knows headers and cookies, no page.

A session is a signed cookie, so it outlives the server; a new token file ends all of them. What a form has to send along is
signed for one session, so that no other site can make a form that counts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol, get_args

from headrace_console.page import PageVisitor, Right
from headrace_schemas.root_error import USAGE, HeadraceError

SESSION_SECONDS = 7 * 24 * 3600
RIGHTS: tuple[str, ...] = get_args(Right)
SECRET_HEADER, USER_HEADER, RIGHTS_HEADER = "X-Headrace-Secret", "X-Forwarded-User", "X-Forwarded-Groups"
_LEAST = 16  # characters of a secret


class AccessRefused(HeadraceError):
    """The console can't be opened to whom it was to be opened: one line that says why."""

    exit_code = USAGE


class ConsoleAccess(Protocol):
    """What lets visitors in. `sign_in`: whether they can prove themselves with a token."""

    sign_in: bool

    def visitor(self, headers: Mapping[str, str], cookies: Mapping[str, str], peer: str | None) -> PageVisitor | None:
        """Who comes with these headers from the address `peer`; None for somebody unknown."""

    def form_token(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
        """What a form of this visitor has to send along."""


class TokenAccess:
    """A token that lies in a file of its user alone; who has it may do everything that `rights` says."""

    sign_in = True

    def __init__(self, token: str, cookie: str, user: str, rights: Collection[str] = RIGHTS) -> None:
        self.token, self.cookie = token, cookie
        self._visitor = PageVisitor(user, frozenset(rights))

    def session(self, given: str) -> str | None:
        """The value of a cookie for who has the token; None for who has another."""
        if not same(given, self.token):
            return None
        expires = f"{_seconds() + SESSION_SECONDS}.{secrets.token_urlsafe(9)}"
        return f"{expires}.{self._signed('session', expires)}"

    def visitor(self, headers: Mapping[str, str], cookies: Mapping[str, str], peer: str | None) -> PageVisitor | None:
        session = cookies.get(self.cookie, "")
        named, _, signature = session.rpartition(".")
        if not same(signature, self._signed("session", named)):
            return None
        expires = named.partition(".")[0]
        return self._visitor if expires.isdigit() and int(expires) > _seconds() else None

    def form_token(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
        return self._signed("form", cookies.get(self.cookie, ""))

    def _signed(self, purpose: str, text: str) -> str:
        return _signature(self.token, purpose, text)


class ProxyAccess:
    """Identity from headers, of requests that come from a listed network and know a secret."""

    sign_in = False

    def __init__(
        self, secret: str, networks: Collection[str], user_header: str = USER_HEADER, rights_header: str = RIGHTS_HEADER
    ) -> None:
        if len(secret) < _LEAST:
            raise AccessRefused(f"the proxy's secret has {len(secret)} characters: it needs {_LEAST} or more")
        if not networks:
            raise AccessRefused("a proxy is believed by its address: name its network with --proxy-network")
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            raise AccessRefused(f"--proxy-network: {error}") from error
        self._secret, self._user, self._rights = secret, user_header, rights_header

    def visitor(self, headers: Mapping[str, str], cookies: Mapping[str, str], peer: str | None) -> PageVisitor | None:
        if peer is None or not any(_address(peer) in network for network in self._networks):
            return None
        secret, name, listed = (_only(headers, header) for header in (SECRET_HEADER, self._user, self._rights))
        if secret is None or listed is None or not name or not same(secret, self._secret):
            return None
        named = {part.strip() for part in listed.split(",")}
        return PageVisitor(name, frozenset({"viewer", *named} & set(RIGHTS)))

    def form_token(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
        return _signature(self._secret, "form", headers.get(self._user, ""))


def same(given: str, known: str) -> bool:
    """Whether a secret is the one that is known, in a time that does not depend on where they differ. What is no text (bytes that
    are not UTF-8 come as lone surrogates) is no secret."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), known.encode())


def _only(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, "" where it is not there; None for one that can't be believed: it comes twice, and may be the visitor's
    own beside the proxy's, or it holds what can't be seen."""
    every = getattr(headers, "getall", None)
    values = [headers.get(name, "")] if every is None else every(name, [""])
    return values[0].strip() if len(values) == 1 and values[0].isprintable() else None


def _address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Of an IPv4 peer on a socket for both kinds (`::ffff:10.1.2.3`), the IPv4 address that networks are listed by."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _seconds() -> int:
    return time.time_ns() // 1_000_000_000


def _signature(secret: str, purpose: str, text: str) -> str:
    signed = hmac.new(secret.encode(), f"{purpose}\0{text}".encode(errors="surrogatepass"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(signed).decode().rstrip("=")


def token_of(path: Path) -> str:
    """The token in a file, made if it is not there. AccessRefused for a file that others can read, or that holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return secret_of(path)
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def secret_of(path: Path) -> str:
    """What a file of its user alone holds. AccessRefused."""
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AccessRefused(f"{path}: it can't be read: {getattr(error, 'strerror', None) or error}") from error
    if mode & 0o077:
        raise AccessRefused(f"{path}: others can read it (mode {mode:04o}): `chmod 600 {path}`, or remove it for a new one")
    if len(secret) < _LEAST:
        raise AccessRefused(
            f"{path}: it holds {len(secret)} characters, and a secret has {_LEAST} or more: remove it for a new one"
        )
    return secret


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
