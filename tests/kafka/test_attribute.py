"""Words on sessions on a real broker: workers are killed while they are credited, and each is there once; taken back, none. What
a derivation saw goes when an interaction that it was seen in is retracted."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from math import fsum
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.verify import verify
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import ExampleRewarded, FeedbackRecorded, FeedbackRetracted
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.settings import Settings
from support.live import position_of, read_ended, until
from support.ring import Ring

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=60), pytest.mark.timeout(400)]
SESSIONS, TURNS, KILLS = 40, 3, 3
Shares = dict[str, dict[str, float]]


async def standing(settings: Settings, *, derived: bool = False) -> Shares:
    """What is credited to the interactions of each session, or `derived` for them, by session."""
    found: dict[tuple[str, str], FeedbackRecorded] = {}
    for record in await read_ended(settings, "signals"):
        event = decode(record.value, tuple(record.headers))
        if isinstance(event, FeedbackRecorded) and event.data.attributed_from is not None:
            if (event.data.attributed_from.derived_by is not None) is not derived:
                continue
            key = event.source, event.data.feedback_id or ""
            assert key not in found, "derived twice"
            found[key] = event
        elif isinstance(event, FeedbackRetracted):
            found.pop((event.source, event.data.feedback_id), None)
    shares: Shares = defaultdict(dict)
    for event in found.values():
        assert event.data.attributed_from is not None
        shares[event.data.attributed_from.session_id][event.data.interaction_id or ""] = event.data.attributed_from.share
    return shares


async def counted(settings: Settings, stage: str, topic: str, *counters: str) -> int:
    partitions = await KafkaLog(settings).partitions(topic)
    positions = [await position_of(settings, stage, topic, partition) for partition in range(partitions)]
    return sum(position.counters.get(name, 0) for position in positions for name in counters)


def test_what_is_said_of_sessions_is_credited_once_however_often_workers_are_killed(settings: Settings, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[attribute]\ncredit = "decay"\n[attribute.derive.rephrased]\n')
    settings = settings.model_copy(update={"policy": policy})
    outbox = tmp_path / "outbox.db"

    async def credited(words: int) -> bool:
        return await counted(settings, "attribute", "sessions", "credited", "retracted") >= words

    async def said(words: int) -> bool:
        return await counted(settings, "attribute", "sessions", "joined", "credited", "waiting") >= words

    async def settled() -> bool:
        for stage, topic in (("intake", "feedback"), ("attribute", "sessions"), ("reward", "signals")):
            spans = await KafkaLog(settings).offsets([topic])
            for (_, partition), span in spans.items():
                if (await position_of(settings, stage, topic, partition)).next_offset < span.end - 2:
                    return False
        return True

    with (
        Ring(settings, tmp_path / "ring") as ring,
        headrace.Recorder(settings.bootstrap, deployment=settings.deployment, agent="bot", outbox=outbox) as recorder,
    ):
        ring.start("worker")
        for kill in range(KILLS + 1):
            for number in range(kill, SESSIONS, KILLS + 1):
                session = f"s{number}"
                if number % 2:  # the word comes before what it is about
                    recorder.feedback(kind="success", score=90, session_id=session, feedback_id=session)
                for turn in range(TURNS):
                    recorder.interaction(
                        artifact_type="sql", model="tiny", prompt=f"{session} {turn}?", output="select 1", session_id=session
                    )
                if not number % 2:
                    recorder.feedback(kind="success", score=90, session_id=session, feedback_id=session)
            assert recorder.flush(60), recorder.trouble
            if kill < KILLS:
                asyncio.run(until(lambda kill=kill: said(kill * 20 + 1)))  # type: ignore[misc]
                ring.kill("worker")
                ring.start("worker")
        for number in range(1, SESSIONS, 2):  # those came first: what had happened by then was nothing
            recorder.feedback(kind="success", score=90, session_id=f"s{number}", feedback_id=f"again-s{number}")
        assert recorder.flush(60), recorder.trouble
        asyncio.run(until(lambda: credited(SESSIONS)))
        shares = asyncio.run(standing(settings))
        assert len(shares) == SESSIONS
        assert all(len(of) == TURNS and fsum(of.values()) == pytest.approx(1, abs=1e-9) for of in shares.values())
        for number in range(SESSIONS):
            name = f"again-s{number}" if number % 2 else f"s{number}"
            recorder.retract_feedback(name, session_id=f"s{number}")
        assert recorder.flush(60), recorder.trouble
        ring.kill("worker")
        ring.start("worker")
        asyncio.run(until(lambda: credited(2 * SESSIONS)))
        asyncio.run(until(settled))
        assert asyncio.run(standing(settings)) == {}

        asked: dict[str, Any] = {"artifact_type": "sql", "model": "tiny", "output": "select 1", "session_id": "again"}
        first, second = (recorder.interaction(prompt=f"total sales by region {end}", **asked) for end in ("", "please"))

        async def seen(wanted: Shares) -> bool:
            return await standing(settings, derived=True) == wanted

        asyncio.run(until(lambda: seen({"again": {first.interaction_id: 1.0}})))
        recorder.retract(second)
        asyncio.run(until(lambda: seen({})))
        asyncio.run(until(settled))
    reports = asyncio.run(verify(KafkaLog(settings), STAGES))
    assert {name: report.differences for name, report in reports.items() if report.differences} == {}
    assert asyncio.run(rewarded(settings)) == SESSIONS * TURNS + 1
    assert asyncio.run(counted(settings, "attribute", "sessions", "in")) == asyncio.run(
        counted(settings, "attribute", "sessions", *STAGES_BY_NAME["attribute"].counters, "dead")
    )


async def rewarded(settings: Settings) -> int:
    """Interactions that were an example at some time."""
    examples = [decode(record.value, tuple(record.headers)) for record in await read_ended(settings, "examples")]
    return len({event.data.interaction_id for event in examples if isinstance(event, ExampleRewarded)})
