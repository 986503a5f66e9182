"""The position record of a task: where it stands, and what the transaction wrote that says so. Knows no client."""

from __future__ import annotations

import msgspec
from aiokafka import TopicPartition
from msgspec import UNSET, Struct, UnsetType

from headrace_schemas.root_error import HeadraceError
from headrace_streams.kafka.transactions import ProducerState

POSITION_KEY = "@position"


class UnreadablePosition(HeadraceError, ValueError):
    """A position record that is none."""


class Stamp(Struct, frozen=True):
    """Which records a transaction wrote: the producer's epoch, and for each topic/partition (full names, the changelog left out)
    how many records the producer had written there in this epoch when it ended."""

    epoch: int
    written: dict[str, int]

    def is_newest_in(self, partition: TopicPartition, state: ProducerState) -> bool:
        """Whether this transaction's records are the last that the partition has of the producer."""
        count = self.written.get(f"{partition.topic}/{partition.partition}")
        return count is not None and (state.epoch, state.last_sequence) == (self.epoch, (count - 1) & 0x7FFFFFFF)


class Rules(Struct, frozen=True):
    """Which rules a task goes by: the version in code and the digest of the policy body."""

    version: int
    digest: str


class Position(Struct, frozen=True, kw_only=True):
    """Where a task stands: every input record below `next_offset` is in `counters`. `now` is the fold's time in ms,
    `partitions` the count of the input topic that state and keys were laid out for."""

    next_offset: int = 0
    now: int = 0
    partitions: int = 0
    counters: dict[str, int] = {}
    rules: Rules | None = None
    state_version: int = 1  # of the state beside it: what its values mean
    stamp: Stamp | None = None  # of the transaction that wrote it
    watched: int | UnsetType = UNSET  # values that the fold watches; each is written again in its turn, so all lie near the end


def encode_position(position: Position) -> bytes:
    return msgspec.json.encode(position)


def decode_position(value: bytes) -> Position:
    """Raises UnreadablePosition."""
    try:
        return msgspec.json.decode(value, type=Position)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnreadablePosition(f"no task has written that: {str(error) or type(error).__name__}") from error
