"""Outputs of one input record where texts were erased before it: paired by what they are about, and compared in all that comes
from no such text. Knows what texts decide of each stage (erased.py), folds nothing.

What is not compared must still be possible: made of a record about its own interaction, under the id that follows from it, each
revision after the one before, and a batch cites rows as they lie on the log. So of who was erased, too, nothing is written twice,
lost from the middle, or cited that is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace_lake.differences import brief, json_differences
from headrace_lake.erased import (
    BATCH,
    DRAWN,
    REWARDED,
    SETTLED,
    WITHDRAWN,
    ErasedOwners,
    identity_of,
    tree_of,
    tree_or_none,
)
from headrace_lake.log import Log, LogRecord
from headrace_processors.curate.changelog import load
from headrace_processors.curate.manifest import batch_id
from headrace_processors.curate.state import BUCKET, CurateBucket
from headrace_processors.reward.keys import INTERACTION
from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Batch, Member, PromptMember
from headrace_schemas.ids import derive_id
from headrace_streams.runtime.provenance import ORIGIN, Headers
from headrace_streams.runtime.sealing import stored
from headrace_streams.runtime.step import Produced
from headrace_streams.signing import without_signature


class StepDifference(NamedTuple):
    """One thing that differs."""

    field: str
    expected: str
    found: str


class StepComparison(NamedTuple):
    """Of the outputs of one record in one place: how many are equal, how many only but for erased texts, what differs."""

    equal: int
    erased: int
    findings: Sequence[StepDifference]


class ErasedSteps:
    """Of one task. `revisions`: the newest revision on the log of each example of who was erased; `prompts`: those of their drawn
    prompts that were not withdrawn; `batches`: how many each bucket has there."""

    def __init__(self, log: Log, owners: ErasedOwners, stage: str, *, texts_meet: bool) -> None:
        self._log, self._owners, self.stage, self._texts_meet = log, owners, stage, texts_meet
        self.revisions: dict[str, int] = {}
        self.prompts: set[str] = set()
        self.batches: Counter[str] = Counter()

    def note(self, topic: str, value: bytes | None, headers: Headers, *, first: bool = False) -> StepDifference | None:
        """Takes an output that is on the log into `revisions` and `batches`; what is wrong with its place among them. `first`:
        it is the first revision by the fold, too."""
        if self.stage == "curate" and topic == "batches":
            tree = tree_of(value)
            if tree is not None and tree.get("type") == BATCH:
                self.batches[str(tree["data"].get("bucket"))] += 1
        if self.stage != "reward" or topic != "examples" or not self._owners.owns(topic, value, headers):
            return None
        tree = tree_of(value)
        assert tree is not None  # or nobody would own it
        data, kind = tree["data"], tree.get("type")
        name, revision = str(data.get("example_id")), data.get("revision")
        if kind == DRAWN:
            self.prompts.add(str(data.get("prompt_id")))
            return None
        if name == derive_id("prompt", str(data.get("interaction_id"))):
            self.prompts.discard(name)
            return None
        if name != derive_id("example", str(data.get("interaction_id"))) or kind not in (REWARDED, WITHDRAWN, SETTLED):
            return StepDifference("example_id", "the interaction's", name)
        before = self.revisions.get(name)
        wanted = before if before is None or kind == SETTLED else before + 1
        if isinstance(revision, int):
            self.revisions[name] = revision
        if wanted is None or revision == wanted or (first and revision == 1):
            return None
        return StepDifference("revision", f"{kind} of {name} with revision {wanted}", str(revision))

    async def compare(self, source: LogRecord, expected: Sequence[Produced], found: Sequence[LogRecord]) -> StepComparison:
        """What the fold makes of `source` beside what is on the log of it, both in one place and in their order."""
        findings: list[StepDifference] = []
        rest = list(expected)
        others: list[LogRecord] = []
        for record in found:
            match = next((each for each in rest if _is_same(each, record)), None)
            if match is None:
                others.append(record)
                continue
            rest.remove(match)
            self._note(record, findings, first=True)
        equal, erased = len(expected) - len(rest), 0
        for produced in rest:
            name = _identity(produced.topic, produced.key, produced.value)
            twin = next((record for record in others if _identity(record.topic, record.key, record.value) == name), None)
            if twin is None:
                if self._may_lack(produced.topic, produced.value, produced.headers):
                    erased += 1
                else:
                    findings.append(StepDifference("missing", brief(produced.topic, produced.key, produced.value), "nothing"))
                continue
            others.remove(twin)
            tree = tree_of(produced.value)
            self._note(twin, findings, first=tree is not None and tree["data"].get("revision") == 1)
            if _headers(twin.topic, twin.headers) != _headers(produced.topic, produced.headers):
                findings.append(StepDifference("headers", str(produced.headers), str(twin.headers)))
            elif self._is_alike(produced, twin) or (self._texts_meet and await self._is_possible(source, twin)):
                erased += 1
            else:
                told = json_differences(produced.value, twin.value or b"")
                findings += [StepDifference(f"value{path}", one, other) for path, one, other in told]
        for record in others:
            self._note(record, findings)
            if self._may_lack(record.topic, record.value, record.headers) and await self._is_possible(source, record):
                erased += 1
            else:
                findings.append(StepDifference("unexpected", "nothing", f"{record.topic}/{record.partition}@{record.offset}"))
        return StepComparison(equal, erased, findings)

    def _note(self, record: LogRecord, findings: list[StepDifference], *, first: bool = False) -> None:
        found = self.note(record.topic, record.value, record.headers, first=first)
        if found is not None:
            findings.append(found)

    def _may_lack(self, topic: str, value: bytes | None, headers: Headers) -> bool:
        """Whether texts that are erased may have decided that there is such an output."""
        tree = tree_of(value)
        if tree is None:
            return False
        return self._texts_meet or (self._owners.owns(topic, value, headers) and self._owners.by_texts(tree))

    def _is_alike(self, produced: Produced, record: LogRecord) -> bool:
        if not self._owners.owns(produced.topic, produced.value, produced.headers):
            return False
        return self._owners.alike(produced.value, record.value)

    async def _is_possible(self, source: LogRecord, record: LogRecord) -> bool:
        """Whether the stage may have made such a record of `source`, whatever the texts were."""
        tree = tree_of(record.value)
        if tree is None or record.topic == "dead-letters":
            return False
        data, kind = tree["data"], str(tree.get("type"))
        about = data.get("interaction_id")
        if self.stage == "reward":
            told = tree_of(source.value)
            if told is None:
                return False
            part = {SETTLED: "example.settled", REWARDED: "example.rewarded"}.get(kind)
            if part is not None:
                name = derive_id(part, str(about), _number(data.get("revision")))
                if told["data"].get("interaction_id") != about or tree.get("id") != name:
                    return False
            return _keyed(record, data.get("bucket"))
        where = source.topic, source.partition, source.offset
        match kind:
            case "headrace.batch.ready.v1":
                return await self._cites_what_is_there(source, record, tree)
            case "headrace.example.rejected.v1":
                return tree.get("id") == derive_id("example.rejected", *where, str(data.get("example_id"))) and _keyed(
                    record, about
                )
            case "headrace.example.superseded.v1":
                return _keyed(record, about)
            case "headrace.bucket.assessed.v1":
                name = derive_id("bucket.assessed", *where, str(data.get("bucket")), _number(data.get("batches")))
                return tree.get("id") == name and _keyed(record, data.get("bucket"))
        return False

    async def _cites_what_is_there(self, source: LogRecord, record: LogRecord, tree: Mapping[str, Any]) -> bool:
        """A batch's id covers its rows; each lies where it says, before `source` or there, with these bytes."""
        try:
            batch = msgspec.convert(tree["data"], Batch)
        except msgspec.ValidationError:
            return False
        prompts = batch.prompts or []
        name = batch_id(batch.bucket, batch.members, batch.test_pool, batch.validation_pool, prompts)
        if (name, tree.get("id")) != (batch.batch_id, derive_id("batch.ready", name)) or not _keyed(record, batch.bucket):
            return False
        rows: list[Member | PromptMember] = [*batch.members, *batch.test_pool, *(batch.validation_pool or ()), *prompts]
        if any((row.locator.topic, row.locator.partition) != (source.topic, source.partition) for row in rows):
            return False
        cited: dict[int, str] = {}
        if any(cited.setdefault(row.locator.offset, row.sha256) != row.sha256 for row in rows) or max(cited) > source.offset:
            return False
        count = 0
        async for row in self._log.records_at(source.topic, source.partition, sorted(cited)):
            count += 1
            if sha256(stored(row.value) or b"") != cited[row.offset]:
                return False
        return count == len(cited)


def erased_ends(steps: ErasedSteps, owners: ErasedOwners, changelog: Mapping[str, bytes]) -> Iterator[StepDifference]:
    """What a task's state, in changelog form, says was written last, where that is another than what is there."""
    for key, value in changelog.items():
        interaction_id = key.removeprefix(INTERACTION)
        if key.startswith(INTERACTION) and owners.owns_state(key):
            case, last = tree_or_none(value), steps.revisions.get(derive_id("example", interaction_id))
            if case is not None and last is not None and case.get("revision", 0) != last:
                yield StepDifference(
                    f"revision of {interaction_id}", f"{case.get('revision', 0)}, as its state has it", str(last)
                )
            stands = derive_id("prompt", interaction_id) in steps.prompts
            if case is not None and stands != bool(case.get("drawn")):
                yield StepDifference(f"prompt of {interaction_id}", "gone" if stands else "drawn", "drawn" if stands else "gone")
        elif key.startswith(BUCKET) and steps.stage == "curate":
            bucket = load(key, value)
            assert isinstance(bucket, CurateBucket)
            if bucket.batches != (there := steps.batches[bucket.name]):
                yield StepDifference(f"batches of {bucket.name}", f"{bucket.batches}, as its state has it", str(there))


def _is_same(produced: Produced, record: LogRecord) -> bool:
    if (produced.key, produced.value) != (record.key, record.value):
        return False
    return _headers(produced.topic, produced.headers) == _headers(record.topic, record.headers)


def _headers(topic: str, headers: Headers) -> list[tuple[str, bytes]]:
    """Without the place among what one record made: some of that may not be there."""
    return [(name, value) for name, value in without_signature(topic, headers) if name != ORIGIN]


def _identity(topic: str, key: bytes | None, value: bytes | None) -> object:
    tree = tree_of(value)
    return (topic, key, value) if tree is None else identity_of(topic, key, tree)


def _keyed(record: LogRecord, name: Any) -> bool:
    return record.key == str(name).encode()


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1
