"""Lineage over a lake: down and up are inverse to each other and end at the very bytes that were published; every interaction has
a state with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_cli.main import invoke
from headrace_lake.learning_state import learning_state
from headrace_lake.lineage import PUBLISHED, LineageEdge, RecordPlace, places_of, published_fate, trace
from headrace_lake.manifest import LakeFolder
from headrace_lake.query import LakeQuery, opened
from headrace_lake.read_models.example_list import ExampleFilter, newest_rows
from headrace_lake.read_models.lineage_view import lineage_view
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import InteractionExpiry
from headrace_schemas.events import (
    BatchReady,
    Event,
    ExampleRewarded,
    ExampleWithdrawn,
    InteractionExpired,
    ModelVersionCreated,
    PromptDrawn,
    ReleasePromoted,
    SignalRejected,
    TrainingStarted,
    make,
)
from headrace_streams.runtime.provenance import provenance_of
from headrace_streams.testing import written_headers
from support.examples import GROUPS
from support.lineage_check import check_rows
from support.memory_log import MemoryLog
from support.memory_ring import MemoryRing, lake_of
from support.signals import event

Edge = tuple[RecordPlace, RecordPlace]


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    ring = MemoryRing(3)
    for _ in range(3):
        ring.round(22)
    return ring


def events(ring: MemoryRing, topic: str) -> Iterator[tuple[RecordPlace, Event, Any]]:
    """Place, event and provenance of every event of a topic, straight from the log."""
    for record in ring.log.of(topic):
        yield RecordPlace(*record[:3]), decode(record.value), provenance_of(record.headers)


def expected(ring: MemoryRing) -> set[Edge]:
    """Every (upper, lower) there should be, from the events alone."""
    found: set[Edge] = set()
    versions = {
        event.data.version_id: (at, event.data)
        for at, event, _ in events(ring, "versions")
        if isinstance(event, ModelVersionCreated)
    }
    batches = {event.data.batch_id: (at, event.data) for at, event, _ in events(ring, "batches") if isinstance(event, BatchReady)}
    runs = {event.data.run_id: (at, event.data) for at, event, _ in events(ring, "runs") if isinstance(event, TrainingStarted)}
    for at, decision, _ in events(ring, "releases.history"):
        if isinstance(decision, ReleasePromoted):
            found.add((at, versions[decision.data.version_id or ""][0]))
    for at, version in versions.values():
        found |= {(at, batches[version.batch_id][0]), (at, runs[version.run_id][0])}
    for at, named in [
        *(
            (at, [*batch.members, *batch.test_pool, *(batch.validation_pool or ()), *(batch.prompts or ())])
            for at, batch in batches.values()
        ),
        *((at, start.rehearsal) for at, start in runs.values()),
    ]:
        found |= {(at, RecordPlace("examples", row.locator.partition, row.locator.offset)) for row in named}
    refused = {RecordPlace(*source[1:4]) for _, event, source in events(ring, "rejections") if isinstance(event, SignalRejected)}
    signals = [(at, event, source) for at, event, source in events(ring, "signals")]
    for at, example, source in events(ring, "examples"):
        if isinstance(example, ExampleRewarded):
            assert source is not None
            found |= {
                (at, place)
                for place, signal, _ in signals
                if getattr(signal.data, "interaction_id", None) == example.data.interaction_id
                and place.partition == source.partition
                and place.offset <= source.offset
                and place not in refused
            }
        elif isinstance(example, PromptDrawn):
            assert source is not None
            found.add((at, RecordPlace(*source[1:4])))
    refs = [(event, source) for _, event, source in events(ring, "refs")]
    for at, signal, source in signals:
        if source is not None and source.stage == "intake":
            found.add((at, RecordPlace(*source[1:4])))
        elif source is not None and source.stage == "link":
            same = [one for ref, one in refs if (ref.id, ref.source, type(ref)) == (signal.id, signal.source, type(signal))]
            found |= {(at, RecordPlace(*one[1:4])) for one in same}
    return found


def pairs(edges: list[LineageEdge]) -> set[Edge]:
    return {(edge.upper, edge.lower) for edge in edges if edge.lower.topic != "outcomes"}


def above(edges: set[Edge], start: set[RecordPlace]) -> set[Edge]:
    """The edges on the ways up from `start`."""
    found: set[Edge] = set()
    reached, new = set(start), set(start)
    while new:
        step = {(upper, lower) for upper, lower in edges if lower in new}
        new = {upper for upper, _ in step} - reached
        found, reached = found | step, reached | new
    return found


def published(ring: MemoryRing) -> list[RecordPlace]:
    return [
        RecordPlace(topic, partition, record.offset)
        for topic in PUBLISHED
        for partition in range(ring.log.count)
        for record in ring.log.records[topic, partition]
    ]


def test_up_from_all_that_was_published_are_the_edges_that_the_events_say(ring: MemoryRing, lake: LakeQuery) -> None:
    edges = expected(ring)
    assert {upper.topic for upper, _ in edges} == {"releases.history", "versions", "batches", "runs", "examples", "signals"}
    assert pairs(trace(lake, published(ring), up=True).edges) == above(edges, set(published(ring)))


def test_down_from_all_releases_are_the_edges_below_them(ring: MemoryRing, lake: LakeQuery) -> None:
    edges = expected(ring)
    releases = {upper for upper, _ in edges if upper.topic == "releases.history"}
    upside_down = {(lower, upper) for upper, lower in edges}
    assert pairs(trace(lake, releases, up=False).edges) == {(upper, lower) for lower, upper in above(upside_down, releases)}


def test_explain_and_impact_are_inverse_to_each_other(ring: MemoryRing, lake: LakeQuery) -> None:
    releases = [at for at, event, _ in events(ring, "releases.history") if isinstance(event, ReleasePromoted)]
    made_of = {release: set(trace(lake, [release], up=False).records) for release in releases}
    some = published(ring)[::7]
    for place in some:
        releases_above = {record.place for record in trace(lake, [place], up=True).of("release")}
        assert releases_above == {release for release in releases if place in made_of[release]}
    assert any(place in records for place in some for records in made_of.values())


@given(st.integers(0, 2**16), st.integers(3, 12))
@settings(max_examples=3)
def test_whatever_was_published_both_ways_find_the_same(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    ring = MemoryRing(seed, target=2.0)
    ring.round(count)
    ring.round(count)
    every = published(ring)
    with opened(lake_of(ring.log, tmp_path_factory.mktemp("lakes") / "lake", rows=9), seconds=120) as lake:
        assert pairs(trace(lake, every, up=True).edges) == above(expected(ring), set(every))


def test_the_way_down_ends_at_the_bytes_that_were_published(ring: MemoryRing, lake: LakeQuery) -> None:
    release = next(at for at, event, _ in events(ring, "releases.history") if isinstance(event, ReleasePromoted))
    found = trace(lake, [release], up=False)
    ends = [edge for edge in found.edges if edge.lower.topic in PUBLISHED]
    assert {edge.how for edge in ends} == {"", "by a foreign id"}
    for edge in ends:
        raw = ring.log.records[edge.lower.topic, edge.lower.partition][edge.lower.offset].value
        assert json.loads(raw or b"")["id"] == found.records[edge.upper].id


def test_of_rows_drawn_among_those_of_releases_both_ways_are_one_and_end_at_what_was_published(
    ring: MemoryRing, lake: LakeQuery
) -> None:
    """`tests/real/formats.py` does so with 200 rows of real corpora."""
    checked = check_rows(ring.log, lake, 10, seed=1)
    assert checked.faults == []
    assert (checked.rows, checked.published > 10, checked.releases > 1) == (10, True, True)
    swapped = MemoryLog(ring.log.count)
    swapped.records = dict(ring.log.records)
    for partition in range(ring.log.count):
        published = ring.log.records["interactions", partition]
        values = [record.value for record in published]
        swapped.records["interactions", partition] = [
            record._replace(value=value) for record, value in zip(published, [*values[1:], values[0]], strict=True)
        ]
    assert any("is of" in fault for fault in check_rows(swapped, lake, 2, seed=1).faults)


def test_an_id_is_found_whatever_it_is_of(ring: MemoryRing, lake: LakeQuery) -> None:
    [(_, release)] = [
        (at, event.data) for at, event, _ in events(ring, "releases.history") if isinstance(event, ReleasePromoted)
    ][:1]
    for name, kind in (
        (release.release_id, "release"),
        (release.version_id, "version"),
        (release.evaluation_id, "evaluation"),
        (release.batch_ids[0], "batch"),
        ("i-1", "interaction"),
        ("f-1", "event"),
        ("signals/0/0", "signal"),
        ("interactions/1/0", "published"),
    ):
        found, places = places_of(lake, name or "")
        assert (found, bool(places)) == (kind, True)
    assert places_of(lake, "nothing") == places_of(lake, "") == places_of(lake, "' OR 1=1 --") == ("", [])
    assert places_of(lake, "signals/0/99999")[1] == []
    assert places_of(lake, "signals/0/²")[1] == [], "which is a digit, and no number"


def test_every_interaction_has_a_state_with_a_reason(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    said = {"kind": "success", "score": 100}
    base = {"agent": {"name": "bot"}, "artifact_type": "sql", "model": "tiny", "prompt": "how many?"}

    def answer(name: str, **more: Any) -> None:
        data = base | {"interaction_id": name, "output": f"select {name}", "prompt_group": name, **more}
        ring.publish("interactions", event("interaction.recorded", data, id=name))

    def feedback(name: str) -> None:
        ring.publish(
            "feedback", event("feedback.recorded", said | {"interaction_id": name, "feedback_id": f"f{name}"}, id=f"f{name}")
        )

    ring.round(16, odd=False)
    answer("silent")
    feedback("stranger")
    answer("blank", output="  ")
    feedback("blank")
    answer("private", train=False)
    feedback("private")
    answer("fresh")
    feedback("fresh")
    answer("gone")
    feedback("gone")
    ring.round(0)
    ring.publish("interactions", event("interaction.retracted", {"interaction_id": "gone"}, id="r"))
    dead = ring.publish("feedback", b"{")
    waits = ring.publish("feedback", event("feedback.recorded", said | {"ref": {"system": "x", "id": "y"}}, id="fx"))
    ring.round(0)
    expiry = InteractionExpiry(interaction_id="old", last_heard="2026-01-01T00:00:00Z")
    expired = make(InteractionExpired, expiry, id="x", writer="reward", time_ms=1)
    ring.log.append("signals", 0, b"old", encode(expired), written_headers("signals"))
    drawn = [event.data for _, event, _ in events(ring, "examples") if isinstance(event, PromptDrawn)]
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        asked = [learning_state(lake, prompt.interaction_id).state for prompt in drawn]
        states = {
            name: learning_state(lake, name)
            for name in (
                "silent",
                "stranger",
                "blank",
                "private",
                "fresh",
                "gone",
                "old",
                "nobody",
                *(f"i-{number}" for number in range(1, 17)),
            )
        }
        fates = [published_fate(lake, RecordPlace("feedback", record.partition, record.offset)) for record in (dead, waits)]
    assert {name: state.state for name, state in states.items() if not name.startswith("i-")} == {
        "silent": "waiting for feedback",
        "stranger": "waiting for its interaction",
        "blank": "rejected",
        "private": "rejected",
        "fresh": "in an open bucket",
        "gone": "withdrawn",
        "old": "expired",
        "nobody": "unknown",
    }
    assert "not_json" in fates[0]
    assert "waits for its foreign id to be linked" in fates[1]
    assert states["gone"].reason == "retracted"
    of_batches = {state.state for name, state in states.items() if name.startswith("i-")}
    assert {"released", "compared on"} <= of_batches
    assert set(asked) == {"compared on"}
    assert all(state.reason and "\n" not in state.reason for state in states.values())
    released = next(state for state in states.values() if state.state == "released")
    assert released.releases


def test_an_example_of_which_more_may_be_said_has_a_state_that_says_so(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    ring.bodies["reward"]["settle_after_days"] = {"explicit_positive": 7.0}
    ring.bodies["curate"]["provisional"] = "wait"
    base = {"agent": {"name": "bot"}, "artifact_type": "sql", "model": "tiny", "prompt": "how many?"}
    for name in ("open", "settled"):
        data = base | {"interaction_id": name, "output": f"select {name}", "prompt_group": GROUPS["train"][0]}
        ring.publish("interactions", event("interaction.recorded", data, id=name))
        said = {"kind": "explicit_positive", "interaction_id": name, "feedback_id": f"f{name}"}
        ring.publish("feedback", event("feedback.recorded", said, id=f"f{name}"))
    ring.round(0)
    written = [(place, found.data) for place, found, _ in events(ring, "examples") if isinstance(found, ExampleRewarded)]
    for place, example in written:
        if example.interaction_id == "settled":
            data = {name: getattr(example, name) for name in ("example_id", "revision", "interaction_id", "bucket")}
            settled = event("example.settled", data, id="settled", source="headrace:reward")
            ring.log.append("examples", place.partition, example.bucket.encode(), settled, written_headers("examples"))
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        found = {name: learning_state(lake, name) for name in ("open", "settled")}
        rows = lake.run("SELECT maturity FROM examples").rows
        assert lake.run("SELECT example_id FROM settlements").rows == [(found["settled"].example_id,)]
    assert {state.state for state in found.values()} == {"in an open bucket"}
    assert ["is provisional" in found[name].reason for name in ("open", "settled")] == [True, False]
    assert rows == [("provisional",)] * 2


def test_an_interaction_of_which_only_a_prompt_was_drawn_has_a_state_too(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    test = GROUPS["test"]
    base = {"agent": {"name": "bot"}, "artifact_type": "sql", "model": "tiny", "output": "select 1", "train": True}

    def answer(name: str, group: str) -> None:
        data = base | {"interaction_id": name, "prompt": f"how many {name}?", "prompt_group": group}
        ring.publish("interactions", event("interaction.recorded", data, id=name))

    answer("asked", test[0])
    ring.round(30, odd=False)
    answer("again", test[0])
    answer("waits", test[1])
    answer("gone", test[2])
    ring.round(0)
    ring.publish("interactions", event("interaction.retracted", {"interaction_id": "gone"}, id="r"))
    ring.round(0)
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        states = {name: learning_state(lake, name) for name in ("asked", "again", "waits", "gone")}
        pools = lake.run("SELECT pool, count(*) FROM members GROUP BY pool").rows
        [(prompts,)] = lake.run("SELECT count(*) FROM drawn_prompts WHERE prompt LIKE 'how many %'").rows
    assert {name: (state.state, state.reason) for name, state in states.items()} == {
        "asked": ("compared on", "versions are asked its prompt; nothing is learnt from it"),
        "again": (
            "waiting for feedback",
            "nobody has said yet how good it is; its prompt was drawn for tests, and is not kept: same_group",
        ),
        "waits": (
            "waiting for feedback",
            "nobody has said yet how good it is; its prompt was drawn for tests, and waits to be named by a batch",
        ),
        "gone": ("withdrawn", "retracted"),
    }
    assert {"prompts", "test_pool", "validation_pool"} <= {pool for pool, _ in pools}
    assert prompts >= 4


def test_what_was_compared_on_or_avoided_is_not_called_learnt(ring: MemoryRing, lake: LakeQuery) -> None:
    batches = [event.data for _, event, _ in events(ring, "batches") if isinstance(event, BatchReady)]
    rewarded = [event.data for _, event, _ in events(ring, "examples") if isinstance(event, ExampleRewarded)]
    interaction = {example.example_id: example.interaction_id for example in rewarded}
    tests = {
        row.example_id for batch in batches for row in (*batch.test_pool, *(batch.prompts or ())) if row.example_id in interaction
    }
    assert tests
    states = [learning_state(lake, interaction[name]) for name in sorted(tests)]
    assert {state.state for state in states} <= {"compared on", "withdrawn"}
    assert not any(state.releases for state in states)


def test_what_is_said_of_a_session_is_traced_through_what_was_derived_of_it(tmp_path: Path) -> None:
    ring = MemoryRing(1, partitions=1)
    ring.bodies["intake"]["sessions"] = True
    ring.bodies["attribute"]["credit"] = "all"
    base = {"agent": {"name": "bot"}, "artifact_type": "sql", "model": "tiny", "prompt": "how many?"}

    def answer(name: str, session: str) -> RecordPlace:
        data = base | {"interaction_id": name, "output": f"select {name}", "prompt_group": name, "session_id": session}
        return RecordPlace(*ring.publish("interactions", event("interaction.recorded", data, id=name))[:3])

    def said(about: str, name: str, session: str, **more: Any) -> RecordPlace:
        data = {"feedback_id": name, "session_id": session, **more}
        return RecordPlace(*ring.publish("feedback", event(about, data, id=f"e-{name}-{about}"))[:3])

    def turn() -> None:
        ring._fold("intake", "attribute", "reward", "curate")

    word = {"kind": "success", "score": 100}
    first = answer("one", "s")
    good = said("feedback.recorded", "good", "s", **word)
    undone = said("feedback.recorded", "undone", "s", **word)
    turn()
    second = answer("two", "s")  # credit is shared anew
    taken = said("feedback.retracted", "undone", "s")
    waits = said("feedback.recorded", "waits", "nobody", **word)
    turn()
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        for place, name in ((good, "good"), (undone, "e-undone-feedback.recorded"), (taken, "undone")):
            kind, found = places_of(lake, name)
            assert (kind, place in found) == ("published", True)
            above = trace(lake, [place], up=True)
            assert above.of("signal")
            assert {edge.how for edge in above.edges if edge.lower == place} == {"by its session"}
        newest: dict[str, RecordPlace] = {}
        for place, found_event, _ in events(ring, "examples"):
            if isinstance(found_event, ExampleRewarded):
                newest[found_event.data.interaction_id] = place
        assert set(newest) == {"one", "two"}
        for name, answered in (("one", first), ("two", second)):
            down = trace(lake, [newest[name]], up=False)
            assert {good, answered} <= set(down.records)
            assert newest[name] in trace(lake, [good], up=True).records
            assert {edge for edge in down.edges if edge.lower == good} <= set(trace(lake, [good], up=True).edges)
        for name in ("waits", "e-waits-feedback.recorded", str(waits)):
            for up in (False, True):
                shown = lineage_view(lake, name, up=up)
                assert shown is not None
                assert "its session" in (shown[0].fate or "")
        shown = lineage_view(lake, "good", up=False)
        assert shown is not None
        assert shown[0].fate is None


def test_feedback_that_waits_for_its_foreign_id_is_found_by_its_own(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    said = {"kind": "success", "score": 100, "feedback_id": "early", "ref": {"system": "x", "id": "y"}}
    ring.publish("feedback", event("feedback.recorded", said, id="e-early"))
    ring.turn()
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        for name in ("early", "e-early"):
            shown = lineage_view(lake, name, up=True)
            assert shown is not None
            assert "waits for its foreign id to be linked" in (shown[0].fate or "")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def headrace(folder: LakeFolder, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        return invoke([*arguments, "--lake", str(folder.path)]), *capsys.readouterr()

    return run


def test_the_commands_print_a_tree_or_json_and_refuse_what_is_not_there_in_a_line(ring: MemoryRing, headrace: Run) -> None:
    release = next(event.data for _, event, _ in events(ring, "releases.history") if isinstance(event, ReleasePromoted))
    code, out, _ = headrace("explain", release.release_id)
    assert (code, out.splitlines()[0].startswith(f"release {release.release_id}  promoted")) == (0, True)
    assert "      signal" in out
    assert "        published  interactions/" in out
    code, out, _ = headrace("explain", "--json", release.release_id)
    told = json.loads(out)
    assert (code, told["kind"], {record["kind"] for record in told["records"]} >= {"batch", "example", "published"}) == (
        0,
        "release",
        True,
    )
    code, out, _ = headrace("impact", "--json", "i-1")
    told = json.loads(out)
    assert (code, told["kind"], bool(told["state"]["reason"])) == (0, "interaction", True)
    for command in ("explain", "impact"):
        code, out, error = headrace(command, "no-such-thing")
        assert (code, out, error.count("\n")) == (1, "", 1)
        assert "has no such release, batch, example, interaction or event" in error


def test_what_a_derivation_saw_is_traced_to_both_turns_shown_as_derived_and_filtered_and_goes_with_either(tmp_path: Path) -> None:
    ring = MemoryRing(1, partitions=1)
    ring.bodies["intake"] |= {"sessions": True, "sketches": True}
    ring.bodies["attribute"]["derive"] = {"rephrased": {}}
    ring.bodies["reward"]["sessions"] = True
    base = {"agent": {"name": "bot"}, "artifact_type": "sql", "model": "tiny", "session_id": "s"}

    def turn(name: str, prompt: str) -> RecordPlace:
        data = base | {"interaction_id": name, "prompt": prompt, "output": f"select {name}", "prompt_group": name}
        return RecordPlace(*ring.publish("interactions", event("interaction.recorded", data, id=name))[:3])

    first, second = turn("one", "total sales by region"), turn("two", "total sales by region please")
    ring.publish("feedback", event("feedback.recorded", {"interaction_id": "two", "feedback_id": "f", "kind": "success"}, id="f"))
    ring._fold("intake", "attribute", "reward", "curate")
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        rows = {row.interaction_id: row for row in newest_rows(lake, ExampleFilter(), 10)}
        assert {name: (row.voices, row.derived) for name, row in rows.items()} == {"one": (1, 1), "two": (1, 0)}
        for wanted, names in (("only", {"one"}), ("without", {"two"})):
            assert {row.interaction_id for row in newest_rows(lake, ExampleFilter(derived=wanted), 10)} == names
        [example] = [at for at, said, _ in events(ring, "examples") if isinstance(said, ExampleRewarded) and said.data.derived]
        down = trace(lake, [example], up=False)
        assert {first, second} <= set(down.records)
        assert "seen by a derivation" in {edge.how for edge in down.edges if edge.lower == second}
        assert example in trace(lake, [second], up=True).records
        assert lake.all("SELECT interaction_id, derived_by FROM feedback WHERE derived_by IS NOT NULL") == [
            ("one", "rephrased@1")
        ]
    ring.publish("interactions", event("interaction.retracted", {"interaction_id": "two"}, id="gone"))
    for _ in range(2):  # reward tells the session, which takes back what was seen
        ring._fold("intake", "attribute", "reward", "curate")
    gone = [said.data for _, said, _ in events(ring, "examples") if isinstance(said, ExampleWithdrawn)]
    assert {each.interaction_id: each.reason for each in gone} == {"two": "retracted", "one": "feedback_retracted"}
