"""How topics are configured (DescribeConfigs), and single values of it set (IncrementalAlterConfigs, which aiokafka lacks).

Knows requests and answers; what a configuration ought to be, others say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.errors import NodeNotReadyError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from headrace_streams.kafka import compat

_TOPIC, _SET = 2, 0  # a kind of resource; to set one value and leave the others alone


class _IncrementalAlterConfigsResponse(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 44, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("resources", Array(("code", Int16), ("message", String("utf-8")), ("type", Int8), ("name", String("utf-8")))),
    )


class _IncrementalAlterConfigsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION = 44, 0
    RESPONSE_TYPE = _IncrementalAlterConfigsResponse
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("type", Int8),
                ("name", String("utf-8")),
                ("configs", Array(("name", String("utf-8")), ("operation", Int8), ("value", String("utf-8")))),
            ),
        ),
        ("validate_only", Boolean),
    )


class _IncrementalAlterConfigs(Request[_IncrementalAlterConfigsStruct]):  # type: ignore[misc]
    """The library's own `alter_configs` puts all other values of a topic back to the broker's defaults."""

    API_KEY = 44

    def __init__(self, resources: list[Any]) -> None:
        self._resources = resources

    def build(self, struct: type[_IncrementalAlterConfigsStruct]) -> _IncrementalAlterConfigsStruct:
        return struct(self._resources, False)


async def set_topic_configs(admin: Any, changes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Sets values of topics by full name and leaves all others as they are. The broker's refusals by topic; KafkaError."""
    resources = [(_TOPIC, name, [(key, _SET, value) for key, value in values.items()]) for name, values in changes.items()]
    response = await admin._send_request(_IncrementalAlterConfigs(resources))
    return {name: f"{for_code(code).__name__}: {message}" for code, message, _, name in response.resources if code}


async def topic_configs(client: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The configuration in force of topics by full name, asked with any client; without those that are missing. KafkaError."""
    inner = compat.connection_of(client)
    node = inner.get_random_node()
    if node is None or not await inner.ready(node):
        raise NodeNotReadyError("no broker to ask")
    response = await inner.send(node, DescribeConfigsRequest([(_TOPIC, name, None) for name in names]))
    found = {}
    for code, message, _type, name, entries in response.resources:
        if code and code != UnknownTopicOrPartitionError.errno:
            raise for_code(code)(f"{name}: {message}")
        if not code:
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found
