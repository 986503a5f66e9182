"""Who wrote a derived record and what it was made of, as its headers say. Knows no topic, no event and no client.

`origin` is how headers are written: `headrace-origin: stage/topic/partition/offset/ordinal`, or the writer's name alone where no
input record made it. `six_headers` is how rule version 1 of every stage wrote them; both are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from headrace_schemas.cloudevents import STRUCTURED  # by which other libraries know a structured event

Headers = Sequence[tuple[str, bytes]]  # of a foreign record a value may be None
WrittenHeaders = tuple[tuple[str, bytes], ...]

ORIGIN = "headrace-origin"


class Provenance(NamedTuple):
    """Coordinates of the input record that a derived record was made of; `ordinal` numbers what that one made, from 0."""

    stage: str
    topic: str
    partition: int
    offset: int
    ordinal: int


HeaderForm = Callable[[Provenance], WrittenHeaders]


def origin(source: Provenance) -> WrittenHeaders:
    """The headers of a derived record."""
    stage, topic, partition, offset, ordinal = source
    return (STRUCTURED, (ORIGIN, f"{stage}/{topic}/{partition}/{offset}/{ordinal}".encode()))


def origin_without_input(writer: str) -> WrittenHeaders:
    """The headers of a record that no input record made (a tick, an activation): who wrote it."""
    return (STRUCTURED, (ORIGIN, writer.encode()))


def six_headers(source: Provenance) -> WrittenHeaders:
    """The headers of a derived record under rule version 1."""
    return (
        STRUCTURED,
        ("headrace-stage", source.stage.encode()),
        ("headrace-topic", source.topic.encode()),
        ("headrace-partition", b"%d" % source.partition),
        ("headrace-offset", b"%d" % source.offset),
        ("headrace-ordinal", b"%d" % source.ordinal),
    )


def provenance_of(headers: Headers) -> Provenance | None:
    """What a record was made of, in either form; None where no input record made it, or where it does not say so properly."""
    named = dict(headers)
    try:
        if (written := named.get(ORIGIN)) is not None:
            stage, topic, partition, offset, ordinal = written.decode().split("/")
        else:
            stage, topic = named["headrace-stage"].decode(), named["headrace-topic"].decode()
            partition, offset, ordinal = (named[f"headrace-{name}"].decode() for name in ("partition", "offset", "ordinal"))
        return Provenance(stage, topic, int(partition), int(offset), int(ordinal))
    except (KeyError, ValueError, AttributeError):  # not there, no number, no value
        return None


def writer_of(headers: Headers) -> str | None:
    """The name that a record's writer gives itself: a stage's, or like `curate.tick`; None where there is none."""
    named = dict(headers)
    written = named.get(ORIGIN) or named.get("headrace-stage")
    return None if written is None else written.decode(errors="replace").partition("/")[0]
