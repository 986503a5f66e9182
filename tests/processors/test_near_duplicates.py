"""Sketches: similarity is exact for short texts and close for long ones, candidates are not missed, digests never move."""

from __future__ import annotations

import hashlib
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.curate import near_duplicates, near_index
from headrace_processors.curate.near_duplicates import (
    BANDS,
    COMPARED,
    SHINGLE,
    SKETCH,
    bands,
    figures,
    rows,
    similarity,
    sketch,
    sketches,
)
from headrace_processors.curate.near_index import VERIFIED, NearIndex

WORDS = [f"w{number:03}"[:: 1 if number % 2 else -1] for number in range(400)]
texts = st.lists(st.sampled_from(WORDS), max_size=24).map(" ".join)


def exact(one: str, other: str) -> float:
    """Jaccard similarity of the sets of shingles, as plainly as it can be written."""
    sets = [
        {data[place : place + SHINGLE] for place in range(max(1, len(data) - SHINGLE + 1))}
        for data in (one.encode().ljust(SHINGLE, b"\0"), other.encode().ljust(SHINGLE, b"\0"))
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def edited(text: str, share: float, pick: random.Random) -> str:
    return " ".join(pick.choice(WORDS) if pick.random() < share else word for word in text.split())


@settings(deadline=None)
@given(texts, texts)
def test_the_similarity_of_short_texts_is_exact(one: str, other: str) -> None:
    for left, right in ((one, other), (one, f"{one} {other}"), (one, one)):
        if len(left) < SKETCH and len(right) < SKETCH:
            assert similarity(sketch(left), sketch(right)) == exact(left, right)


def test_the_similarity_of_long_texts_is_close() -> None:
    pick = random.Random(1)
    errors = []
    for _ in range(200):
        words = ["".join(pick.choices("abcdefghijklmnopqrst", k=pick.randint(2, 9))) for _ in range(pick.randint(100, 500))]
        text = " ".join(words)
        other = edited(text, pick.random() * 0.3, pick)
        errors.append(similarity(sketch(text), sketch(other)) - exact(text, other))
    assert abs(sum(errors)) / len(errors) < 0.02
    assert sum(error * error for error in errors) / len(errors) < 0.05**2


def test_what_is_similar_is_among_the_candidates() -> None:
    pick = random.Random(2)
    missed = found = 0
    for _ in range(400):
        text = " ".join(pick.choices(WORDS, k=pick.randint(2, 300)))
        other = edited(text, pick.random() * 0.1, pick)
        if exact(text, other) >= 0.85:
            found += 1
            missed += NearIndex().add("a", bands(sketch(text))).candidates(bands(sketch(other))) != ["a"]
    assert found > 100
    assert missed == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), texts), max_size=12))
@settings(deadline=None)
def test_an_index_does_not_depend_on_the_order_in_which_members_came(steps: list[tuple[str, bool, str]]) -> None:
    index, members = NearIndex(), dict[str, str]()
    for name, there, text in steps:
        if name in members:
            index = index.remove(name)
            del members[name]
        if there:
            index, members[name] = index.add(name, bands(sketch(text))), text
    anew = NearIndex()
    for name in sorted(members, reverse=True):
        anew = anew.add(name, bands(sketch(members[name])))
    assert index == anew
    assert list(index.members()) == sorted(members)
    assert len(index) == len(members)


changes = st.lists(st.tuples(st.sampled_from(["add", "remove", "give up"]), st.integers(0, 7), st.integers(0, 2)), max_size=40)


@given(changes, st.integers(0, 40))
@settings(deadline=None)
def test_an_index_stays_what_it_was_whatever_became_of_it(steps: list[tuple[str, int, int]], sparse: int) -> None:
    """Those of one line of changes share a table, and one whose step was given up leaves behind what it put there."""
    index, members = NearIndex(), dict[str, bytes]()
    versions = [(index, dict(members))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_index, "SPARSE", sparse % 4)
        patch.setattr(near_index, "ROOM", 1 + sparse)
        for what, number, band in steps:
            name, row = str(number), band.to_bytes(8, "little") * BANDS
            if what == "give up":
                (index.remove(name) if name in members else index.add(name, row)).add("none", row)
            elif what == "add" and name not in members:
                index, members = index.add(name, row), {**members, name: row}
            elif what == "remove" and name in members:
                index, members = index.remove(name), {other: row for other, row in members.items() if other != name}
            versions.append((index, members))
    for one, expected in versions:
        assert one.members() == expected
        assert len(one) == len(expected)
        for band in range(3):
            row = band.to_bytes(8, "little") * BANDS
            assert one.candidates(row) == sorted(name for name, other in expected.items() if other == row)


odd_texts = st.one_of(
    st.text(max_size=40),
    st.text("ab1 ", max_size=700),
    st.builds(lambda text, times: text * times, st.text("abc ٣é\ud8007", max_size=9), st.integers(0, 300)),
    st.sampled_from(["x" * 100_000, "1 " * COMPARED, "é5" * 60_000, " ".join(map(str, range(20_000)))]),
)


@given(st.lists(st.tuples(odd_texts, st.sampled_from(["", "a", "\ud800"])), max_size=12))
@settings(deadline=None)
def test_many_texts_at_once_are_sketched_as_each_by_itself(pairs: list[tuple[str, str]]) -> None:
    made = sketches([text for text, _ in pairs], [salt for _, salt in pairs])
    assert made == [sketch(text, salt) for text, salt in pairs]
    assert rows(made) == [bands(one) for one in made]


@given(odd_texts, st.sampled_from(["", "a"]))
@settings(deadline=None)
def test_a_sketch_has_the_smallest_hashes_of_all_shingles(text: str, salt: str) -> None:
    """As plainly as it can be written, in Python's own integers."""
    data = text.encode(errors="replace")[: COMPARED // 16].ljust(SHINGLE, b"\0")
    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little") if salt else 0
    hashes = set()
    for place in range(len(data) - SHINGLE + 1):
        one = (int.from_bytes(data[place : place + SHINGLE], "little") ^ seed) * 0x9E3779B97F4A7C15 % 2**64
        hashes.add((one ^ one >> 29) * 0xBF58476D1CE4E5B9 % 2**64 >> 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "COMPARED", COMPARED // 16)
        assert sketch(text, salt) == b"".join(one.to_bytes(4, "little") for one in sorted(hashes)[:SKETCH])


@given(st.lists(odd_texts, max_size=8))
@settings(deadline=None)
def test_figures_are_the_runs_of_digits_of_any_script(several: list[str]) -> None:
    assert figures(several) == [" ".join(re.findall(r"\d+", text)) for text in several]


def test_another_context_has_nothing_in_common() -> None:
    assert similarity(sketch("select 1", "a"), sketch("select 1", "b")) == 0
    assert similarity(sketch("select 1", "a"), sketch("select 1", "a")) == 1


@pytest.mark.parametrize("text", ["", "a", "é", "\ud800", "x" * 10_000, "ab" * 100_000])
def test_any_text_has_a_sketch(text: str) -> None:
    assert 4 <= len(sketch(text)) <= 4 * SKETCH
    assert similarity(sketch(text), sketch(text)) == 1
    assert NearIndex().add("a", bands(sketch(text))).candidates(bands(sketch(text))) == ["a"]


def test_digests_are_the_same_in_every_version_of_every_library() -> None:
    """They stand in states and in histories: figures of the day when rule version 2 was written."""
    text = " ".join(WORDS)
    assert sketch("select 1").hex() == "cf41a1167aa287cc6d876de60deaccee"
    assert hashlib.sha256(sketch(text)).hexdigest()[:16] == "e82d390877c5590e"
    assert hashlib.sha256(bands(sketch(text))).hexdigest()[:16] == "32b64ac7fc123d7d"


@pytest.mark.parametrize("many", [-1, 10**6], ids=["by numpy", "one by one"])
@given(st.lists(st.lists(st.integers(0, 3), min_size=BANDS, max_size=BANDS), max_size=40), st.integers(0, 3))
def test_candidates_are_those_with_most_equal_bands_and_of_these_the_first(many: int, rows: list[list[int]], wanted: int) -> None:
    index = NearIndex()
    for number, row in enumerate(rows):
        index = index.add(f"{number:02}", b"".join(band.to_bytes(8, "little") for band in row))
    shared = {f"{number:02}": row.count(wanted) for number, row in enumerate(rows) if wanted in row}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_index, "MANY", many)
        found = index.candidates(wanted.to_bytes(8, "little") * BANDS)
    assert found == sorted(shared, key=lambda name: (-shared[name], name))[:VERIFIED]
