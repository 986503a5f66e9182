"""What a dead letter's record is published as once more: pure, on letters as intake makes them."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from headrace_cli.plain_output import visible
from headrace_processors.intake import fold as intake
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import DeadLetter, KeyErasure, RecordError
from headrace_schemas.events import Event, KeyErased, RecordRejected, make
from headrace_schemas.sealed_fields import seal
from headrace_schemas.times import rfc3339
from headrace_streams.dead_letters.letters import LetterFilter, LetterReader, groups, marked, row_of
from headrace_streams.dead_letters.repair import REDRIVEN, Edit, RepairedRecord, Unfit, WrongEdit, repaired
from headrace_streams.kafka.clients import TopicMissing
from headrace_streams.runtime.sealing import Sealing, owner_of, sealed_header
from headrace_streams.runtime.stage import Claim, Headers, Record
from headrace_streams.runtime.step import dead_letter
from headrace_streams.sealing.issuing import WRITER, issued
from headrace_streams.sealing.keyring import Keyring, keyring_of
from headrace_streams.settings import Settings
from support.signals import START_MS, event, feedback, interaction

AT_MS = START_MS + 60_000
LATER_MS = AT_MS + 3_600_000


def letter_of(
    value: bytes | None,
    topic: str = "feedback",
    error: RecordError | None = None,
    headers: tuple[tuple[str, bytes | None], ...] = (),
) -> DeadLetter:
    """The letter that intake makes of a record, or one with the error that is given."""
    record = Record(topic, 1, 7, AT_MS, AT_MS, b"key", value, headers)  # type: ignore[arg-type]
    if error is not None:
        write = dead_letter("intake", record, error)
    else:
        (write,) = intake.build({}, "sha256:test").step({}, record).outputs
    said = decode(write.value, ()) if isinstance(write.value, bytes) else write.value
    assert isinstance(said, RecordRejected)
    return said.data


def again(letter: DeadLetter, edit: Edit = Edit(), now_ms: int = LATER_MS) -> RepairedRecord:  # noqa: B008 (immutable)
    made = repaired(letter, edit, now_ms)
    assert isinstance(made, RepairedRecord), made
    return made


class Keys:
    """An opener by a keyring; none for whoever may not read one."""

    def __init__(self, ring: Keyring | None) -> None:
        self._sealing = None if ring is None else Sealing(ring)

    async def opened(self, topic: str, value: bytes, headers: Headers) -> bytes:
        owner = owner_of(topic, headers)
        if owner is None:
            return value
        if self._sealing is None:
            raise TopicMissing("keys")
        return self._sealing.opened(owner, value)


def read_with(ring: Keyring | None, letter: Event, headers: Headers = ()) -> DeadLetter | None:
    """A letter as commands read it."""
    reader = LetterReader(Settings())
    reader._opener = Keys(ring)  # type: ignore[assignment]
    found = asyncio.run(reader.event(SimpleNamespace(value=encode(letter), headers=headers)))
    return None if found is None else found.data  # type: ignore[return-value]


def ring_of(owner: str) -> Keyring:
    return keyring_of(issued(Keyring(), [Claim(owner, START_MS * 1_000_000, makes_key=True)], START_MS))


def sealed_signal(owner: str, ring: Keyring, value: bytes) -> Event:
    """The letter that a stage made of a sealed record."""
    headers = (("content-type", b"application/cloudevents+json"), ("headrace-origin", b"intake"), sealed_header(owner))
    record = Record("signals", 1, 7, AT_MS, AT_MS, b"i", Sealing(ring).sealed(owner, value), headers)
    letter = dead_letter("reward", record, RecordError(code="stage_error", message="a bug")).value
    assert isinstance(letter, RecordRejected)
    return letter


def test_a_record_that_was_sealed_when_it_became_a_letter_comes_back_opened_or_not_at_all() -> None:
    owner = "interaction/i"
    ring, value = ring_of(owner), interaction("i", data_subject="bob", prompt="bob asks")
    letter = sealed_signal(owner, ring, value)
    read = read_with(ring, letter)
    assert read is not None
    data = json.loads(again(read).value)["data"]
    assert (data["prompt"], data["data_subject"], data.get("sealed")) == ("bob asks", "bob", None)
    erased = keyring_of([make(KeyErased, KeyErasure(key_id="k", owner=owner), id="k", writer=WRITER, time_ms=AT_MS)])
    for keys in (None, Keyring(), erased):
        closed = read_with(keys, letter)
        assert closed is not None
        made = repaired(closed, Edit(), LATER_MS)
        assert isinstance(made, Unfit)
        assert made.why == "sealed", "or stages would learn from what stands for a text"


@pytest.mark.parametrize("field", ["value_base64", "key_base64"])
def test_a_letter_that_nobody_can_have_written_is_passed_over(field: str) -> None:
    letter = sealed_signal("interaction/i", ring_of("interaction/i"), interaction("i"))
    assert isinstance(letter, RecordRejected)
    assert read_with(None, replace(letter, data=replace(letter.data, **{field: "a"}))) is None


def test_a_letter_that_its_key_did_not_seal_is_shown_as_it_lies() -> None:
    owner = "interaction/i"
    letter = sealed_signal(owner, ring_of(owner), interaction("i"))
    headers = (("content-type", b"application/cloudevents+json"), ("headrace-origin", b"x"), sealed_header(owner))
    assert read_with(ring_of(owner), letter, headers) is not None


def without(value: bytes, name: str) -> bytes:
    tree = json.loads(value)
    del tree[name]
    return json.dumps(tree).encode()


def test_a_record_comes_back_as_it_was_with_its_place_in_the_headers() -> None:
    value = feedback(score=4, scale=[0, 5])
    letter = letter_of(value, error=RecordError(code="stage_error", message="a bug"), headers=(("h", b"v"), ("none", None)))
    record = again(letter)
    assert (record.topic, record.partition, record.key, record.value) == ("feedback", 1, b"key", value)
    assert list(record.headers) == [("h", b"v"), ("none", None), (REDRIVEN, b"feedback/1/7")]
    assert record.edited == []


def test_a_record_that_dies_again_names_every_place_that_it_had() -> None:
    error = RecordError(code="stage_error", message="a bug")
    letter = letter_of(feedback(), error=error, headers=((REDRIVEN, b"feedback/0/3"),))
    assert list(again(letter).headers) == [(REDRIVEN, b"feedback/1/7 feedback/0/3")]


def test_what_would_die_again_is_not_sent_and_says_of_what() -> None:
    letter = letter_of(feedback(score=7, scale=[0, 5]))
    made = repaired(letter, Edit(), LATER_MS)
    assert isinstance(made, Unfit)
    assert (made.why, made.message) == ("out_of_range", letter.error.message)


def test_a_field_is_given_another_value_and_the_event_names_it() -> None:
    record = again(letter_of(feedback(score=7, scale=[0, 5])), Edit(fields={"data.scale": [0, 10], "data.principal": None}))
    assert json.loads(record.value)["data"]["scale"] == [0, 10]
    assert record.edited == ["data.principal", "data.scale"]


def test_a_time_that_was_missing_is_the_one_at_which_it_came_then() -> None:
    letter = letter_of(without(feedback(), "time"), error=RecordError(code="stage_error", message="a bug"))
    record = again(letter)
    assert json.loads(record.value)["time"] == rfc3339(AT_MS)
    assert record.edited == ["time"]
    binary = letter_of(
        json.dumps(json.loads(feedback())["data"]).encode(),
        error=RecordError(code="stage_error", message="a bug"),
        headers=(
            ("ce_specversion", b"1.0"),
            ("ce_id", b"1"),
            ("ce_source", b"s"),
            ("ce_type", b"headrace.feedback.recorded.v1"),
        ),
    )
    assert ("ce_time", rfc3339(AT_MS).encode()) in again(binary).headers


def test_a_clock_that_was_ahead_is_waited_for() -> None:
    letter = letter_of(feedback(minute=30))
    assert letter.error.code == "future_time"
    assert isinstance(repaired(letter, Edit(), AT_MS), Unfit)
    assert again(letter, now_ms=LATER_MS).value == feedback(minute=30)


def test_an_event_on_the_wrong_topic_goes_to_the_right_one() -> None:
    record = again(letter_of(feedback(), topic="interactions"))
    assert (record.topic, record.partition, record.key) == ("feedback", None, b"key")


@pytest.mark.parametrize("value", [interaction("i9"), feedback("f9", "i9")])
def test_what_reward_could_not_process_is_published_as_intake_had_passed_it_on(value: bytes) -> None:
    letter = letter_of(value, "signals", RecordError(code="stage_error", message="a bug"))
    record = again(letter)
    assert (record.topic, record.key, record.value) == ("interactions" if b"i9" in value[:90] else record.topic, b"i9", value)
    assert record.topic in ("interactions", "feedback")
    assert record.partition is None
    assert [name for name, _ in record.headers] == ["content-type", REDRIVEN]


@pytest.mark.parametrize(
    ("topic", "error", "why"),
    [
        ("examples", RecordError(code="stage_error", message="a bug"), "written_by_a_stage"),
        ("signals", RecordError(code="unknown_writer", message="forged"), "unknown_writer"),
        ("feedback", RecordError(code="over_limit", message="large (record of 9 bytes not carried)"), "not_carried"),
    ],
)
def test_what_can_not_be_published_by_anybody_is_said(topic: str, error: RecordError, why: str) -> None:
    golden = b'{"specversion":"1.0","id":"1","source":"s","type":"headrace.clock.ticked.v1","data":{"bucket":"b","time":"t"}}'
    letter = letter_of(None if why == "not_carried" else golden, topic, error)
    made = repaired(letter, Edit(), LATER_MS)
    assert isinstance(made, Unfit)
    assert made.why == why
    assert made.message


def test_a_request_is_asked_again_by_its_own_id() -> None:
    value = event("pause.requested", {"bucket": "sql/tiny"})
    record = again(letter_of(value, "outcomes", RecordError(code="stage_error", message="a bug")))
    assert (record.topic, record.value) == ("outcomes", value)


@pytest.mark.parametrize("path", ["", "data..x", "data.x[", "data.x]", "[]"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(WrongEdit):
        repaired(letter_of(feedback(score=900)), Edit(fields={path: 1}), LATER_MS)


def test_a_path_into_something_else_leaves_the_record_where_it_is() -> None:
    made = repaired(letter_of(feedback(score=900)), Edit(fields={"data.kind[0]": 1}), LATER_MS)
    assert isinstance(made, Unfit)
    assert made.why == "wrong_type"


RAW_RECORDS = (
    None,
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"[" * 2000,
    b'"\\ud800"',
    b'{"source": 5}',
    b'{"source": "\\ud800\\u001b[31m"}',
    b'\xef\xbb\xbf{"source": "bom"}',
    b'{"time": NaN}',
    '{"source": "\u202eevil\x1b[2J"}'.encode(),
    interaction(),
    b" " + interaction(),
    without(interaction(), "time"),
)


@pytest.mark.parametrize("value", RAW_RECORDS)
def test_whatever_a_letter_holds_it_can_be_looked_at_and_is_published_only_if_intake_takes_it(value: bytes | None) -> None:
    error = RecordError(code="not_json", message="no", field="data.x[1]")
    letter = letter_of(value, "interactions", error)
    row, shown = row_of(letter, 0, 0), marked(letter)
    assert visible(shown.text, lines=True).replace("\n", "").replace("\t", "").isprintable()
    assert groups([row])[0].letters == 1
    made = repaired(letter, Edit(), LATER_MS)
    if isinstance(made, RepairedRecord):
        step = intake.build({}, "sha256:test").step(
            {},
            Record(made.topic, 0, 0, LATER_MS, LATER_MS, None, made.value, made.headers),  # type: ignore[arg-type]
        )
        assert step.counters["signals"] == 1


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (feedback(score=7, scale=[0, 5]), None, "7"),
        (feedback()[:-1], None, ""),
        (feedback().replace(b'"kind"', b'"kinds"'), None, feedback().replace(b'"kind"', b'"kinds"').decode()[-95:-1]),
    ],
)
def test_the_field_that_is_wrong_is_marked(value: bytes, error: RecordError | None, shown: str) -> None:
    record = marked(letter_of(value, error=error))
    assert record.span is not None
    assert record.text[record.span.start : record.span.end] == shown or record.span.what == "missing"
    assert record.span.what in ("field", "broken", "missing")


def test_letters_are_chosen_by_all_that_is_asked() -> None:
    row = row_of(letter_of(feedback(score=900)), 0, 0)
    asked: dict[str, Any] = {"topic": "feedback", "code": "out_of_range", "field": "data.score", "source": "people:test"}
    assert LetterFilter(**asked, since_ms=AT_MS, until_ms=AT_MS + 1).takes(row)
    for name in asked:
        assert not LetterFilter(**{**asked, name: "other"}).takes(row)
    assert not LetterFilter(since_ms=AT_MS + 1).takes(row)
    assert not LetterFilter(until_ms=AT_MS).takes(row)


def test_a_letter_whose_key_is_gone_is_listed_and_not_redriven() -> None:
    record = Record("feedback", 1, 7, AT_MS, AT_MS, b"key", feedback(), ())
    write = dead_letter("intake", record, RecordError(code="wrong_type", message="quotes a text", field="data.score"))
    assert isinstance(write.value, RecordRejected)
    erased = decode(seal(encode(write.value), None))
    assert isinstance(erased, RecordRejected)
    assert (row_of(erased.data, 0, 0).code, marked(erased.data).text) == ("wrong_type", "null")
    made = repaired(erased.data, Edit(), LATER_MS)
    assert isinstance(made, Unfit)
    assert made.why == "sealed"
