"""Kafka clients as all of Headrace uses them: raw bytes, read committed, the table's sizes, the settings' security.

Knows topic names and offsets, nothing of what is in a record. Topics are short names here; `full_name` makes the broker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.helpers import create_ssl_context

from headrace_schemas.root_error import UNREACHABLE, HeadraceError
from headrace_schemas.topics import MIB
from headrace_streams.cancellation import cancellations, cancelled_by_somebody
from headrace_streams.kafka import compat, diagnosis
from headrace_streams.kafka.diagnosis import RIGHTS, explain
from headrace_streams.settings import Security, Settings, SettingsError

CLOSE_SECONDS = 5.0
BROKEN_OFF = 5  # times in a row, until a broker that breaks off connections is not just going
DEADLINE = 10.0  # seconds until a broker that doesn't answer counts as unreachable
REQUEST_LIMIT = 9 * MIB  # the largest record of the topics table, and its headers
FETCH_LIMIT = 2 * MIB  # per partition and request, packed; a first batch that is larger comes whole all the same
TRANSACTION_TIMEOUT_MS = 10_000

Producer = AIOKafkaProducer  # for those that do not import the library
Client = TypeVar("Client", AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient)


class BrokerUnavailable(HeadraceError, ConnectionError):
    """No broker answered in time, or it refused us; one line that says where and why."""

    exit_code = UNREACHABLE


class NotAllowed(BrokerUnavailable):
    """A broker answers, and refuses us: the connection, the login or the right. Helps nobody to try again before it is mended."""


class TopicMissing(HeadraceError, LookupError):
    """A topic that the broker does not have."""


def full_name(settings: Settings, topic: str) -> str:
    """`signals` -> `headrace.signals`; a name that is already full stays."""
    prefix = f"{settings.deployment}."
    return topic if topic.startswith(prefix) else prefix + topic


def short_name(settings: Settings, topic: str) -> str:
    """`headrace.signals` -> `signals`; a name that is already short stays."""
    return topic.removeprefix(f"{settings.deployment}.")


def security_options(security: Security) -> dict[str, Any]:
    """The settings' security as arguments of an aiokafka client. SettingsError when a file can't be used."""
    options: dict[str, Any] = {"security_protocol": security.protocol}
    if security.protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(security)
    if security.protocol.startswith("SASL"):
        options["sasl_mechanism"] = security.sasl_mechanism
        options["sasl_plain_username"] = security.sasl_username
        options["sasl_plain_password"] = security.sasl_password.get_secret_value() if security.sasl_password else None
    return options


def _ssl_context(security: Security) -> ssl.SSLContext:
    files = {name: getattr(security, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
    for name, path in files.items():
        if path is not None and not os.access(path, os.R_OK):  # of OpenSSL's errors not one names the file
            raise SettingsError(f"security.{name} = {str(path)!r}: there is no such file, or it can't be read")
    try:
        context: ssl.SSLContext = create_ssl_context(**{name.removeprefix("ssl_"): path for name, path in files.items()})
    except OSError as error:  # an SSLError is one
        given = ", ".join(f"{name} = {str(path)!r}" for name, path in files.items() if path is not None)
        raise SettingsError(f"security: {given} can't be used: {error}") from error
    context.__dict__["shows_certificate"] = security.ssl_certfile is not None  # a context doesn't tell; `compat.identity` asks
    return context


def _base(settings: Settings) -> dict[str, Any]:
    return {"bootstrap_servers": settings.bootstrap, "client_id": "headrace", **security_options(settings.security)}


def consumer(settings: Settings, *topics: str, group: str | None = None, **options: Any) -> AIOKafkaConsumer:
    """A consumer, not started, that reads committed and never commits offsets by itself. Without `topics`: use `assign`.

    An offset outside the log raises OffsetOutOfRangeError unless `auto_offset_reset` says otherwise."""
    defaults: dict[str, Any] = {
        "group_id": group,
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest" if topics else "none",
        "max_partition_fetch_bytes": FETCH_LIMIT,
        "session_timeout_ms": 6_000,
        "heartbeat_interval_ms": 1_500,
    }
    return AIOKafkaConsumer(*(full_name(settings, topic) for topic in topics), **{**_base(settings), **defaults, **options})


def producer(settings: Settings, *, transactional_id: str | None = None, **options: Any) -> AIOKafkaProducer:
    """An idempotent producer, not started, acknowledged by all replicas; transactional when it has an id."""
    defaults: dict[str, Any] = {"acks": "all", "enable_idempotence": True, "max_request_size": REQUEST_LIMIT}
    if transactional_id is not None:
        defaults |= {"transactional_id": transactional_id, "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS}
    return AIOKafkaProducer(**{**_base(settings), **defaults, **options})


def admin(settings: Settings, **options: Any) -> AIOKafkaAdminClient:
    """An admin client, not started."""
    return AIOKafkaAdminClient(**{**_base(settings), **options})


@asynccontextmanager
async def connected(client: Client, *, within: float | None = None) -> AsyncIterator[Client]:
    """Starts `client`, waiting `within` (default: DEADLINE) seconds for the broker, and closes it. Raises BrokerUnavailable."""
    await start(client, within=within)
    try:
        yield client
    finally:
        await close(client)


async def start(client: Client, *, within: float | None = None) -> None:
    """Starts `client`, retrying until `within` seconds are over; then it is closed and BrokerUnavailable raised. NotAllowed, and
    at once, when a broker answers but refuses us."""
    within = DEADLINE if within is None else within
    reason: BaseException | None = None
    refusal: str | None = None
    broken_off = 0
    try:
        async with asyncio.timeout(within):
            while refusal is None:
                try:
                    await client.start()
                    return
                except KafkaError as error:
                    reason = error
                    where, cause = await _cause(client, error)
                    refusal = explain(cause, where, *compat.identity(client))
                    again = diagnosis.broken_off(cause, where, compat.identity(client)[0])
                    broken_off = broken_off + 1 if again else 0
                    if broken_off == BROKEN_OFF:
                        refusal = again
                    if not error.retriable and "onnect" not in type(error).__name__:
                        break
                    await asyncio.sleep(0 if refusal else 0.2)
    except TimeoutError:
        pass
    except BaseException:
        await close(client)
        raise
    await close(client)
    if refusal is not None:
        raise NotAllowed(refusal) from reason
    cause_text = "" if reason is None or "bootstrap from" in str(reason) else f" ({reason})"  # that one only repeats the address
    where = compat.servers(client)
    raise BrokerUnavailable(
        f"no broker answers at {where} in {within:g} s{cause_text}: check --bootstrap and security"
    ) from reason


async def _cause(client: Client, error: KafkaError) -> tuple[str, BaseException]:
    """(brokers, what was really wrong) where a start ended with `error`: of a first connection that one says nothing."""
    found = await compat.connection_error(client) if isinstance(error, KafkaConnectionError) else None
    return found or (compat.servers(client), error)


async def close(client: Client) -> None:
    """Closes a client of any of the three kinds, started or not."""
    await asyncio.sleep(0)  # a consumer that is stopped in the turn of its start raises a cancellation that nobody asked for
    await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


async def stop(client: Any) -> None:
    """Closes an aiokafka client in bounded time, whatever the broker does. Cancelled meanwhile, it ends cancelled.

    Not `asyncio.wait_for`: in Python 3.11 that swallows a cancellation which comes as its work ends, and the task then goes on
    and keeps fencing the rightful owner of its partition. So do aiokafka's clients, with one that comes while they wait for the
    tasks that they have cancelled themselves."""
    before = cancellations()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await close(client)
    except (Exception, asyncio.CancelledError) as error:
        # A flush that can't end: what it would have sent is not committed and does not matter any more. Or a sender that was
        # cancelled twice by its own library, and cancels whoever waits for it.
        if isinstance(error, asyncio.CancelledError) and cancelled_by_somebody():
            raise
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await compat.connection_of(client).close()
    if cancellations() > before:
        raise asyncio.CancelledError


async def describe(client: AIOKafkaAdminClient, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the broker says of each topic: `topic`, `error_code`, `partitions`. Never makes a broker create one. Raises
    BrokerUnavailable."""
    if not names:
        return []
    try:
        return await compat.describe_topics(client, names)
    except KafkaError as error:  # it has gone since it was connected to
        raise BrokerUnavailable(f"{compat.servers(client)} does not tell of its topics: {error!r}") from error


def _who(settings: Settings) -> str:
    return f"user {settings.security.sasl_username!r}" if settings.security.sasl_username else "this client"


async def partition_counts(settings: Settings, topics: Iterable[str], *, absent: Collection[str] = ()) -> dict[str, int]:
    """Partition counts by short name; of one of `absent` (short names) that the broker does not have 0. Raises TopicMissing
    naming all others that it does not have, BrokerUnavailable, or NotAllowed for one that we must not see."""
    names = [full_name(settings, topic) for topic in topics]
    async with connected(admin(settings)) as client:
        described = await describe(client, names)
        for topic in described:
            error = for_code(topic["error_code"])
            if error is TopicAuthorizationFailedError:
                raise NotAllowed(f"{settings.bootstrap} does not allow {_who(settings)} to see topic {topic['topic']}: {RIGHTS}")
            if topic["error_code"] and error.retriable and error is not UnknownTopicOrPartitionError:
                raise BrokerUnavailable(f"{topic['topic']}: {error.__name__}")  # its leader is being elected: it is there
        lacks = {topic["topic"]: for_code(topic["error_code"]).__name__ for topic in described if topic["error_code"]}
        missing = sorted(name for name in lacks if short_name(settings, name) not in absent)
        others = await _deployments(client) if missing else []
    if missing:
        hint = ""
        if others and settings.deployment not in others:
            known = ", ".join(others[:10]) + (" …" if len(others) > 10 else "")
            hint = f"; there is no deployment {settings.deployment!r} at {settings.bootstrap}, but {known}"
        reasons = sorted({lacks[name] for name in missing})
        raise TopicMissing(f"{', '.join(missing)}: {', '.join(reasons)}; `headrace topics create` declares all topics{hint}")
    return {short_name(settings, topic["topic"]): len(topic["partitions"] or ()) for topic in described}


async def _deployments(client: AIOKafkaAdminClient) -> list[str]:
    """Those that a broker has, as far as this client may know of them."""
    try:
        topics = set(await client.list_topics())
    except KafkaError:  # it was asked only for a better message
        return []
    found = {name.removesuffix(".interactions") for name in topics if name.endswith(".interactions")}
    return sorted(name for name in found if f"{name}.signals" in topics)
