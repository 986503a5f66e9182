"""What a stage can cost at best in Python: bare loops that do what must be done and no more. Knows events, none of our stages.

Each loop fetches, decodes strictly into frozen structs of its own, does the least that its stage is for, encodes, and appends to
batches of 1 MiB that a broker acknowledges. No transaction, no header, no provenance, no durable state, no policy, no expiry, no
counter, and nobody's record is looked at twice: all of that is what a stage may cost more.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import re2
from aiokafka import TopicPartition
from msgspec import Struct

from bench import load
from headrace_processors.intake.scrub import personal, secrets
from headrace_streams.kafka import clients
from headrace_streams.runtime.journal import BATCH_BYTES
from headrace_streams.settings import Settings

Output = tuple[bytes, bytes]
BATCH_SIZE = 64  # examples of a batch
BINS, BANDS = 128, 16
SIMILAR = 0.85


class Agent(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    role: str | None = None
    version: str | None = None


class Principal(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    kind: str


class InteractionData(Struct, frozen=True, forbid_unknown_fields=True):
    interaction_id: str
    agent: Agent
    artifact_type: str
    model: str
    prompt: str
    output: str
    context: str | None = None
    session_id: str | None = None
    latency_ms: float | None = None
    usage: dict[str, int] = {}
    attributes: dict[str, str | bool | int | float] = {}


class FeedbackData(Struct, frozen=True, forbid_unknown_fields=True):
    feedback_id: str
    interaction_id: str
    kind: str
    score: float
    principal: Principal
    comment: str | None = None


class _Envelope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    specversion: str
    id: str
    source: str
    time: str


class Interaction(_Envelope, frozen=True, tag="headrace.interaction.recorded.v1", kw_only=True):
    data: InteractionData


class Feedback(_Envelope, frozen=True, tag="headrace.feedback.recorded.v1", kw_only=True):
    data: FeedbackData


class ExampleContent(Struct, frozen=True):
    prompt: str
    output: str
    target: str
    context: str | None = None


class ExampleData(Struct, frozen=True):
    example_id: str
    interaction_id: str
    bucket: str
    reward: float
    content: ExampleContent
    revision: int = 1


class Example(_Envelope, frozen=True, forbid_unknown_fields=False, tag="headrace.example.rewarded.v1", kw_only=True):
    data: ExampleData


class CutBatch(Struct, frozen=True):
    bucket: str
    examples: list[str]


_INPUT = msgspec.json.Decoder(Interaction | Feedback)
_EXAMPLE = msgspec.json.Decoder(Example)
_ENCODER = msgspec.json.Encoder()


class Loop:
    """The least that a stage is for: `decode` of values, then `work` on what they say, by named parts."""

    decoder: msgspec.json.Decoder[Any] = _INPUT

    def parts(self) -> dict[str, Callable[[Sequence[Any], Sequence[bytes], list[Output]], None]]:
        """Each takes the decoded events of a fetch, their values, and the outputs so far."""
        raise NotImplementedError


class Intake(Loop):
    """Which texts may be private, by the same necessary conditions as the stage; passed on under the interaction's id."""

    def __init__(self) -> None:
        options = re2.Options()
        options.max_mem = 64 << 20
        self._set = re2.Set.SearchSet(options)
        for pattern in (*secrets.PATTERNS, *personal.PATTERNS):
            self._set.Add(pattern.necessary)
        self._set.Compile()

    def parts(self) -> dict[str, Any]:
        return {"scrub prefilter": self._scrub, "key": self._pass_on}

    def _scrub(self, found: Sequence[Any], values: Sequence[bytes], outputs: list[Output]) -> None:
        match = self._set.Match
        for event in found:
            data = event.data
            if type(data) is InteractionData:
                match("\n".join((data.prompt, data.output, data.context or "", data.session_id or "")))
            else:
                match(data.comment or "")

    def _pass_on(self, found: Sequence[Any], values: Sequence[bytes], outputs: list[Output]) -> None:
        for event, value in zip(found, values, strict=True):
            outputs.append((event.data.interaction_id.encode(), value))


class Reward(Loop):
    """Joined by a dict, worth the tanh of a score, written as an example."""

    def __init__(self) -> None:
        self._cases: dict[str, InteractionData] = {}

    def parts(self) -> dict[str, Any]:
        return {"join, reward, encode": self._reward}

    def _reward(self, found: Sequence[Any], values: Sequence[bytes], outputs: list[Output]) -> None:
        for event in found:
            data = event.data
            if type(data) is InteractionData:
                self._cases[data.interaction_id] = data
                continue
            case = self._cases.get(data.interaction_id)
            if case is None:
                continue
            reward = round(math.tanh((data.score - 50) / 50 * (1 + 0.5 * min(1.0, len(case.prompt) / 2000))), 12)
            bucket = f"{case.artifact_type}/{case.model}"
            example_id = hashlib.blake2b(case.interaction_id.encode(), digest_size=16).hexdigest()
            content = ExampleContent(case.prompt, case.output, case.output, case.context)
            example = Example(
                specversion="1.0",
                id=example_id,
                source="stage:reward",
                time=event.time,
                data=ExampleData(example_id, case.interaction_id, bucket, reward, content),
            )
            outputs.append((bucket.encode(), _ENCODER.encode(example)))


class Curate(Loop):
    """Equal contents by a set of digests, a batch for every 64 examples of a bucket; near-duplicates where wanted."""

    decoder = _EXAMPLE

    def __init__(self, *, near: bool) -> None:
        self._near = NearDuplicates() if near else None
        self._known: set[bytes] = set()
        self._open: dict[str, list[str]] = {}

    def parts(self) -> dict[str, Any]:
        near = {} if self._near is None else {"near-duplicates": self._look}
        return {**near, "content, bucket, cut": self._cut}

    def _look(self, found: Sequence[Any], values: Sequence[bytes], outputs: list[Output]) -> None:
        assert self._near is not None
        self._near.look([f"{event.data.content.target}\n{event.data.content.prompt}".casefold().encode() for event in found])

    def _cut(self, found: Sequence[Any], values: Sequence[bytes], outputs: list[Output]) -> None:
        for event in found:
            data = event.data
            content = data.content
            digest = hashlib.blake2b(f"{content.prompt}\0{content.target}".encode(), digest_size=16).digest()
            if digest in self._known:
                continue
            self._known.add(digest)
            members = self._open.setdefault(data.bucket, [])
            members.append(data.example_id)
            if len(members) == BATCH_SIZE:
                outputs.append((data.bucket.encode(), _ENCODER.encode(CutBatch(data.bucket, members))))
                self._open[data.bucket] = []


class NearDuplicates:
    """A whole fetch at once: shingles of 5 bytes as one array, one-permutation MinHash of 128 bins, 16 bands in dicts, candidates
    compared by their signatures."""

    def __init__(self) -> None:
        self._tables: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]
        self._signatures: list[Any] = []

    def look(self, texts: Sequence[bytes]) -> list[tuple[int, int]]:
        """Takes texts in; pairs of near-duplicates, by number of arrival."""
        first, found = len(self._signatures), []
        signatures = _signatures(texts)
        self._signatures += list(signatures)
        bands = _bands(signatures).tolist()
        for number, row in enumerate(bands, first):
            seen: set[int] = set()
            for table, band in zip(self._tables, row, strict=True):
                members = table.get(band)
                if members is None:
                    table[band] = [number]
                else:
                    seen.update(members)
                    members.append(number)
            own = self._signatures[number]
            found += [(number, other) for other in seen if np.count_nonzero(own == self._signatures[other]) >= SIMILAR * BINS]
        return found


def _signatures(texts: Sequence[bytes]) -> Any:
    joined = b"".join(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    hashed = np.ndarray((len(joined),), "<u8", joined + bytes(8), 0, (1,)) & np.uint64((1 << 40) - 1)
    hashed *= np.uint64(0x9E3779B97F4A7C15)
    hashes = (hashed >> np.uint64(32)).astype(np.uint32)
    ends = np.cumsum(lengths)
    for back in range(1, 5):  # shingles that begin in one text and end in the next
        hashes[ends - back] = 0xFFFFFFFF
    places = np.repeat(np.arange(len(texts), dtype=np.int64) * BINS, lengths)
    places += hashes >> np.uint32(25)
    flat = np.full(len(texts) * BINS, 0xFFFFFFFF, np.uint32)
    np.minimum.at(flat, places, hashes)
    signatures: Any = flat.reshape(-1, BINS)
    empty = signatures == 0xFFFFFFFF
    while empty.any() and not empty.all():  # an empty bin takes what is in the next
        signatures = np.where(empty, np.roll(signatures, -1, axis=1), signatures)
        empty = signatures == 0xFFFFFFFF
    return np.ascontiguousarray(signatures)


def _bands(signatures: Any) -> Any:
    pairs = signatures.view("<u8").reshape(len(signatures), BANDS, -1)
    weights = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], "<u8")
    return (pairs * weights).sum(axis=2, dtype=np.uint64)


async def run(settings: Settings, topic: str, out: str, loop: Loop) -> tuple[dict[str, float], int]:
    """Microseconds of CPU per record of `topic`, by part, and how many records there were."""
    place = TopicPartition(clients.full_name(settings, topic), 0)
    spent: dict[str, float] = {}
    done = 0
    async with (
        clients.connected(clients.consumer(settings)) as consumer,
        clients.connected(clients.producer(settings, max_batch_size=BATCH_BYTES)) as producer,
    ):
        consumer.assign([place])
        consumer.seek(place, 0)
        end = (await consumer.end_offsets([place]))[place]
        at = time.process_time()

        def note(part: str) -> None:
            nonlocal at
            now = time.process_time()
            spent[part] = spent.get(part, 0.0) + now - at
            at = now

        while await consumer.position(place) < end:
            records = (await consumer.getmany(place, timeout_ms=500, max_records=2000)).get(place, ())
            values = [record.value for record in records]
            note("fetch")
            decode = loop.decoder.decode
            found = [decode(value) for value in values]
            note("decode")
            outputs: list[Output] = []
            for name, part in loop.parts().items():
                if found:
                    part(found, values, outputs)
                note(name)
            await load.send(producer, clients.full_name(settings, out), outputs)
            note("append, send")
            done += len(records)
    return {part: seconds / done * 1e6 for part, seconds in spent.items()}, done
