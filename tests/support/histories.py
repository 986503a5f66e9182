"""Recorded histories: what a stage was given and all that it made of it, one file per stage and rule version. Decides nothing.

A file is JSON lines: a head, then per input partition the policies in force, each record with its outputs, and at the end the
changelog, which is the position with its counters and the state. Bytes stand as text where they are UTF-8, else in base64.
A history is recorded once, when its rule version is new, and never again: what the code does must stay what the file says.

    cd tests && python -m support.histories record STAGE [--inputs FILE]

records the newest rules of STAGE over the records and policies of its newest history (or of FILE, which may have more of them).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headrace_lake.verify import Difference, _json_differences
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_schemas.derived import Rules
from headrace_streams.runtime.journal import POSITION_KEY, Position, decode_position, encode_position
from headrace_streams.runtime.journal import Rules as InForce
from headrace_streams.runtime.stage import Fold, Headers, Record, Stage
from headrace_streams.runtime.step import Produced, process

FOLDER = Path(__file__).parents[1] / "histories"


class Base64(Struct, frozen=True):
    """Bytes that are no text."""

    base64: bytes


Payload = str | Base64 | None
PackedHeaders = tuple[tuple[str, Payload], ...]


class Head(Struct, frozen=True, tag_field="line", tag="history"):
    """`partitions`: of each topic that the stage reads or writes."""

    stage: str
    version: int
    partitions: dict[str, int]


class Activation(Struct, frozen=True, tag_field="line", tag="activation"):
    rules: Rules


class Output(Struct, frozen=True):
    topic: str
    partition: int
    key: Payload
    value: Payload
    headers: PackedHeaders


class Entry(Struct, frozen=True, tag_field="line", tag="record"):
    """One input record, append time in ms, and what came of it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Payload
    value: Payload
    headers: PackedHeaders
    outputs: tuple[Output, ...]


class End(Struct, frozen=True, tag_field="line", tag="end"):
    """The changelog of an input partition after its last record: newest value by key, the position's among them."""

    topic: str
    partition: int
    changelog: dict[str, Payload]


Line = Head | Activation | Entry | End
_LINE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class History(Struct, frozen=True):
    """The lines of a file in their order, of which the first is the head."""

    lines: tuple[Line, ...]

    @property
    def head(self) -> Head:
        head = self.lines[0]
        assert isinstance(head, Head)
        return head

    @property
    def activations(self) -> list[Rules]:
        return [line.rules for line in self.lines if isinstance(line, Activation)]

    @property
    def entries(self) -> list[Entry]:
        return [line for line in self.lines if isinstance(line, Entry)]

    @property
    def ends(self) -> list[End]:
        return [line for line in self.lines if isinstance(line, End)]

    def encode(self) -> bytes:
        return b"".join(msgspec.json.encode(line) + b"\n" for line in self.lines)


def read(path: Path) -> History:
    return History(tuple(_LINE.decode(line) for line in path.read_bytes().splitlines()))


def path_of(stage: str, version: int, folder: Path = FOLDER) -> Path:
    return folder / f"{stage}.v{version}.jsonl"


def versions_of(stage: Stage) -> list[int]:
    """The rule versions that the stage table has of a stage."""
    return [stage.version]


def unrecorded(stages: Iterable[Stage], folder: Path = FOLDER) -> list[str]:
    """One line for each rule version of the stage table that has no recorded history: which, and how to record it."""
    return [
        f"{stage.name}: rule version {version} has no recorded history {path_of(stage.name, version, folder).name}: "
        f"record it with `cd tests && python -m support.histories record {stage.name}` and commit the file"
        for stage in stages
        for version in versions_of(stage)
        if not path_of(stage.name, version, folder).exists()
    ]


def fold_of(stage: Stage, rules: Rules) -> Fold:
    """The fold of recorded rules in today's code."""
    return stage.build(rules.body, rules.digest)  # type: ignore[call-arg]


def replayed(history: History, stage: Stage) -> History:
    """The same records under the same policies, with outputs and ends as today's code makes them."""
    lines: list[Line] = []
    task = _Task(stage, history.head)
    for line in history.lines:
        match line:
            case Head():
                lines.append(line)
            case Activation(rules):
                task.pending.append(rules)
                lines.append(line)
            case Entry():
                lines.append(replace(line, outputs=task.run(line)))
            case End():
                lines.append(replace(line, changelog=task.changelog(line.topic)))
                task = _Task(stage, history.head)
    return History(tuple(lines))


class _Task:
    """One input partition in the making."""

    def __init__(self, stage: Stage, head: Head) -> None:
        self.stage, self.partitions = stage, head.partitions
        self.pending: list[Rules] = []
        self.state: dict[str, Any] = {}
        self.counters: dict[str, int] = {}
        self.fold: Fold | None = None
        self.rules: InForce | None = None
        self.now = self.next_offset = 0

    def run(self, entry: Entry) -> tuple[Output, ...]:
        while self.pending and self.pending[0].from_offset <= entry.offset:
            self._activate(self.pending.pop(0))
        assert self.fold is not None, f"{self.stage.name} over {entry.topic}/{entry.partition} has no rules at {entry.offset}"
        self.now, self.next_offset = max(self.now, entry.timestamp), entry.offset + 1
        headers = cast(Headers, [(name, unpack(value)) for name, value in entry.headers])  # Kafka knows null header values too
        record = Record(
            entry.topic,
            entry.partition,
            entry.offset,
            entry.timestamp,
            self.now,
            unpack(entry.key),
            unpack(entry.value),
            headers,
        )
        processed = process(self.stage.name, self.fold, self.state, record, self.partitions)
        processed.apply(self.state, self.counters)
        return tuple(_output(produced) for produced in processed.produced)

    def _activate(self, rules: Rules) -> None:
        self.fold = fold_of(self.stage, rules)
        self.rules = InForce(rules.version, rules.digest)

    def changelog(self, topic: str) -> dict[str, Payload]:
        assert self.fold is not None
        position = Position(
            next_offset=self.next_offset,
            now=self.now,
            partitions=self.partitions[topic],
            counters=self.counters,
            rules=self.rules,
        )
        dumped = {key: self.fold.dump(key, value) for key, value in self.state.items()}
        dumped[POSITION_KEY] = encode_position(position)
        return {key: pack(dumped[key]) for key in sorted(dumped)}


def _output(produced: Produced) -> Output:
    headers = tuple((name, pack(value)) for name, value in produced.headers)
    return Output(produced.topic, produced.partition, pack(produced.key), pack(produced.value), headers)


def pack(data: bytes | None) -> Payload:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(data)


def unpack(payload: Payload) -> bytes | None:
    return payload.encode() if isinstance(payload, str) else None if payload is None else payload.base64


def text_of(payload: Payload) -> str:
    """The text of a payload; empty where there is none."""
    return payload if isinstance(payload, str) else ""


def differences(recorded: History, replayed: History) -> list[Difference]:
    """Where two histories of the same input disagree in outputs, counters or state; `expected` is what was recorded."""
    stage = recorded.head.stage
    found: list[Difference] = []
    for was, now in zip(recorded.entries, replayed.entries, strict=True):
        fields = _outputs_differ(was.outputs, now.outputs)
        found += [Difference(stage, was.topic, was.partition, was.offset, *field) for field in fields]
    for ended, ends in zip(recorded.ends, replayed.ends, strict=True):
        fields = _changelogs_differ(ended.changelog, ends.changelog)
        found += [Difference(stage, ended.topic, ended.partition, None, *field) for field in fields]
    return found


Field = tuple[str, str, str]  # name, expected, found


def _outputs_differ(was: Sequence[Output], now: Sequence[Output]) -> Iterator[Field]:
    for number in range(max(len(was), len(now))):
        name = f"outputs[{number}]"
        if number >= len(now):
            yield f"{name} missing", _brief(was[number]), "nothing"
        elif number >= len(was):
            yield f"{name} unexpected", "nothing", _brief(now[number])
        elif was[number] != now[number]:
            one, other = was[number], now[number]
            for field in ("topic", "partition", "key", "headers"):
                if getattr(one, field) != getattr(other, field):
                    yield f"{name}.{field}", str(getattr(one, field)), str(getattr(other, field))
            yield from _values_differ(f"{name}.value", one.value, other.value)


def _changelogs_differ(was: dict[str, Payload], now: dict[str, Payload]) -> Iterator[Field]:
    for key in sorted(was.keys() | now.keys()):
        one, other = was.get(key), now.get(key)
        if key == POSITION_KEY:  # which may have got fields since
            one, other = pack(_whole_position(one)), pack(_whole_position(other))
        yield from _values_differ("position" if key == POSITION_KEY else f"state {key}", one, other)


def _whole_position(recorded: Payload) -> bytes:
    return encode_position(decode_position(unpack(recorded) or b""))


def _values_differ(name: str, was: Payload, now: Payload) -> Iterator[Field]:
    if was is None or now is None:
        if was is not now:
            yield name, repr(was)[:200], repr(now)[:200]
        return
    for path, expected, found in _json_differences(unpack(was) or b"", unpack(now) or b""):
        yield name + path, expected, found


def _brief(output: Output) -> str:
    return f"{output.topic} key {output.key!r} value {str(output.value)[:200]!r}"


class RecordingError(Exception):
    """Nothing was recorded; one line says why."""


def record(stage: Stage, *, inputs: Path | None = None, folder: Path = FOLDER) -> Path:
    """Writes the history of the newest rules of `stage`, over the records and policies of `inputs` or of its newest history.
    Raises RecordingError when there is one already, or nothing to record it from."""
    target = path_of(stage.name, stage.version, folder)
    if target.exists():
        raise RecordingError(f"{target}: recorded already, and never again: other decisions are another rule version")
    source = inputs or next((path for path in reversed(_recorded(stage.name, folder))), None)
    if source is None:
        raise RecordingError(f"{stage.name}: no history in {folder} to take the input from; name one with --inputs")
    history = replayed(_under(read(source), stage), stage)
    with target.open("xb") as file:
        file.write(history.encode())
    return target


def _recorded(stage: str, folder: Path) -> list[Path]:
    """The files of a stage, by version."""
    return sorted(folder.glob(f"{stage}.v*.jsonl"), key=lambda path: int(path.name.split(".v")[-1].removesuffix(".jsonl")))


def _under(history: History, stage: Stage) -> History:
    """The input of a history with its policies as bodies of today's model, under the newest rules of the stage."""
    if history.head.stage != stage.name:
        raise RecordingError(f"inputs: a history of {history.head.stage}, not of {stage.name}")

    def newest(rules: Rules) -> Rules:
        body = stage.policy.model_validate(rules.body).model_dump(mode="json")
        return replace(rules, version=stage.version, body=body, digest=digest(body))

    lines: list[Line] = []
    for line in history.lines:
        match line:
            case Head():
                count = max(line.partitions.values())
                topics = (*stage.inputs, *stage.outputs, "dead-letters")
                lines.append(Head(stage.name, stage.version, dict.fromkeys(topics, count)))
            case Activation(rules):
                lines.append(Activation(newest(rules)))
            case _:
                lines.append(line)
    return History(tuple(lines))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="support.histories", description="Records what the newest rules of a stage do.")
    parser.add_argument("command", choices=["record"])
    parser.add_argument("stage", choices=[stage.name for stage in STAGES])
    parser.add_argument("--inputs", type=Path, help="a history whose records and policies are taken")
    given = parser.parse_args(arguments)
    [stage] = [stage for stage in STAGES if stage.name == given.stage]
    try:
        print(record(stage, inputs=given.inputs))
    except (RecordingError, OSError, msgspec.MsgspecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
