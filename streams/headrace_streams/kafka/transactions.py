"""What partitions know of producers (DescribeProducers), and markers that end a transaction there (WriteTxnMarkers).

Knows requests and answers; how a transaction ought to end, others decide. aiokafka has neither request, brokers have had both
since Kafka 3.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import LeaderNotAvailableError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

_TAGS = ("tags", TaggedFields)
_NO_TAGS: dict[int, bytes] = {}


class ProducerState(NamedTuple):
    """A producer as one partition knows it. `last_sequence` numbers its records there in this epoch from 0 (-1: none);
    `open_from` is the offset at which a transaction began that no marker has ended, None where there is none."""

    producer_id: int
    epoch: int
    last_sequence: int
    coordinator_epoch: int
    open_from: int | None


async def producers(client: Any, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, list[ProducerState]]:
    """The producers of each partition, as its leader knows them. Takes READ on the topics. Raises KafkaError."""
    states: dict[TopicPartition, list[ProducerState]] = {}
    for leader, theirs in _by_leader(client, partitions).items():
        response = await client.send(leader, _DescribeProducers(_by_topic(theirs)))
        for name, answers, _ in response.topics:
            for number, code, _message, found, _ in answers:
                _raise_for(code, name, number)
                states[TopicPartition(name, number)] = [_state(*each) for each in found]
    return states


async def write_markers(client: Any, hanging: Mapping[TopicPartition, ProducerState], *, committed: bool) -> None:
    """Ends the transactions that hang in these partitions, as their coordinator would have: an abort that is not the producer's
    own raises its epoch. Raises ClusterAuthorizationFailedError where this client may not (it takes ClusterAction), or another
    KafkaError."""
    for leader, theirs in _by_leader(client, hanging).items():
        markers = []
        for tp in theirs:
            state = hanging[tp]
            topics = [(tp.topic, [tp.partition], _NO_TAGS)]
            coordinator_epoch = max(0, state.coordinator_epoch)
            epoch = state.epoch if committed else state.epoch + 1
            markers.append((state.producer_id, epoch, committed, topics, coordinator_epoch, _NO_TAGS))
        response = await client.send(leader, _WriteTxnMarkers(markers))
        for _producer_id, answered, _ in response.markers:
            for name, answers, _ in answered:
                for number, code, _ in answers:
                    _raise_for(code, name, number)


def _raise_for(code: int, topic: str, partition: int) -> None:
    if code:
        error = for_code(code)
        raise error(f"{topic}/{partition}: {error.__name__}")


def _state(
    producer_id: int, epoch: int, sequence: int, _time: int, coordinator_epoch: int, start: int, _tags: Any
) -> ProducerState:
    return ProducerState(producer_id, epoch, sequence, coordinator_epoch, None if start < 0 else start)


def _by_leader(client: Any, partitions: Iterable[TopicPartition]) -> dict[int, list[TopicPartition]]:
    grouped: dict[int, list[TopicPartition]] = {}
    for tp in partitions:
        leader = client.cluster.leader_for_partition(tp)
        if leader is None or leader < 0:
            raise LeaderNotAvailableError(f"{tp.topic}/{tp.partition} has no leader")
        grouped.setdefault(leader, []).append(tp)
    return grouped


def _by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, list[int], dict[int, bytes]]]:
    grouped: dict[str, list[int]] = {}
    for tp in partitions:
        grouped.setdefault(tp.topic, []).append(tp.partition)
    return [(name, numbers, _NO_TAGS) for name, numbers in grouped.items()]


class _DescribeProducersResponse_v0(Response):  # type: ignore[misc]
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", CompactString("utf-8")),
                        (
                            "active_producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("current_txn_start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _DescribeProducersRequest_v0(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY = 61
    API_VERSION = 0
    RESPONSE_TYPE = _DescribeProducersResponse_v0
    SCHEMA = Schema(("topics", CompactArray(("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), _TAGS)), _TAGS)


class _DescribeProducers(Request[_DescribeProducersRequest_v0]):  # type: ignore[misc]
    API_KEY = 61

    def __init__(self, topics: list[Any]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_DescribeProducersRequest_v0]) -> _DescribeProducersRequest_v0:
        return request_struct_class(self._topics, _NO_TAGS)


class _WriteTxnMarkersResponse_v1(Response):  # type: ignore[misc]
    API_KEY = 27
    API_VERSION = 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                (
                    "topics",
                    CompactArray(
                        ("name", CompactString("utf-8")),
                        ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _WriteTxnMarkersRequest_v1(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY = 27
    API_VERSION = 1
    RESPONSE_TYPE = _WriteTxnMarkersResponse_v1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("transaction_result", Boolean),
                ("topics", CompactArray(("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), _TAGS)),
                ("coordinator_epoch", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _WriteTxnMarkers(Request[_WriteTxnMarkersRequest_v1]):  # type: ignore[misc]
    API_KEY = 27

    def __init__(self, markers: list[Any]) -> None:
        self._markers = markers

    def build(self, request_struct_class: type[_WriteTxnMarkersRequest_v1]) -> _WriteTxnMarkersRequest_v1:
        return request_struct_class(self._markers, _NO_TAGS)
