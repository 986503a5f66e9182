"""Texts of data subjects through the stages: sealed on the log, opened by folds, gone when their keys are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_lake.dataset import bucket_examples, rows_of
from headrace_lake.dataset_card import DatasetCard, card
from headrace_lake.keys import OpenedLog, sealing_of
from headrace_lake.lineage import RecordPlace, published_fate
from headrace_lake.log import LogRecord
from headrace_lake.opening import KeyOpener
from headrace_lake.query import opened
from headrace_lake.read_models.dead_letter_view import letter_view
from headrace_lake.read_models.example_list import ExampleFilter, example_list
from headrace_lake.read_models.example_view import example_view
from headrace_lake.read_models.reward_terms import RewardExplanation
from headrace_lake.text_opener import TextOpener
from headrace_lake.verify import Verified, verify
from headrace_processors.owners import feedback_owner
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import ExampleRewarded, FeedbackRecorded, InteractionRecorded, RecordRejected
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Ref
from headrace_schemas.topics import TOPIC_NAMES
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.sealing import HEADER, PlainTexts, is_erased, owner_of
from support.memory_log import MemoryLog
from support.memory_ring import MemoryRing, lake_of
from support.signals import feedback, interaction, interaction_retracted, subject_erased

SECRET = "marked-text-of-bob"
BOTH = ("intake", "link", "reward", "curate")


class SealedRing(MemoryRing):
    """A ring under the policy that seals."""

    def __init__(self, seal: str = "subjects", **more: Any) -> None:
        super().__init__(**more)
        self.bodies["intake"]["seal"] = seal

    def tell(self, *values: bytes) -> None:
        for value in values:
            topic = "feedback" if b"feedback." in value else "interactions"
            self.publish(topic, value, 0)

    def fold(self) -> None:
        self._fold(*BOTH, "curate")

    def verified(self) -> dict[str, Verified]:
        return asyncio.run(verify(self.log, STAGES))


def bobs(number: int = 1, **data: Any) -> bytes:
    texts = {"prompt": f"{SECRET} asks {number}", "output": f"{SECRET} hears {number}", "context": f"{SECRET} file"}
    more = {"attributes": {"note": SECRET}, "mystery": {"deep": SECRET}}
    return interaction(f"b-{number}", **{"data_subject": "bob", **texts, **more, **data})


def corrected(name: str, about: str | None, text: str = SECRET, **data: Any) -> bytes:
    return feedback(name, about, "user_correction", corrected_output=f"{text} corrects", comment=text, **data)


def later(name: str) -> bytes:
    """Of bob, after he asked to be forgotten."""
    return interaction(name, data_subject="bob", prompt="a new start", output="welcome back", minute=6)


def with_text(log: MemoryLog, text: str = SECRET) -> Iterator[LogRecord]:
    """Records that hold a text, on compacted topics the newest of each key; what others wrote is left out."""
    newest: dict[tuple[str, int, bytes | None], LogRecord] = {}
    for (topic, partition), records in log.records.items():
        for record in records:
            if topic.startswith("state.") or topic == "keys":
                newest[topic, partition, record.key] = record
            elif topic not in ("interactions", "feedback"):
                newest[topic, partition, b"%d" % record.offset] = record
    for record in newest.values():
        said = (record.key or b"") + (record.value or b"") + b"".join(value or b"" for _, value in record.headers)
        if text.encode() in said:
            yield record


def events_on(log: MemoryLog, topic: str, kind: type[Any]) -> list[Any]:
    decoded = (decode(record.value, record.headers) for record in log.of(topic))
    return [event for event in decoded if isinstance(event, kind)]


@pytest.fixture
def told() -> SealedRing:
    """Bob's interactions with feedback of all ways, and somebody's beside them."""
    ring = SealedRing(seed=1)
    ring.tell(corrected("f-0", "b-2"), bobs(1, refs=[{"system": "jira", "id": "OPS-B"}]), bobs(2), bobs(3))
    ring.tell(corrected("f-1", "b-1"), corrected("f-2", None, ref={"system": "jira", "id": "OPS-B"}, principal={"id": "ann"}))
    ring.tell(corrected("f-3", None, ref={"system": "jira", "id": "later"}), interaction("other", prompt="plain one"))
    ring.tell(feedback("f-4", "b-3"), feedback("f-5", "other"))
    ring.fold()
    return ring


@pytest.fixture(scope="module")
def erased() -> SealedRing:
    """Bob's interactions, of which a batch was cut, and his corrections; then he is forgotten."""
    ring = SealedRing(seed=1, partitions=1, target=2.0)
    jira = {"system": "jira", "id": "OPS-B"}
    for number in range(12):
        said = {"prompt": f"{SECRET} {number}", "prompt_group": f"g-{number}", "refs": [jira] if number == 1 else None}
        ring.tell(bobs(number, **said), feedback(f"s-{number}", f"b-{number}"))
    ring.fold()
    for number in range(3):
        ring.tell(
            corrected(
                f"f-{number}",
                None if number == 2 else "b-1",
                f"{SECRET} {number}",
                minute=number,
                **({"ref": jira} if number == 2 else {}),
            )
        )
        ring.fold()
    ring.tell(subject_erased("bob", minute=7))
    ring.fold()
    return ring


def test_no_text_of_a_subject_stands_on_the_log_in_plain(told: SealedRing) -> None:
    assert list(with_text(told.log)) == []
    assert list(with_text(told.log, "plain one")), "others' texts are as they were"


def test_what_is_sealed_is_what_the_folds_have_read(told: SealedRing) -> None:
    plain = SealedRing("none", seed=1)
    for topic in ("interactions", "feedback"):
        for record in told.log.records.get((topic, 0), []):
            plain.publish(topic, record.value or b"", 0)
    plain.fold()
    sealing = asyncio.run(sealing_of(told.log))
    opened = []
    for record in told.log.of("examples"):
        owner = owner_of("examples", record.headers)
        opened.append(decode(record.value if owner is None else sealing.opened(owner, record.value or b"")))
    kinds = [event.data for event in opened if isinstance(event, ExampleRewarded)]
    assert sorted(kinds, key=lambda data: (data.example_id, data.revision)) == sorted(
        (event.data for event in events_on(plain.log, "examples", ExampleRewarded)),
        key=lambda data: (data.example_id, data.revision),
    )
    assert any(data.content.target == f"{SECRET} corrects" and data.data_subject == "bob" for data in kinds)


def test_a_sealed_record_is_a_valid_event_that_says_who_acted_and_nothing_else(told: SealedRing) -> None:
    bob = next(event for event in events_on(told.log, "signals", InteractionRecorded) if event.data.interaction_id == "b-1")
    assert (bob.data.agent.name, bob.data.prompt, bob.data.data_subject, bob.data.attributes) == ("bot", "[sealed]", None, None)
    said = next(event for event in events_on(told.log, "signals", FeedbackRecorded) if event.data.feedback_id == "f-1")
    assert (said.data.kind, said.data.corrected_output, said.data.comment) == ("user_correction", "[sealed]", None)


def test_a_sealed_log_verifies_byte_for_byte(told: SealedRing) -> None:
    for report in told.verified().values():
        assert (report.differences, report.not_comparable, report.erased) == ([], [], 0)


def test_after_forgetting_no_key_is_left_and_the_log_still_verifies(told: SealedRing) -> None:
    told.tell(subject_erased("bob"))
    told.fold()
    told.tell(bobs(4), corrected("f-9", "b-1"), later("b-5"))
    told.fold()
    sealing = asyncio.run(sealing_of(told.log))
    linked = feedback_owner(Ref(system="jira", id="OPS-B"), "people:test", "f-2")
    for owner in ("interaction/b-1", "interaction/b-2", "interaction/b-3", "interaction/b-4", linked):
        assert sealing.keyring.is_erased(owner), owner
        assert sealing.keyring.secret(owner) is None
    assert sealing.keyring.secret("interaction/b-5"), "what came after is no part of it"
    assert list(with_text(told.log)) == []
    newest = {record.key: record.value or b"" for record in told.log.records["keys", 0]}
    left = [value for value in newest.values() if b"secret_base64" in value]
    assert len(left) == 2, "of b-5, and of feedback on a foreign id that nobody has linked"
    reports = told.verified()
    for report in reports.values():
        assert (report.differences, report.not_comparable) == ([], [])
    assert reports["intake"].erased
    assert reports["reward"].erased


def test_what_was_opened_by_whoever_read_it_is_shown_ahead_and_neither_kept_nor_counted_twice(told: SealedRing) -> None:
    told.tell(subject_erased("bob"))
    told._fold("intake")
    curate = next(stage for stage in STAGES if stage.name == "curate")
    runner = FoldRunner(curate, "examples", 0, dict.fromkeys(TOPIC_NAMES, 1), PlainTexts())
    runner.activate_newest(told.bodies["curate"])

    async def records() -> list[LogRecord]:
        log = OpenedLog(told.log, told.log)
        return [record for partition in range(told.log.count) async for record in log.read("examples", partition)]

    opened = asyncio.run(records())
    runner.look_ahead(opened)
    for record in opened:
        runner.run(record)
    assert runner.erased == sum(map(is_erased, (record.value for record in opened))) > 0
    assert not runner._opened


def test_an_altered_record_of_who_was_erased_is_a_difference(told: SealedRing) -> None:
    told.tell(subject_erased("bob"))
    told.fold()
    place, number = next(
        (place, number)
        for place, records in told.log.records.items()
        if place[0] == "examples"
        for number, record in enumerate(records)
        if b'"voices":1' in (record.value or b"") and b'"b-1"' in (record.value or b"")
    )
    record = told.log.records[place][number]
    told.log.records[place][number] = record._replace(value=(record.value or b"").replace(b'"voices":1', b'"voices":9'))
    assert told.verified()["reward"].differences


def place_of(log: MemoryLog, topic: str, *parts: bytes) -> tuple[list[LogRecord], int]:
    """The records of a partition and the number of the last one that holds all `parts`."""
    for (name, _), records in log.records.items():
        if name == topic:
            for number in reversed(range(len(records))):
                if all(part in (records[number].value or b"") for part in parts):
                    return records, number
    raise AssertionError(f"{topic} has nothing with {parts}")


def moved(record: LogRecord, **more: Any) -> LogRecord:
    """A record as if it had been made of another one."""
    headers = [(name, more.get("origin", value) if name == "headrace-origin" else value) for name, value in record.headers]
    return record._replace(offset=more.get("offset", record.offset), headers=tuple(headers))


def test_what_is_as_it_was_written_is_no_difference_though_texts_decided_about_it(erased: SealedRing) -> None:
    reports = erased.verified()
    assert [difference for report in reports.values() for difference in report.differences] == []
    assert all(reports[stage].erased for stage in ("intake", "reward", "curate"))


SIGNAL, EXAMPLE, BATCH = b"interaction.recorded", b"example.rewarded", b"batch.ready"


@pytest.mark.parametrize(
    ("stage", "topic", "parts"),
    [
        ("intake", "signals", (SIGNAL, b'"b-1"')),
        ("link", "signals", (b'"f-2"',)),
        ("reward", "examples", (EXAMPLE, b'"b-1"')),
        ("reward", "examples", (b"example.withdrawn", b'"b-1"')),
        ("curate", "batches", (BATCH,)),
    ],
)
@pytest.mark.parametrize("change", ["doubled", "lost", "forged", "moved"])
def test_what_is_doubled_lost_or_forged_of_who_was_erased_is_a_difference(
    erased: SealedRing, stage: str, topic: str, parts: tuple[bytes, ...], change: str
) -> None:
    records, number = place_of(erased.log, topic, *parts)
    record, end = records[number], records[-1].offset + 1
    kept = list(records)
    match change:
        case "doubled":
            records.append(record._replace(offset=end))
        case "lost":
            del records[number]
        case "forged":  # of a record that says nothing of it
            source = next(value for name, value in record.headers if name == "headrace-origin").rsplit(b"/", 2)[0]
            records.append(moved(record, offset=end, origin=source + b"/0/77"))
        case "moved":
            records[number] = record._replace(key=b"elsewhere")
    try:
        assert erased.verified()[stage].differences
    finally:
        records[:] = kept


def test_a_batch_that_names_a_row_which_is_not_there_is_a_difference(erased: SealedRing) -> None:
    records, number = place_of(erased.log, "batches", BATCH)
    record = records[number]
    tree = msgspec.json.decode(record.value or b"")
    tree["data"]["members"][0]["sha256"] = "sha256:" + "0" * 64
    records[number] = record._replace(value=msgspec.json.encode(tree))
    try:
        assert erased.verified()["curate"].differences
    finally:
        records[number] = record


def test_a_key_that_is_missing_and_was_not_erased_is_refused_and_makes_no_dead_letter(told: SealedRing) -> None:
    told.log.records["keys", 0] = [record for record in told.log.records["keys", 0] if b"b-1" not in (record.value or b"")]
    with pytest.raises(Refused, match="interaction/b-1: its texts are sealed, and topic keys has no key of it"):
        told.verified()


def test_without_the_policy_nothing_is_sealed() -> None:
    ring = SealedRing("none")
    ring.tell(bobs(1), corrected("f-1", "b-1"))
    ring.fold()
    assert ("keys", 0) not in ring.log.records
    assert not [r for records in ring.log.records.values() for r in records if any(name == HEADER for name, _ in r.headers)]


def test_a_dead_letter_whose_subject_can_be_read_is_sealed_and_goes_with_the_key() -> None:
    ring = SealedRing()
    ring.tell(bobs(1, turn="no number"))
    ring.fold()
    [letter] = ring.log.of("dead-letters")
    assert owner_of("dead-letters", letter.headers) == "interaction/b-1"
    tree = msgspec.json.decode(letter.value or b"")
    assert "value_base64" not in tree["data"]
    assert (tree["data"]["error"]["code"], tree["data"]["offset"]) == ("wrong_type", 0)
    ring.tell(subject_erased("bob"))
    ring.fold()
    assert asyncio.run(sealing_of(ring.log)).keyring.is_erased("interaction/b-1")
    assert all(not report.differences for report in ring.verified().values())


@pytest.mark.parametrize("is_bobs", [True, False])
def test_an_event_that_costs_too_much_is_a_dead_letter_under_a_key_that_is_there_or_none(is_bobs: bool) -> None:
    """What names an interaction and no subject asks for no key, so its letter may need none."""
    ring = SealedRing()
    costly = "".join(f"a{number}@b.org " for number in range(40_000))[:900_000]
    ring.tell(interaction("i-1", prompt=costly, data_subject="bob" if is_bobs else None))
    ring.fold()
    [letter] = ring.log.of("dead-letters")
    assert owner_of("dead-letters", letter.headers) == ("interaction/i-1" if is_bobs else None)


def test_a_dead_letter_in_binary_mode_is_sealed_too() -> None:
    ring = SealedRing()
    data = msgspec.json.encode(msgspec.json.decode(bobs(1, turn="no number"))["data"])
    headers = [("ce_specversion", b"1.0"), ("ce_type", b"headrace.interaction.recorded.v1"), ("ce_source", b"x"), ("ce_id", b"1")]
    ring.log.append("interactions", 0, None, data, headers)
    ring.fold()
    [letter] = ring.log.of("dead-letters")
    assert owner_of("dead-letters", letter.headers) == "interaction/b-1"


def test_who_may_not_write_stops_nobody_by_a_seal_without_a_key() -> None:
    ring = SealedRing()
    headers = [("content-type", b"application/cloudevents+json"), ("headrace-origin", b"mallory"), (HEADER, b"interaction/none")]
    ring.log.append("signals", 0, b"i", interaction("i"), headers)
    ring.fold()
    [letter] = events_on(ring.log, "dead-letters", RecordRejected)
    assert letter.data.error.code == "unknown_writer"


def test_the_texts_of_a_second_subject_under_one_interaction_go_with_it(told: SealedRing) -> None:
    told.tell(bobs(1, data_subject="eve", prompt=f"{SECRET} of eve"), subject_erased("eve"))
    told.fold()
    ring = asyncio.run(sealing_of(told.log)).keyring
    assert ring.is_erased("interaction/b-1")
    assert ring.secret("interaction/b-2"), "what is bob's alone stays"
    assert all(not report.differences for report in told.verified().values())


def test_what_was_said_of_a_foreign_id_goes_with_the_interaction_that_the_id_meant_and_with_no_other(told: SealedRing) -> None:
    jira = {"system": "jira", "id": "OPS-B"}
    told.tell(interaction("e-1", data_subject="eve", prompt="of eve", refs=[jira], minute=1))
    told.tell(corrected("f-6", None, "after the second link", ref=jira))
    told.tell(subject_erased("eve"))
    told.fold()
    ring = asyncio.run(sealing_of(told.log)).keyring
    erased = [ring.is_erased(feedback_owner(Ref(**jira), "people:test", name)) for name in ("f-2", "f-6")]
    assert erased == [False, True]
    assert all(not report.differences for report in told.verified().values())


IDS, REFS = st.integers(1, 4), st.sampled_from(["A", "B"])
TOLD = st.one_of(
    st.builds(lambda n, m: bobs(n, minute=m), IDS, st.integers(0, 6)),
    st.builds(lambda n, m, ref: bobs(n, minute=m, refs=[{"system": "jira", "id": ref}]), IDS, st.integers(0, 6), REFS),
    st.builds(lambda n: interaction(f"o-{n}", prompt=f"plain {n} of somebody else", output=f"select {n}"), IDS),
    st.builds(lambda n, m: corrected(f"f-{m}", f"b-{n}", minute=m), IDS, st.integers(1, 6)),
    st.builds(lambda n, m: corrected(f"f-{m}", f"o-{n}", "plain", minute=m), IDS, st.integers(1, 6)),
    st.builds(
        lambda n, m, who: feedback(f"s-{m}", f"{who}-{n}", minute=m, score=m * 9), IDS, st.integers(1, 6), st.sampled_from("bo")
    ),
    st.builds(lambda m, ref: corrected(f"r-{m}", None, ref={"system": "jira", "id": ref}, minute=m), st.integers(1, 6), REFS),
    st.builds(lambda n: interaction_retracted(f"b-{n}"), IDS),
    st.builds(lambda m: subject_erased("bob", minute=m), st.integers(0, 6)),
    st.builds(lambda n: bobs(n, data_subject="eve"), IDS),
    st.just(subject_erased("eve", minute=3)),
)
MOVES = st.lists(st.one_of(TOLD, st.sampled_from(BOTH)), max_size=40)


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_whatever_is_told_in_whatever_order_the_log_verifies_and_forgetting_leaves_no_text(moves: list[bytes | str]) -> None:
    """A stage that folds is one that starts again; those that do not are behind, when keys go."""
    ring = SealedRing()
    for move in moves:
        if isinstance(move, str):
            ring._fold(move)
        else:
            ring.tell(move)
    ring.fold()
    for report in ring.verified().values():
        assert report.differences == []
    ring.tell(subject_erased("bob", minute=7), subject_erased("eve", minute=7))
    ring.fold()
    reports = ring.verified()
    for report in reports.values():
        assert report.differences == []
    assert list(with_text(ring.log)) == []
    keyring = asyncio.run(sealing_of(ring.log)).keyring
    assert not keyring.leftovers
    recorded = {event.data.interaction_id for event in events_on(ring.log, "signals", InteractionRecorded)}
    assert all(keyring.is_erased(f"interaction/{name}") for name in recorded if name.startswith("b-"))


def test_what_a_lake_holds_sealed_is_opened_for_who_has_keys_and_told_to_be_erased_when_they_are_gone(tmp_path: Path) -> None:
    ring = SealedRing(seed=1, partitions=1)
    ring.tell(bobs(1), corrected("f-1", "b-1"), bobs(2, turn="no number"))
    ring.fold()
    folder = lake_of(ring.log, tmp_path)
    example_id = derive_id("example", "b-1")

    def shown(opener: TextOpener) -> tuple[list[str], RewardExplanation]:
        with opened(folder) as lake:
            lake.opener = opener
            listed = example_list(lake, ExampleFilter(bucket="sql/tiny")).rows[0]
            view, letter = example_view(lake, example_id), letter_view(lake, "interactions/0/1")
            assert view is not None
            assert view.reward is not None
            assert letter is not None
            fate = published_fate(lake, RecordPlace("interactions", 0, 1))
            return [listed.target, view.prompt[0].text, letter["error"]["message"], fate], view.reward

    texts, reward = shown(TextOpener())
    assert all("[sealed]" in text and SECRET not in text for text in texts)
    assert reward.differs == "its texts are sealed: for who may read topic keys"
    texts, reward = shown(KeyOpener(asyncio.run(sealing_of(ring.log))))
    assert texts[:2] == [f"{SECRET} corrects", f"{SECRET} asks 1"]
    assert texts[2] in texts[3]
    assert "turn" in texts[2]
    assert (reward.agrees, reward.differs) == (True, None)
    odd = '{"type":"headrace.feedback.recorded.v1","id":"1","data":{"interaction_id":"b-1","sealed":5}}'
    assert KeyOpener(asyncio.run(sealing_of(ring.log))).opened(odd) == odd, "whoever wrote that: it is shown as it is"
    ring.tell(subject_erased("bob"))
    ring.fold()
    texts, reward = shown(KeyOpener(asyncio.run(sealing_of(ring.log))))
    assert all("[erased]" in text for text in texts)
    assert reward.differs == "its texts are erased"


def test_a_data_set_has_the_texts_until_their_keys_are_erased() -> None:
    ring = SealedRing(seed=1, target=2.0)
    for number in range(12):
        ring.tell(bobs(number, prompt=f"{SECRET} {number}", prompt_group=f"g-{number}"), corrected(f"f-{number}", f"b-{number}"))
    ring.fold()
    log = OpenedLog(ring.log, ring.log)
    rows = rows_of(asyncio.run(bucket_examples(log, "sql/tiny")).learnt)
    assert rows
    assert all(SECRET in row.messages[0]["content"] for row in rows)
    sealed = rows_of(asyncio.run(bucket_examples(ring.log, "sql/tiny")).learnt)
    assert [row.example_id for row in sealed] == [row.example_id for row in rows]
    assert not any(SECRET in str(row.messages) for row in sealed), "who has no keys sees that there is something"
    ring.tell(subject_erased("bob"))
    ring._fold("intake")  # the keys are gone; nothing is withdrawn yet
    for withdrawn in (False, True):
        if withdrawn:
            ring.fold()
        selected = asyncio.run(bucket_examples(OpenedLog(ring.log, ring.log), "sql/tiny"))
        assert (selected.learnt, selected.withdrawn, selected.erased) == ([], 0, len(rows))
        about = DatasetCard(deployment="d", bucket="sql/tiny", form="chat", rows=0, digest="-", rule=2, source="the log")
        assert f"- erased (the keys of their texts are gone): {len(rows)}" in card(about, selected, [])
