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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headrace_lake.differences import Difference, json_differences
from headrace_lake.log import LogRecord
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_schemas.derived import RulesActivation
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.journal import POSITION_KEY, Position, Rules, decode_position, encode_position
from headrace_streams.runtime.stage import FoldStage, Headers
from headrace_streams.runtime.step import Produced

FOLDER = Path(__file__).parents[1] / "histories"


class HistoryError(ValueError):
    """A history can't be read or recorded; one line says why."""


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
    rules: RulesActivation


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
    outputs: tuple[Output, ...] = ()


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
    def activations(self) -> list[RulesActivation]:
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
    """HistoryError names the file, and the line where there is one, that is no history."""
    lines: list[Line] = []
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            lines.append(_LINE.decode(text))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HistoryError(f"{path}:{number}: no line of a history: {error}") from None
    if not lines or not isinstance(lines[0], Head):
        raise HistoryError(f"{path}: no history: its first line is no head, which names stage and version")
    return History(tuple(lines))


def path_of(stage: str, version: int, folder: Path = FOLDER) -> Path:
    return folder / f"{stage}.v{version}.jsonl"


def unrecorded(stages: Iterable[FoldStage], folder: Path = FOLDER) -> list[str]:
    """One line for each rule version of the stage table that has no recorded history: which, and how to record it."""
    return [
        f"{stage.name}: rule version {version} has no recorded history {path_of(stage.name, version, folder).name}: "
        f"record it with `cd tests && python -m support.histories record {stage.name}` and commit the file"
        for stage in stages
        for version in sorted(stage.versions)
        if not path_of(stage.name, version, folder).exists()
    ]


def replayed(history: History, stage: FoldStage) -> History:
    """The same records under the same rules, with outputs and ends as today's code makes them. Raises UnknownVersion and
    InvalidBody for rules that the code does not have."""
    lines: list[Line] = []
    for line, task in _followed(history, stage):
        match line:
            case Entry():
                assert task is not None
                lines.append(replace(line, outputs=task.run(line)))
            case End():
                assert task is not None, f"{history.head.stage} over {line.topic}/{line.partition}: an end without a record"
                lines.append(replace(line, changelog=task.changelog()))
            case _:
                lines.append(line)
    return History(tuple(lines))


def folded(history: History, stage: FoldStage) -> Iterator[tuple[Entry, FoldRunner]]:
    """Each record with the runner of its input partition, which has just folded it."""
    for line, task in _followed(history, stage):
        if isinstance(line, Entry):
            assert task is not None
            task.run(line)
            yield line, task.runner


def _followed(history: History, stage: FoldStage) -> Iterator[tuple[Line, _Task | None]]:
    """Each line with the task of its input partition, if it has begun, under the rules that are in force there."""
    pending: list[RulesActivation] = []
    task: _Task | None = None
    for line in history.lines:
        match line:
            case Activation(rules):
                pending.append(rules)
            case Entry():
                task = task or _Task(stage, line, history.head.partitions)
                while pending and pending[0].from_offset <= line.offset:
                    task.activate(pending.pop(0))
        yield line, task
        if isinstance(line, End):
            task = None


class _Task:
    """One input partition in the making, from its first record on."""

    def __init__(self, stage: FoldStage, first: Entry, partitions: Mapping[str, int]) -> None:
        self.runner = FoldRunner(stage, first.topic, first.partition, partitions)
        self.rules: Rules | None = None
        self.next_offset = 0

    def activate(self, rules: RulesActivation) -> None:
        self.runner.activate(rules.version, rules.body, rules.digest)
        self.rules = Rules(rules.version, rules.digest)

    def run(self, entry: Entry) -> tuple[Output, ...]:
        headers = cast(Headers, [(name, unpack(value)) for name, value in entry.headers])  # Kafka knows null header values too
        found = LogRecord(
            entry.topic, entry.partition, entry.offset, entry.timestamp, unpack(entry.key), unpack(entry.value), headers
        )
        self.next_offset = entry.offset + 1
        return tuple(_output(produced) for produced in self.runner.run(found).produced)

    def changelog(self) -> dict[str, Payload]:
        runner = self.runner
        position = Position(
            next_offset=self.next_offset,
            now=runner.now,
            partitions=runner.partitions[runner.topic],
            counters=runner.counters,
            rules=self.rules,
            state_version=runner.state_version,
        )
        dumped = {**runner.dumped(), POSITION_KEY: encode_position(position)}
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


def differences(recorded: History, stage: FoldStage) -> list[Difference]:
    """Where today's code makes other outputs, counters or state of a history's input; `expected` is what was recorded."""
    today = replayed(recorded, stage)
    found: list[Difference] = []
    for was, now in zip(recorded.entries, today.entries, strict=True):
        fields = _outputs_differ(was.outputs, now.outputs)
        found += [Difference(stage.name, was.topic, was.partition, was.offset, *field) for field in fields]
    for ended, ends in zip(recorded.ends, today.ends, strict=True):
        fields = _changelogs_differ(current(ended, stage), current(ends, stage))
        found += [Difference(stage.name, ended.topic, ended.partition, None, *field) for field in fields]
    return found


def current(end: End, stage: FoldStage) -> dict[str, bytes]:
    """A changelog in the form that its rules read today: state upcast, the position with all its fields."""
    changelog = {key: unpack(value) or b"" for key, value in end.changelog.items()}
    position = decode_position(changelog.pop(POSITION_KEY))
    assert position.rules is not None
    form = stage.state_version_of(position.rules.version)
    state = stage.upcast_state(position.state_version, changelog, form)
    return {**state, POSITION_KEY: encode_position(replace(position, state_version=form))}


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
            yield from _values_differ(f"{name}.value", unpack(one.value), unpack(other.value))


def _changelogs_differ(was: Mapping[str, bytes], now: Mapping[str, bytes]) -> Iterator[Field]:
    for key in sorted(was.keys() | now.keys()):
        name = "position" if key == POSITION_KEY else f"state {key}"
        yield from _values_differ(name, was.get(key), now.get(key))


def _values_differ(name: str, was: bytes | None, now: bytes | None) -> Iterator[Field]:
    if was is None or now is None:
        if was is not now:
            yield name, repr(was)[:200], repr(now)[:200]
        return
    for path, expected, found in json_differences(was, now):
        yield name + path, expected, found


def _brief(output: Output) -> str:
    return f"{output.topic} key {output.key!r} value {str(output.value)[:200]!r}"


def record(stage: FoldStage, *, inputs: Path | None = None, folder: Path = FOLDER) -> Path:
    """Writes the history of the newest rules of `stage`, over the records and policies of `inputs` or of its newest history.
    Raises HistoryError when there is one already, or nothing to record it from."""
    target = path_of(stage.name, stage.version, folder)
    if target.exists():
        raise HistoryError(f"{target}: recorded already, and never again: other decisions are another rule version")
    source = inputs or next((path for path in reversed(_recorded(stage.name, folder))), None)
    if source is None:
        raise HistoryError(f"{stage.name}: no history in {folder} to take the input from; name one with --inputs")
    history = replayed(_under(read(source), stage), stage)
    with target.open("xb") as file:
        file.write(history.encode())
    return target


def _recorded(stage: str, folder: Path) -> list[Path]:
    """The files of a stage, by version."""
    return sorted(folder.glob(f"{stage}.v*.jsonl"), key=lambda path: int(path.name.split(".v")[-1].removesuffix(".jsonl")))


def _under(history: History, stage: FoldStage) -> History:
    """The input of a history with its policies as bodies of today's model, under the newest rules of the stage."""
    if history.head.stage != stage.name:
        raise HistoryError(f"inputs: a history of {history.head.stage}, not of {stage.name}")

    def newest(rules: RulesActivation) -> RulesActivation:
        body = stage.policy.model_validate(rules.body).body()
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
    except (HistoryError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
