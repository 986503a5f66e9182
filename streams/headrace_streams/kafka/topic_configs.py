"""How a broker is to keep a topic, where it keeps one otherwise, and what of that does harm or can be mended. Knows no client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from headrace_schemas.topics import FOREVER, Topic

TIMESTAMPS, CLEANUP, SIZE = "message.timestamp.type", "cleanup.policy", "max.message.bytes"
RETENTION_MS, RETENTION_BYTES = "retention.ms", "retention.bytes"
MIN_REPLICAS = "min.insync.replicas"


class TopicDifference(NamedTuple):
    """One configuration that is not as declared. `harmful`: stages would decide wrongly, lose what they keep, or get stuck.
    `mendable`: setting it right takes nothing away that is there (of timestamps: unless records lie ahead of the clock)."""

    key: str
    actual: str | None
    expected: str
    harmful: bool
    mendable: bool

    def __str__(self) -> str:
        return f"{self.key} = {self.actual}, expected {self.expected}"


def declared(topic: Topic, replication_factor: int) -> dict[str, str]:
    """The broker's configuration of a topic, as strings."""
    configs = {
        CLEANUP: "compact" if topic.compacted else "delete",
        RETENTION_MS: str(topic.retention_ms),
        RETENTION_BYTES: "-1",
        SIZE: str(topic.max_bytes),
        TIMESTAMPS: "LogAppendTime",
        MIN_REPLICAS: str(min(2, replication_factor)),
    }
    if topic.compaction is not None:
        configs |= {
            "segment.bytes": str(topic.compaction.segment_bytes),
            "min.cleanable.dirty.ratio": str(topic.compaction.dirty_ratio),
            "max.compaction.lag.ms": str(topic.compaction.within_ms),
            "delete.retention.ms": str(topic.compaction.tombstones_ms),
        }
    return configs


def differences(topic: Topic, configs: Mapping[str, str], replication_factor: int = 1) -> list[TopicDifference]:
    """What of a topic's configuration is not as declared, in the order of `declared`."""
    found = []
    for key, expected in declared(topic, replication_factor).items():
        actual = configs.get(key)
        if actual != expected:
            found.append(TopicDifference(key, actual, expected, _harmful(topic, key, actual), _mendable(key, actual, expected)))
    return found


def _harmful(topic: Topic, key: str, actual: str | None) -> bool:
    if key == SIZE:
        return _number(actual) < topic.max_bytes
    if key in (RETENTION_MS, RETENTION_BYTES):  # how long what is not kept for ever stays is its keeper's to say
        return topic.retention_ms == FOREVER and not topic.compacted
    return key in (TIMESTAMPS, CLEANUP)


def _mendable(key: str, actual: str | None, expected: str) -> bool:
    if key in (RETENTION_MS, RETENTION_BYTES):  # a shorter time would remove records
        return expected == "-1" or -1 < _number(actual) < int(expected)
    if key == SIZE:
        return _number(actual) < int(expected)
    return key != MIN_REPLICAS  # more than there are replicas would refuse all records


def _number(text: str | None) -> int:
    return int(text) if text and text.lstrip("-").isdigit() else 0
