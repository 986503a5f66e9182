"""Verify finds what was altered, lost or added, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec import structs

from headrace_lake.recorded_outputs import DERIVED
from headrace_lake.verify import Verified, verify
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_schemas.codec import decode, encode
from headrace_schemas.events import RulesActivated
from headrace_streams.runtime.fold_runner import AHEAD_BYTES
from headrace_streams.runtime.journal import decode_position, encode_position
from headrace_streams.runtime.provenance import ORIGIN, Provenance, origin, origin_without_input, provenance_of
from headrace_streams.runtime.stage import Headers, Record, RuleVersion, Step
from headrace_streams.signing import HEADER
from headrace_streams.testing import event, written_headers
from support.counting import COUNTING, CountingFold
from support.memory_log import MemoryLog


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    for number in range(12):
        log.append("signals", number % 2, f"k{number % 3}".encode(), b"explode" if number == 5 else b"{}")
    log.run(COUNTING, {"step": 2})
    return log


def check(log: MemoryLog) -> Verified:
    return asyncio.run(verify(log, [COUNTING]))["counting"]


def test_a_true_log_has_no_difference(log: MemoryLog) -> None:
    report = check(log)
    assert (report.records, report.outputs, report.differences, report.notes) == (12, 12, [], [])


def partition_with(log: MemoryLog, topic: str) -> tuple[str, int]:
    return next(place for place, records in log.records.items() if place[0] == topic and records)


def test_an_altered_value_is_named_by_its_path(log: MemoryLog) -> None:
    records = log.records[partition_with(log, "rejections")]
    records[0] = records[0]._replace(value=(records[0].value or b"").replace(b'"counted"', b'"recounted"'))
    (difference,) = check(log).differences
    assert (difference.field, difference.expected, difference.found) == ("value.data.reason", "'counted'", "'recounted'")


def test_an_altered_key_or_header_is_found(log: MemoryLog) -> None:
    records = log.records[partition_with(log, "rejections")]
    records[0] = records[0]._replace(key=b"other")
    records[1] = records[1]._replace(headers=(*records[1].headers, ("more", b"1")))
    assert sorted(difference.field for difference in check(log).differences) == ["headers", "key"]


def test_a_signature_where_nothing_is_signed_is_found(log: MemoryLog) -> None:
    records = log.records[partition_with(log, "rejections")]
    records[0] = records[0]._replace(headers=(*records[0].headers, (HEADER, b"0123456789abcdef:AAAA")))
    assert [difference.field for difference in check(log).differences] == ["headers"]


def test_a_missing_record_is_found(log: MemoryLog) -> None:
    del log.records[partition_with(log, "rejections")][0]
    (difference,) = check(log).differences
    assert difference.field == "missing"


def test_a_repeated_record_is_found(log: MemoryLog) -> None:
    topic, partition = partition_with(log, "rejections")
    first = log.records[topic, partition][0]
    log.append(topic, partition, first.key, first.value, first.headers)
    (difference,) = check(log).differences
    assert difference.field == "unexpected"


def test_an_added_record_is_found(log: MemoryLog) -> None:
    topic, partition = partition_with(log, "rejections")
    first = log.records[topic, partition][0]
    source = provenance_of(first.headers)
    assert source is not None
    headers = origin(source._replace(ordinal=1))
    log.append(topic, partition, first.key, first.value, headers)
    (difference,) = check(log).differences
    assert (difference.field, difference.expected) == ("unexpected", "nothing")


def test_outputs_in_another_order_are_found(log: MemoryLog) -> None:
    place = partition_with(log, "rejections")
    first, second, *rest = log.records[place]
    log.records[place] = [second._replace(offset=first.offset), first._replace(offset=second.offset), *rest]
    assert {difference.field for difference in check(log).differences} == {"missing", "unexpected"}


def test_a_position_with_another_fold_time_is_found(log: MemoryLog) -> None:
    changelog = log.records["state.counting.signals", 1]
    position = next(number for number, record in enumerate(changelog) if record.key == b"@position")
    value = decode_position(changelog[position].value or b"")
    changelog[position] = changelog[position]._replace(value=encode_position(structs.replace(value, now=value.now + 1)))
    (difference,) = check(log).differences
    assert (difference.partition, difference.field, difference.expected) == (1, "now", str(value.now))


FORGED = event("headrace.clock.ticked.v1", {"bucket": "b", "time": "2026-01-01T00:00:00Z"})


@pytest.mark.parametrize(
    "headers",
    [
        (),
        origin(Provenance("counting", "nowhere", 0, 1, 0)),
        origin(Provenance("counting", "signals", 7, 1, 0)),
        origin(Provenance("counting", "signals", 0, 2**63, 0)),
        origin(Provenance("intake", "interactions", 0, 1, 0)),
        origin(Provenance("nobody", "signals", 0, 1, 0)),
        origin_without_input("counting.tick"),
        origin_without_input("counting"),
        ((ORIGIN, None),),
    ],
    ids=["none", "topic", "partition", "offset", "not its topic", "stage", "tick elsewhere", "no input", "null"],
)
def test_a_record_on_an_output_that_no_task_can_have_written_is_found(log: MemoryLog, headers: Any) -> None:
    place = partition_with(log, "rejections")
    forged = log.append(*place, b"key", FORGED, headers)
    (difference,) = check(log).differences
    assert (difference.topic, difference.partition, difference.offset, difference.field) == (*place, forged.offset, "unexpected")


def test_a_record_of_a_stranger_is_a_difference_unless_its_reader_made_a_dead_letter_of_it() -> None:
    [curate] = [stage for stage in STAGES if stage.name == "curate"]
    curate = structs.replace(curate, versions={1: curate.versions[1]})  # which does not ask who wrote
    log = MemoryLog()
    log.append("examples", 0, b"sql/m", b"junk")
    log.run(curate, curate.policy().body())
    report = asyncio.run(verify(log, [curate], topics=DERIVED))["curate"]
    assert report.differences == []
    assert report.notes == ["curate over examples/0: 1 records that no stage wrote, each a dead letter"]
    log.append("examples", 0, b"sql/m", FORGED)
    log.run(curate, curate.policy().body())
    (difference,) = asyncio.run(verify(log, [curate], topics=DERIVED))["curate"].differences
    assert (difference.topic, difference.offset, difference.field) == ("examples", 1, "unexpected")


def test_what_needs_no_input_is_accounted_for_where_it_may_stand_and_a_difference_elsewhere() -> None:
    stages = [stage for stage in STAGES if stage.name in ("curate", "release")]
    log = MemoryLog()
    request = event("headrace.pause.requested.v1", {"bucket": "sql/m", "reason": "r", "requested_by": "me"})
    log.append("examples", 0, b"sql/m", FORGED, origin_without_input("curate.tick"))
    log.append("rules", 0, b"curate/examples/0", b"{}", origin_without_input("curate.rules"))
    log.append("outcomes", 0, b"sql/m", request)
    log.append("runs", 0, b"sql/m", b"{}", origin(Provenance("train", "batches", 0, 4, 0)))
    report = asyncio.run(verify(log, stages, topics=DERIVED))
    assert not any(part.differences for part in report.values())
    log.append("examples", 1, b"sql/m", request)
    log.append("outcomes", 1, b"another key", request)
    log.append("outcomes", 1, b"sql/m", FORGED)
    log.append("runs", 1, b"sql/m", b"{}")
    log.append("rules", 0, b"x", b"{}", origin_without_input("curate.tick"))
    report = asyncio.run(verify(log, stages, topics=DERIVED))
    found = sorted((one.topic, one.partition, one.offset or 0) for part in report.values() for one in part.differences)
    assert found == [("examples", 1, 0), ("outcomes", 1, 0), ("outcomes", 1, 1), ("rules", 0, 1), ("runs", 1, 0)]


def test_altered_input_shows_in_outputs_or_state(log: MemoryLog) -> None:
    log.records["signals", 0][0] = log.records["signals", 0][0]._replace(key=b"k9")
    assert check(log).differences


def test_what_has_not_been_processed_yet_is_no_difference(log: MemoryLog) -> None:
    log.append("signals", 0, b"k0", b"{}")
    assert check(log).differences == []


def test_state_and_counters_are_compared(log: MemoryLog) -> None:
    kept = log.records["state.counting.signals", 0]
    kept[0] = kept[0]._replace(value=b"77")
    assert [difference.field for difference in check(log).differences] == [f"state {(kept[0].key or b'').decode()}"]


def test_rules_of_another_version_are_not_comparable(log: MemoryLog) -> None:
    rules = log.records["rules", 0]
    rules[0] = rules[0]._replace(value=(rules[0].value or b"").replace(b'"version":1', b'"version":9'))
    report = check(log)
    assert report.differences == []
    (span,) = report.not_comparable
    assert (span.start, span.end, span.records) == (0, 6, 6)
    assert "rule version 9 is not known" in span.reason


class TwiceFold(CountingFold):
    """Pretended rules of version 2: each record counts twice."""

    def __init__(self, body: Mapping[str, Any], digest: str) -> None:
        super().__init__(body, digest)
        self.by *= 2


SECOND = structs.replace(COUNTING, versions={1: RuleVersion(CountingFold), 2: RuleVersion(TwiceFold)})
ONLY_SECOND = structs.replace(COUNTING, versions={2: RuleVersion(TwiceFold)})


def upgraded() -> MemoryLog:
    """A log that the first version wrote for a while, and then the second one."""
    log = MemoryLog(1)
    for number in range(6):
        log.append("signals", 0, b"k%d" % (number % 2), b"{}")
    log.run(COUNTING, {"step": 1})
    for number in range(4):
        log.append("signals", 0, b"k%d" % (number % 2), b"{}")
    log.run(SECOND, {"step": 1})
    return log


def counts_of(log: MemoryLog) -> list[str]:
    return [decode(record.value).data.event_id for record in log.records["rejections", 0]]  # type: ignore[union-attr]


def test_old_spans_are_compared_with_the_old_rules_and_new_ones_with_the_new() -> None:
    log = upgraded()
    assert counts_of(log) == ["1", "1", "2", "2", "3", "3", "5", "5", "7", "7"], "the second version did take over"
    report = asyncio.run(verify(log, [SECOND]))["counting"]
    assert (report.records, report.outputs, report.differences, report.not_comparable) == (10, 10, [], [])


@pytest.mark.parametrize("number", [2, 8])
def test_an_altered_record_is_found_in_a_span_of_either_version(number: int) -> None:
    log = upgraded()
    records = log.records["rejections", 0]
    records[number] = records[number]._replace(value=(records[number].value or b"").replace(b'"counted"', b'"recounted"'))
    (difference,) = asyncio.run(verify(log, [SECOND]))["counting"].differences
    assert (difference.offset, difference.field) == (number, "value.data.reason")


def test_rules_newer_than_the_code_make_their_own_span_not_comparable() -> None:
    report = asyncio.run(verify(upgraded(), [COUNTING]))["counting"]
    assert (report.records, report.outputs, report.differences) == (6, 6, [])
    (span,) = report.not_comparable
    assert (span.start, span.end, span.records) == (6, 10, 4)
    assert "rule version 2 is not known to this code, which has 1" in str(span)


def test_what_follows_rules_that_are_gone_is_not_comparable_either_as_its_state_is_theirs() -> None:
    log = upgraded()
    records = log.records["rejections", 0]
    records[8] = records[8]._replace(key=b"other")
    report = asyncio.run(verify(log, [ONLY_SECOND]))["counting"]
    assert (report.records, report.differences) == (0, [])
    assert [(span.start, span.end, span.records) for span in report.not_comparable] == [(0, 6, 6), (6, 10, 4)]
    assert "state was made by rules that are not known" in report.not_comparable[1].reason


def test_a_recorded_policy_with_an_unknown_key_is_one_line_that_names_key_and_value(log: MemoryLog) -> None:
    rules = log.records["rules", 0]
    body = {"step": 2, "stride": 3}
    for number, record in enumerate(rules):
        event = decode(record.value)
        assert isinstance(event, RulesActivated)
        data = structs.replace(event.data, body=body, digest=digest(body))
        rules[number] = record._replace(value=encode(structs.replace(event, data=data)))
    first, _second = check(log).not_comparable
    assert "\n" not in str(first)
    assert "stride = 3: there is no such field" in str(first)


def test_a_policy_that_is_not_what_its_digest_says_is_found(log: MemoryLog) -> None:
    rules = log.records["rules", 0]
    rules[0] = rules[0]._replace(value=(rules[0].value or b"").replace(b'"body":{"step":2}', b'"body":{"step":3}'))
    assert check(log).differences[0].field == "rules"


def test_a_key_that_came_later_means_what_the_version_did_before_it_was_a_key(log: MemoryLog) -> None:
    """The log was written when `step` was no key; since then its default is another."""
    fixed = structs.replace(COUNTING, versions={1: RuleVersion(CountingFold, absent={"step": 2})})
    rules = log.records["rules", 0]
    for number, record in enumerate(rules):
        event = decode(record.value)
        assert isinstance(event, RulesActivated)
        rules[number] = record._replace(
            value=encode(structs.replace(event, data=structs.replace(event.data, body={}, digest=digest({}))))
        )
    assert check(log).differences, "today's default is not what was meant"
    report = asyncio.run(verify(log, [fixed]))["counting"]
    assert (report.records, report.differences, report.not_comparable) == (12, [], [])


def test_state_of_a_newer_version_is_not_comparable_and_of_an_older_one_is_compared_after_its_upcast(log: MemoryLog) -> None:
    def doubled(state: Mapping[str, bytes]) -> dict[str, bytes]:
        return {key: b"%d" % (2 * int(value)) for key, value in state.items()}

    class DoubledFold(CountingFold):
        """Keeps twice the count, and says the same."""

        def dump(self, key: str, value: Any) -> bytes:
            return b"%d" % (2 * value)

    later = structs.replace(COUNTING, versions={1: RuleVersion(DoubledFold)}, state_version=2, state_upcasts={1: doubled})
    report = asyncio.run(verify(log, [later]))["counting"]
    assert (report.records, report.differences, report.not_comparable) == (12, [], [])
    changelog = log.records["state.counting.signals", 0]
    position = next(number for number, record in enumerate(changelog) if record.key == b"@position")
    value = (changelog[position].value or b"").replace(b'"state_version":1', b'"state_version":3')
    changelog[position] = changelog[position]._replace(value=value)
    report = asyncio.run(verify(log, [later]))["counting"]
    assert report.differences == []
    assert [span.reason for span in report.not_comparable] == [
        "counting: state of version 3 is newer than 2, which this code has"
    ]


def test_each_rule_version_folds_the_form_of_state_that_it_knows(log: MemoryLog) -> None:
    """A live task upcasts when it starts with the newer version; verify does where the log says that it did."""

    class NamedFold(CountingFold):
        """Keeps a count under another name."""

        def step(self, state: Mapping[str, Any], record: Record) -> Step:
            old = {key.removeprefix("count/"): value for key, value in state.items()}
            step = super().step(old, record)
            return step._replace(changes={f"count/{key}": value for key, value in step.changes.items()})

        def load(self, key: str, value: bytes) -> Any:
            if not key.startswith("count/"):
                raise ValueError(f"state key: {key!r}")
            return int(value)

    def renamed(state: Mapping[str, bytes]) -> dict[str, bytes]:
        return {f"count/{key}": value for key, value in state.items()}

    both = structs.replace(
        COUNTING,
        versions={1: RuleVersion(CountingFold, state_version=1), 2: RuleVersion(NamedFold)},
        state_version=2,
        state_upcasts={1: renamed},
    )
    before = asyncio.run(verify(log, [both]))["counting"]
    assert (before.records, before.differences, before.not_comparable) == (12, [], [])
    for number in range(6):
        log.append("signals", number % 2, f"k{number % 3}".encode(), b"{}")
    log.run(both, {"step": 1})
    after = asyncio.run(verify(log, [both]))["counting"]
    assert (after.records, after.outputs, after.differences, after.not_comparable) == (18, 18, [], [])


def test_activation_of_a_worker_whose_clock_is_ahead_counts_and_junk_beside_it_does_not(log: MemoryLog) -> None:
    rules = log.records["rules", 0]
    for place, record in enumerate(rules):
        rules[place] = record._replace(value=(record.value or b"").replace(b'"data":', b'"time":"2100-01-01T00:00:00Z","data":'))
    log.append("rules", 0, None, b"junk")
    report = check(log)
    assert (report.records, report.differences, report.notes) == (12, [], [])


def test_expired_rejections_are_counted_not_missed(log: MemoryLog) -> None:
    place = partition_with(log, "rejections")
    log.starts[place] = 2
    report = check(log)
    assert report.differences == []
    assert report.expired == 2


def test_nothing_expires_after_what_is_still_there(log: MemoryLog) -> None:
    place = partition_with(log, "rejections")
    log.starts[place] = 2
    del log.records[place][3]
    report = check(log)
    assert [difference.field for difference in report.differences] == ["missing"]
    assert report.expired == 2


def test_input_that_expired_may_have_made_a_state_that_has_expired_too() -> None:
    """With nothing in the state today, a fold from the first record that is kept would still begin with another one."""
    [link] = [stage for stage in STAGES if stage.name == "link"]
    log, ref = MemoryLog(1), {"system": "jira", "id": "OPS-7"}
    said = {"time": "2026-09-01T00:00:00Z"}
    values = [
        event("headrace.interaction.linked.v1", {"interaction_id": "i1", "ref": ref}, id="l", **said),
        event("headrace.feedback.recorded.v1", {"ref": ref, "kind": "success"}, id="f", **said),
    ]
    for value in values:
        log.append("refs", 0, b"jira:OPS-7", value, written_headers("refs"))
    body = link.policy.model_validate({"expire_after_days": 1}).body()
    log.run(link, body)
    log.time += 2 * 86_400_000
    log.run(link, body, overdue=True)
    assert asyncio.run(verify(log, [link]))["link"].differences == []
    log.starts["refs", 0] = 1
    report = asyncio.run(verify(log, [link]))["link"]
    assert (report.differences, [(span.start, span.end) for span in report.not_comparable]) == ([], [(1, 3)])


def test_what_came_of_expired_input_is_not_called_unexpected() -> None:
    [intake] = [stage for stage in STAGES if stage.name == "intake"]
    log = MemoryLog()
    for number in range(8):
        log.append("interactions", 0, None, b"junk %d" % number)
    log.run(intake, intake.policy().model_dump(mode="json"))
    log.starts["interactions", 0] = 4
    report = asyncio.run(verify(log, [intake]))["intake"]
    assert (report.records, report.outputs, report.differences) == (4, 4, [])
    assert report.notes == [
        "intake over interactions/0: input before 4 has expired: what came of it, and the counters, are not compared"
    ]
    place = partition_with(log, "dead-letters")
    log.records[place] = [record for record in log.records[place] if not (record.key or b"").endswith(b"/6")]
    other = ("dead-letters", 1 - place[1])
    log.records[other] = [record for record in log.records.get(other, []) if not (record.key or b"").endswith(b"/6")]
    report = asyncio.run(verify(log, [intake]))["intake"]
    assert [(difference.field, difference.offset) for difference in report.differences] == [("missing", 6)]


def test_a_log_that_differs_everywhere_is_not_read_to_its_end() -> None:
    log = MemoryLog(1)
    for number in range(100):
        log.append("signals", 0, b"k%d" % number, b"{}")
    log.run(COUNTING, {"step": 2})
    log.records["rejections", 0] = [record._replace(key=b"other") for record in log.records["rejections", 0]]
    report = check(log)
    assert (report.records, len(report.differences)) == (20, 20)


def test_a_lost_position_is_found(log: MemoryLog) -> None:
    kept = log.records["state.counting.signals", 0]
    kept[:] = [record for record in kept if record.key != b"@position"]
    (difference,) = check(log).differences
    assert (difference.partition, difference.field, difference.found) == (0, "position", "none")


@pytest.mark.parametrize(("size", "most"), [(0, 64), (AHEAD_BYTES // 3, 2), (AHEAD_BYTES, 1)])
def test_verify_shows_the_fold_what_comes_next_in_portions(size: int, most: int) -> None:
    """All but what comes before the first rules, once and in order; it finds the same as without."""
    log, shown = MemoryLog(1), list[list[bytes]]()
    values = [b'{"number":%d,"text":"%s"}' % (number, b"x" * size) for number in range(200)]
    for value in values:
        log.append("signals", 0, b"k", value)
    log.run(COUNTING, {"step": 2})

    class Watching(CountingFold):
        def look_ahead(self, records: Sequence[tuple[bytes, Headers]]) -> None:
            shown.append([value for value, _ in records])

    report = asyncio.run(verify(log, [structs.replace(COUNTING, versions={1: RuleVersion(Watching)})]))["counting"]
    assert (report.records, report.differences, report.not_comparable) == (200, [], [])
    assert [value for portion in shown for value in portion] == values[most:]
    assert max(map(len, shown)) == most
