"""What a stage is: its row of the topology, its policy, and a pure fold per rule version. Knows no client.

A fold is `step(state, record) -> Step`: it reads no clock, draws no random number and changes nothing; the driver (live task
or replay) applies `Step.changes` to the state, writes `Step.outputs` and adds `Step.counters`, all or nothing.
State is a mapping from state key to an immutable value; `dump`/`load` are its changelog form. Keys that begin with DERIVED
are indexes: a step reads and changes them like any other, but they are not written, and `derive` makes them after a restart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct

from headrace_schemas.canonical import digest
from headrace_schemas.events import Event
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.topology import StageTopology
from headrace_streams.policy import Policy
from headrace_streams.runtime.provenance import HeaderForm, origin
from headrace_streams.runtime.provenance import Headers as Headers

DERIVED = "~"  # a state key that begins so is kept in memory only: it follows from the others


class Record(NamedTuple):
    """One input record. `topic` is the short name; `timestamp` (append time) and `now` (fold time) are ms since the epoch.

    `now` never runs backwards within a partition: it is the largest append time seen so far, this record's included.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    now: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def coordinates(self) -> str:
        """topic/partition/offset"""
        return f"{self.topic}/{self.partition}/{self.offset}"


class StoredRecord(Protocol):
    """What is read of a record, wherever it comes from. `timestamp` is the append time in ms."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Write(NamedTuple):
    """One event to write. `value` is an event, or bytes that are one already (pass-through). `everywhere`: to each partition.
    `owner`: whose key its texts are sealed with; empty: they are not."""

    topic: str
    key: str
    value: Event | bytes
    everywhere: bool = False
    owner: str = ""


class Step(NamedTuple):
    """What one record does: events out, state changes (`None` deletes the key), counters up or down by name. `owners`: by whose
    keys the values of some state keys are sealed, from now on and as long as they are there."""

    outputs: Sequence[Write] = ()
    changes: Mapping[str, Any] = {}
    counters: Mapping[str, int] = {}
    owners: Mapping[str, str] = {}


class Claim(NamedTuple):
    """What an input record says of owners of texts. `makes_key`: its texts are to be sealed, so `owner` needs a key; `subject`:
    the digest of whose data it is; `of`: an owner that it belongs to; `under`: the foreign id that it is said of, and whose it is
    then follows from links. With `erases` all keys of `subject` are to go."""

    owner: str
    time_ns: int
    subject: str = ""
    of: str = ""
    under: str = ""
    makes_key: bool = False
    erases: bool = False


class Fold(ABC):
    """The decision of a stage under one policy body. Raises nothing for bad input that it can answer with an event."""

    @abstractmethod
    def step(self, state: Mapping[str, Any], record: Record) -> Step: ...

    def look_ahead(self, records: Sequence[tuple[bytes, Headers]]) -> None:  # noqa: B027  # most have nothing to find out
        """Values and headers of records that will mostly be the next ones: what depends on nothing but a record may be found out
        for many at once. Every step must come to the same without it. Raises nothing for bad input."""

    seals: bool = False  # whether it names owners of what it makes of inputs, and `claims` says which
    erases: bool = False  # whether `claims` also says whose keys are to go where it seals nothing, or nothing any more
    opens: bool = True  # whether it reads the texts of sealed records
    texts_meet: bool = False  # whether the texts of one owner decide about others

    def claims(self, record: Record) -> Sequence[Claim]:
        """What a record that is to be folded next says of owners of texts. Raises nothing for bad input."""
        return ()

    def stand_in(self, key: str, value: bytes) -> bytes:
        """What stands for a state value, in changelog form, that is sealed, when nobody can open it any more."""
        raise NotImplementedError(f"{type(self).__name__} seals {key!r} and does not say what stands for it")

    gauged: str = ""  # state keys that begin so are watched: `gauges` says what is shown of them; "" for none

    def gauges(self, key: str, value: Any) -> tuple[str, Mapping[str, float]]:
        """What is shown of a watched state value to whoever watches a running task: the bucket, and figures by name."""
        raise NotImplementedError(f"{type(self).__name__} watches {self.gauged!r} and does not say what to show")

    @abstractmethod
    def load(self, key: str, value: bytes) -> Any:
        """A state value from its changelog form. ValueError when the key is none of the stage's, or the value is not its own."""

    as_bytes: tuple[str, ...] = ()  # state keys that begin so have values that are their changelog form; "" for all

    def reload(self, key: str, value: bytes) -> Any:
        """As `load`, of bytes that it has taken before, or that `dump` wrote: nothing need be checked again. Values of `as_bytes`
        are not given to it."""
        return self.load(key, value)

    def dump(self, key: str, value: Any) -> bytes:
        """The changelog form of a state value: equal states are equal bytes."""
        return msgspec.json.encode(value)

    def derive(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The derived keys of a state that was just loaded, with their values: what a task that never stopped would have."""
        return {}

    def deadline(self, key: str, value: Any) -> int | None:
        """The fold time in ms at which a state value is to be looked at if nothing happens before, or None. Asked for every
        value that changes, but derived ones."""
        return None

    def deadlines(self, state: Mapping[str, Any]) -> dict[str, int]:
        """Every deadline of a state, by key: for folds that find those of a million values sooner than by asking for each."""
        return all_deadlines(self.deadline, state)

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        """What a task writes into its own input partition (whatever a write's key says) when the deadlines of `keys` have passed,
        `now` being fold time in ms: records like any other, so that replay sees time pass where it did. Pure. Folding them must
        move the deadlines, or the keys are asked for again."""
        return ()


def all_deadlines(deadline: Callable[[str, Any], int | None], state: Mapping[str, Any]) -> dict[str, int]:
    """Every deadline of a state by key; derived keys have none."""
    return {key: at for key, value in state.items() if not key.startswith(DERIVED) and (at := deadline(key, value)) is not None}


class StatelessFold(Fold):
    """A fold that keeps nothing."""

    def load(self, key: str, value: bytes) -> Any:
        raise ValueError(f"state key: {key!r}, and this stage keeps no state")


class UnknownVersion(HeadraceError, LookupError):
    """A rule version that this code does not have; one line that names stage, version and those that are known."""


class InvalidBody(HeadraceError, ValueError):
    """A recorded policy body that its rule version can't read; one line that names field and value."""


F = TypeVar("F")


class RuleVersion(Struct, Generic[F], frozen=True):
    """The rules of a stage under one version number. `build(body, digest)` makes them from the JSON form of a policy, live or
    from the log, where `digest` is the body's as recorded. `absent` says what the version did where a key now is: it stands in
    for keys that the body lacks, whatever the default is today. `provenance`: the form of the headers that it writes;
    `checks_writers`: whether a record that its topic's writers did not write is a dead letter; `later_writers`: which of them it
    did not know of.
    `state_version`: the form of the state that its fold reads and writes; None: the stage's newest."""

    build: Callable[[Mapping[str, Any], str], F]
    absent: Mapping[str, Any] = {}
    provenance: HeaderForm = origin
    checks_writers: bool = False
    later_writers: tuple[str, ...] = ()
    state_version: int | None = None


StateUpcast = Callable[[Mapping[str, bytes]], dict[str, bytes]]


class Stage(Struct, Generic[F], frozen=True, kw_only=True):
    """A stage of the topology with its code. New tasks run the newest of `versions`; the one before stays, so that logs that it
    wrote still verify. `state_upcasts[n]` turns a changelog of state version n into one of n + 1."""

    topology: StageTopology
    policy: type[Policy]
    versions: Mapping[int, RuleVersion[F]]
    state_version: int = 1
    state_upcasts: Mapping[int, StateUpcast] = {}

    @property
    def name(self) -> str:
        return self.topology.name

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.topology.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.topology.outputs

    @property
    def version(self) -> int:
        """Of the rules that new tasks run."""
        return max(self.versions)

    def build(self, version: int, body: Mapping[str, Any], name: str) -> F:
        """The rules of `version` under a policy body that the log names by digest `name`. Raises UnknownVersion, InvalidBody."""
        rules = self.versions.get(version)
        if rules is None:
            known = ", ".join(map(str, sorted(self.versions)))
            raise UnknownVersion(f"{self.name}: rule version {version} is not known to this code, which has {known}")
        try:
            return rules.build({**rules.absent, **body}, name)
        except ValueError as error:  # pydantic's ValidationError is one
            raise InvalidBody(f"{self.name}: recorded policy {name[:15]}…: {_first_line(error)}") from error

    def newest(self, body: Mapping[str, Any]) -> F:
        """The rules of a new task under a policy body. Raises InvalidBody."""
        return self.build(self.version, body, digest(body))

    def state_version_of(self, version: int) -> int:
        """The form of state that a rule version reads and writes."""
        rules = self.versions.get(version)
        return self.state_version if rules is None or rules.state_version is None else rules.state_version

    def upcast_state(self, version: int, state: Mapping[str, bytes], wanted: int | None = None) -> dict[str, bytes]:
        """A changelog of state version `version` as one of version `wanted`, by default `state_version`. UnknownVersion where
        there is no way."""
        target = self.state_version if wanted is None else wanted
        current = dict(state)
        for number in range(version, target):
            upcast = self.state_upcasts.get(number)
            if upcast is None:
                raise UnknownVersion(f"{self.name}: state of version {number} can't be read by version {target}")
            current = upcast(current)
        if version > target:
            raise UnknownVersion(f"{self.name}: state of version {version} is newer than {target}, which this code has")
        return current


def _first_line(error: ValueError) -> str:
    from pydantic import ValidationError

    from headrace_streams.settings import first_fault

    return first_fault(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]


FoldStage = Stage[Fold]
