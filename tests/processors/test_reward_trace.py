"""A reward term by term: what the trace says adds up to what was published, byte for byte, over every recorded history."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from headrace_processors.reward.trace import RewardTrace
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import rounded
from headrace_schemas.codec import decode
from headrace_schemas.derived import Example
from headrace_schemas.events import ExampleRewarded
from support import histories
from support.histories import FOLDER, unpack

REWARD = next(stage for stage in STAGES if stage.name == "reward")
FILES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("reward.v*.jsonl"))]


class Traced(NamedTuple):
    published: Example
    raw: bytes
    trace: RewardTrace | None


@cache
def traced(path: Path) -> list[Traced]:
    return list(_traced(path))


def _traced(path: Path) -> Iterator[Traced]:
    """Every example of a history with the trace of its reward, taken right after the record that led to it."""
    for line, runner in histories.folded(histories.read(path), REWARD):
        fold: Any = runner.fold
        for output in line.outputs:
            raw = unpack(output.value)
            if output.topic == "examples" and isinstance(event := decode(raw), ExampleRewarded):
                yield Traced(event.data, raw or b"", fold.trace(runner.state, event.data.interaction_id))


@pytest.mark.parametrize("path", FILES)
def test_the_last_total_is_what_was_published_byte_for_byte(path: Path) -> None:
    found = traced(path)
    assert len(found) > 20
    for published, raw, trace in found:
        assert trace is not None, published.example_id
        for name, terms in (("reward", trace.terms), ("quality", trace.quality)):
            assert msgspec.json.encode(rounded(terms[-1].total)) in raw, name
            assert rounded(terms[-1].total) == getattr(published, name), name
        assert encode_parts(trace.result.components) in raw
        assert rounded(trace.difficulty[-1].total) == published.components.difficulty
        assert (trace.summary.voices, trace.summary.contradicted) == (published.voices, published.contradicted)
        assert len(trace.voices) == published.voices


def encode_parts(components: Any) -> bytes:
    return b'"components":' + msgspec.json.encode(components)


@pytest.mark.parametrize("path", FILES)
def test_what_the_terms_add_comes_to_their_totals(path: Path) -> None:
    for _, _, trace in traced(path):
        assert trace is not None
        for terms in (trace.terms, trace.quality, trace.difficulty):
            for number, term in enumerate(terms):
                added = math.fsum(each.adds for each in terms[: number + 1])
                assert math.isclose(added, term.total, rel_tol=1e-9, abs_tol=1e-12), term.name


@pytest.mark.parametrize("path", FILES)
def test_validation_and_feedback_are_means_over_the_voices_that_speak(path: Path) -> None:
    for published, _, trace in traced(path):
        assert trace is not None
        speaking = [voice for voice in trace.voices if voice.speaks]
        for number, name in enumerate(("validation", "feedback")):
            weights = [voice.weights[number] for voice in speaking]  # 1 under rule versions before 5
            said = math.fsum(weight * getattr(voice, name) for weight, voice in zip(weights, speaking, strict=True))
            mean = said / max(1.0, math.fsum(weights))
            assert rounded(mean) == getattr(published.components, name)


def test_the_histories_have_what_a_trace_tells_apart() -> None:
    """Else the tests above would say little."""
    traces = [trace for path in FOLDER.glob("reward.v*.jsonl") for _, _, trace in traced(path) if trace is not None]
    assert any(trace.terms[0].name == "correction" for trace in traces)
    assert any(len(trace.voices) > 1 for trace in traces)
    assert any("squash" in term.policy and term.policy["squash"] == "clip" for trace in traces for term in trace.terms)
    assert any("preference" in voice.policy for trace in traces for voice in trace.voices)
    assert any(trace.summary.contradicted for trace in traces)
    assert any("difficulty_on_negative" in term.policy for trace in traces for term in trace.terms)
