"""Keys of data subjects: whose is whose by the order of the topic, whatever tasks do at once and a broker compacts."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_schemas import sealed_fields
from headrace_schemas.codec import decode
from headrace_schemas.events import EVENT_TYPES, Event, KeyIssued
from headrace_schemas.topics import BY_NAME, key_of
from headrace_streams.runtime.errors import Refused
from headrace_streams.runtime.provenance import origin_without_input
from headrace_streams.runtime.sealing import KeyMissing, Sealing
from headrace_streams.runtime.stage import Claim
from headrace_streams.sealing import cipher, key_log
from headrace_streams.sealing.issuing import WRITER, erasures, issued
from headrace_streams.sealing.keyring import Keyring, keyring_of
from support.signals import feedback, interaction

NOW, SECOND = 1_790_000_000_000, 1_000_000_000
KINDS = tuple(
    f"headrace.{name}.v1"
    for name in ("interaction.recorded", "feedback.recorded", "example.rewarded", "prompt.drawn", "record.rejected")
)
GOLDENS = Path(__file__).parents[1] / "goldens"
OWNERS, SUBJECTS, REFS = ("interaction/1", "interaction/2"), ("bob", "eve"), ("ref/a", "ref/b")
FOREIGN, FEEDBACK = ("foreign/a", "foreign/b"), ("feedback/1", "feedback/2")


def needs(owner: str, subject: str = "", second: int = 0) -> Claim:
    return Claim(owner, second * SECOND, subject=subject, makes_key=True)


def forgets(subject: str, second: int) -> Claim:
    return Claim("", second * SECOND, subject=subject, erases=True)


def says(feedback: str, foreign: str, second: int = 0) -> Claim:
    return Claim(feedback, second * SECOND, makes_key=True, under=foreign)


def links(ref: str, owner: str, second: int = 0) -> Claim:
    return Claim(ref, second * SECOND, of=owner)


class KeyTopic:
    """The topic as tasks write it: each sees what was written when it last looked."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, claims: Iterable[Claim], seen: int | None = None) -> None:
        self.events += issued(keyring_of(self.events[:seen]), claims, NOW)
        while left := erasures(self.ring, NOW, 3):
            self.events += left

    @property
    def ring(self) -> Keyring:
        return keyring_of(self.events)

    def compacted(self, until: int) -> Keyring:
        """After a broker has compacted what lies before `until`."""
        newest = {key_of("keys", event): number for number, event in enumerate(self.events)}
        return keyring_of(
            event for number, event in enumerate(self.events) if number >= until or newest[key_of("keys", event)] == number
        )


def test_two_tasks_that_make_a_key_for_one_owner_at_once_both_use_the_first() -> None:
    topic = KeyTopic()
    topic.write([needs("interaction/1", "bob")])
    topic.write([needs("interaction/1", "bob")], seen=0)
    first, second = (event for event in topic.events if isinstance(event, KeyIssued))
    assert topic.ring.secret("interaction/1") == base64.b64decode(first.data.secret_base64)
    assert first.data.secret_base64 != second.data.secret_base64
    topic.write([forgets("bob", 9)])
    assert all(b"secret" not in value for value in remaining(topic)), "the one that nobody used is gone, too"


def test_a_key_that_is_made_while_its_subject_is_forgotten_does_not_escape() -> None:
    topic = KeyTopic()
    topic.write([forgets("bob", 9)])
    topic.write([needs("interaction/1", "bob", 5)], seen=0)
    assert topic.ring.is_erased("interaction/1")
    assert all(b"secret" not in value for value in remaining(topic))
    topic.write([needs("interaction/2", "bob", 10)])
    assert topic.ring.secret("interaction/2"), "what happened later is another thing"


def test_what_belongs_to_an_owner_goes_with_it_in_whatever_order_that_is_learnt() -> None:
    topic = KeyTopic()
    topic.write([needs("ref/a"), links("ref/a", "interaction/1"), needs("interaction/1"), needs("interaction/1", "bob", 1)])
    topic.write([needs("ref/b"), forgets("bob", 9)])
    topic.write([links("ref/b", "interaction/1")])
    assert [owner for owner in (*OWNERS, *REFS) if topic.ring.is_erased(owner)] == ["interaction/1", "ref/a", "ref/b"]
    assert all(b"secret" not in value for value in remaining(topic))
    assert topic.ring.all_owners("bob"), "whose they were is known to who may read the keys, or a redelivery would be news"


@pytest.mark.parametrize("first", SUBJECTS)
def test_an_interaction_that_two_subjects_name_goes_with_whichever_is_erased(first: str) -> None:
    topic = KeyTopic()
    topic.write([needs("interaction/1", "bob")])
    topic.write([needs("interaction/1", "eve", 1), needs("interaction/1", "eve", 1)])
    assert len(topic.events) == 2
    topic.write([forgets(first, 9)])
    assert topic.ring.is_erased("interaction/1")
    assert topic.ring.erased_subject("interaction/1") == "bob", "whose it is to the folds, which take the first"
    assert all(b"secret" not in value for value in remaining(topic))


def test_two_subjects_in_one_fetch_are_both_told_of() -> None:
    topic = KeyTopic()
    topic.write([needs("interaction/1", "bob"), needs("interaction/1", "eve", 1), forgets("eve", 9)])
    assert topic.ring.is_erased("interaction/1")


def test_who_links_a_foreign_id_of_somebody_else_destroys_nothing_that_was_said_before() -> None:
    """A ticket that is about two people's interactions, or a publisher who names what is not theirs."""
    topic = KeyTopic()
    topic.write([needs("interaction/1", "bob"), links("foreign/a", "interaction/1", 1), says("feedback/1", "foreign/a", 2)])
    topic.write([needs("interaction/2", "eve", 3), links("foreign/a", "interaction/2", 3), says("feedback/2", "foreign/a", 4)])
    topic.write([forgets("eve", 9)])
    assert topic.ring.is_erased("feedback/2"), "it was said of the interaction that the id meant then"
    assert topic.ring.secret("feedback/1"), "and this of another"
    topic.write([forgets("bob", 9)])
    assert topic.ring.is_erased("feedback/1")
    topic.write([links("foreign/a", "interaction/1", 10), says("feedback/3", "foreign/a", 11)])
    assert topic.ring.is_erased("feedback/3"), "of who was erased before"


def test_a_link_of_before_changes_nothing_and_what_waits_belongs_to_the_first_link() -> None:
    topic = KeyTopic()
    topic.write([says("feedback/1", "foreign/a"), links("foreign/a", "interaction/1", 5), links("foreign/a", "interaction/2", 4)])
    topic.write([says("feedback/2", "foreign/a"), needs("interaction/1", "bob"), needs("interaction/2", "eve")])
    topic.write([forgets("eve", 9)])
    assert [topic.ring.is_erased(owner) for owner in FEEDBACK] == [False, False]
    topic.write([forgets("bob", 9)])
    assert [topic.ring.is_erased(owner) for owner in FEEDBACK] == [True, True]


@pytest.mark.parametrize("altered", ["bm8=", "no base64!", "", base64.b64encode(b"x" * 64).decode()])
def test_a_key_that_is_none_counts_as_not_there(altered: str) -> None:
    [event] = issued(Keyring(), [needs("interaction/1", "bob")], NOW)
    assert isinstance(event, KeyIssued)
    ring = Keyring()
    ring.apply(msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, secret_base64=altered)))
    assert (ring.is_known("interaction/1"), ring.passed_over) == (False, 1)
    ring.apply(event)
    assert ring.secret("interaction/1") == base64.b64decode(event.data.secret_base64)


def test_a_time_that_is_none_stops_nobody() -> None:
    ring = Keyring()
    for event in issued(Keyring(), [needs("interaction/1", "bob"), links("foreign/a", "interaction/1")], NOW):
        ring.apply(msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, time="tomorrow")))
    assert (ring.has_keys, ring.passed_over) == (False, 2)


def remaining(topic: KeyTopic) -> list[bytes]:
    """What compaction leaves."""
    return [msgspec.json.encode(event) for event in {key_of("keys", event): event for event in topic.events}.values()]


CLAIMS = st.one_of(
    st.builds(needs, st.sampled_from(OWNERS), st.sampled_from(["", *SUBJECTS]), st.integers(0, 9)),
    st.builds(needs, st.sampled_from(REFS)),
    st.builds(links, st.sampled_from((*REFS, *FOREIGN)), st.sampled_from(OWNERS), st.integers(0, 9)),
    st.builds(says, st.sampled_from(FEEDBACK), st.sampled_from(FOREIGN)),
    st.builds(forgets, st.sampled_from(SUBJECTS), st.integers(0, 9)),
)


@given(st.lists(st.tuples(st.lists(CLAIMS, max_size=4), st.integers(0, 4)), max_size=10), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_compaction_changes_nothing_and_what_is_erased_is_nowhere(steps: list[tuple[list[Claim], int]], until: int) -> None:
    topic = KeyTopic()
    for claims, behind in steps:
        topic.write(claims, seen=max(0, len(topic.events) - behind))
    ring, compacted = topic.ring, topic.compacted(until)
    assert not ring.leftovers
    assert not compacted.leftovers
    for owner in (*OWNERS, *REFS, *FEEDBACK):
        assert (ring.secret(owner), ring.is_erased(owner)) == (compacted.secret(owner), compacted.is_erased(owner))
        assert ring.erased_subject(owner) == compacted.erased_subject(owner)
        if ring.is_erased(owner):
            assert not [value for value in remaining(topic) if b"secret" in value and owner.encode() in value]


def sealing() -> Sealing:
    topic = KeyTopic()
    topic.write([needs("interaction/i1", "bob"), needs("ref/a")])
    return Sealing(topic.ring)


def test_a_sealed_event_is_opened_as_it_was_and_sealed_again_to_the_same_bytes() -> None:
    keys = sealing()
    for value in (interaction(data_subject="bob", mystery={"x": [1]}), feedback("f1", "i1", "rating", comment="hm")):
        sealed = keys.sealed("interaction/i1", value)
        assert sealed == keys.sealed("interaction/i1", value)
        opened = keys.opened("interaction/i1", sealed)
        assert msgspec.json.decode(opened) == msgspec.json.decode(value)
        assert (opened.stored, opened.erased) == (sealed, False)
        again = pickle.loads(pickle.dumps(opened))
        assert (again, again.stored, again.owner) == (opened, sealed, "interaction/i1")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_event_is_a_valid_one_of_its_type_whether_or_not_it_can_be_opened(kind: str) -> None:
    keys, value = sealing(), (GOLDENS / f"{kind}.json").read_bytes()
    sealed = keys.sealed("interaction/i1", value)
    assert type(decode(sealed)) is EVENT_TYPES[kind]
    assert decode(keys.opened("interaction/i1", sealed)) == decode(value)
    keys.keyring.apply(issued(keys.keyring, [forgets("bob", 9)], NOW)[0])
    for without in (keys.opened("interaction/i1", sealed), keys.sealed("interaction/i1", value)):
        assert type(decode(without)) is EVENT_TYPES[kind]


@pytest.mark.parametrize("change", ["owner", "id", "type", "text"])
def test_a_sealed_part_that_is_moved_or_altered_is_not_opened(change: str) -> None:
    keys = sealing()
    sealed, owner = keys.sealed("interaction/i1", feedback("f1", "i1", "rating", comment="hm")), "interaction/i1"
    tree = msgspec.json.decode(sealed)
    if change == "owner":
        owner = "ref/a"
    elif change == "id":
        tree["id"] = "another"
    elif change == "type":
        tree["type"] = "headrace.interaction.recorded.v1"
    else:
        tree["data"]["sealed"] = base64.b64encode(base64.b64decode(tree["data"]["sealed"])[:-1] + b"x").decode()
    with pytest.raises(cipher.NotOpened):
        keys.opened(owner, msgspec.json.encode(tree))


def test_an_owner_without_a_key_is_refused_and_one_who_was_erased_has_no_text() -> None:
    keys = sealing()
    value = interaction(data_subject="bob", prompt="marked")
    sealed = keys.sealed("interaction/i1", value)
    with pytest.raises(KeyMissing, match="topic keys has no key of it") as refused:
        keys.opened("interaction/lost", sealed)
    assert isinstance(refused.value, Refused)
    keys.keyring.apply(issued(keys.keyring, [forgets("bob", 9)], NOW)[0])
    assert keys.opened("interaction/i1", sealed).erased
    assert b"marked" not in keys.sealed("interaction/i1", value)
    assert sealed_fields.masked(keys.sealed("interaction/i1", value)) == sealed_fields.masked(sealed)


def test_a_state_value_is_sealed_with_what_stands_for_it() -> None:
    keys = sealing()
    sealed = keys.sealed_state("interaction/i1", "content/i1", b'{"text":"marked"}', b'{"text":"-"}')
    assert b"marked" not in sealed
    assert keys.opened_state("content/i1", sealed) == ("interaction/i1", b'{"text":"marked"}')
    keys.keyring.apply(issued(keys.keyring, [forgets("bob", 9)], NOW)[0])
    assert keys.opened_state("content/i1", sealed) == ("interaction/i1", b'{"text":"-"}')


def test_a_key_event_that_intake_has_not_written_is_passed_over() -> None:
    [event] = issued(Keyring(), [needs("interaction/1", "bob")], NOW)
    for writer, expected in ((WRITER, True), ("curate", False), ("intake.tick", False)):
        ring = Keyring()
        key_log.apply(ring, msgspec.json.encode(event), origin_without_input(writer))
        assert ring.is_known("interaction/1") is expected


def test_only_intake_writes_keys_and_nobody_reads_them_with_everything_else() -> None:
    topic = BY_NAME["keys"]
    assert (topic.writers, topic.secret, topic.compacted, topic.fixed_partitions) == (("intake",), True, True, 1)
