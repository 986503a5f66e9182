"""Dead letters redriven on a real broker: each record comes back once, whoever asks, and the log still verifies."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.stages import STAGES
from headrace_schemas.codec import encode
from headrace_schemas.derived import RecordError
from headrace_streams.dead_letters import redrive as redriving
from headrace_streams.dead_letters.letters import LetterFilter
from headrace_streams.dead_letters.repair import REDRIVEN, Edit
from headrace_streams.kafka.publisher import AtomicPublisher
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.stage import Record
from headrace_streams.runtime.step import dead_letter
from headrace_streams.settings import Settings
from support.live import ended, publish, read_ended, run_until_read
from support.signals import START_MS, feedback

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=20), pytest.mark.timeout(180)]
(INTAKE,) = (stage for stage in STAGES if stage.name == "intake")
Run = Callable[..., tuple[int, str, str]]
FIX = Edit(fields={"data.scale": [0, 10]})


def bad(*numbers: int) -> list[tuple[bytes | None, bytes]]:
    """Feedback with a score of 7 of 5."""
    return [(None, feedback(f"f{number}", f"i{number}", score=7, scale=[0, 5])) for number in numbers]


async def taken_in(settings: Settings) -> None:
    await ended(settings, "feedback")
    for partition in range(settings.partitions):
        await run_until_read(FoldTask(INTAKE, IntakePolicy().body(), "feedback", partition, settings))


async def redriven(settings: Settings) -> Counter[str]:
    """How often each letter's record is on the log again."""
    places = [dict(record.headers).get(REDRIVEN) for record in await read_ended(settings, "feedback")]
    return Counter(place.decode() for place in places if place is not None)


def test_a_record_comes_back_once_after_a_fix_and_the_log_still_verifies(settings: Settings, headrace: Run) -> None:
    asyncio.run(publish(settings, "feedback", 0, [*bad(1, 2), (b"k", feedback("f3", "i3")), (None, b"{"), *bad(4)]))
    asyncio.run(taken_in(settings))
    chosen = ["dead-letters", "redrive", "--topic", "feedback", "--set", "data.scale=[0,10]"]

    code, out, _ = headrace(*chosen, "--dry-run", "--json")
    told = json.loads(out)
    assert (code, told["letters"], len(told["redriven"])) == (0, 4, 3)
    assert [(row["why"], row["count"]) for row in told["not_redriven"]] == [("not_json", 1)]
    assert headrace(*chosen)[0] == 2  # no reason
    assert asyncio.run(redriven(settings)) == {}

    code, out, _ = headrace(*chosen, "--reason", "the scale was wrong")
    assert (code, out.splitlines()[-1]) == (0, "3 of 4 redriven; 0 were before, 1 can't be")
    assert asyncio.run(redriven(settings)) == {"feedback/0/0": 1, "feedback/0/1": 1, "feedback/0/4": 1}
    asyncio.run(taken_in(settings))
    ids = sorted(json.loads(record.value)["data"]["feedback_id"] for record in asyncio.run(read_ended(settings, "signals")))
    assert ids == ["f1", "f2", "f3", "f4"]

    code, out, _ = headrace(*chosen, "--reason", "once more")
    assert (code, out.splitlines()[-1]) == (1, "0 of 4 redriven; 3 were before, 1 can't be")
    assert "feedback/0/0 was redriven before: it is feedback/0/5" in out
    assert asyncio.run(redriven(settings)).total() == 3

    (row,) = (row for row in map(json.loads, headrace("dead-letters", "list", "--json")[1].splitlines()) if row["at"][-1] == "1")
    assert (row["redriven"]["reason"], row["redriven"]["edited"]) == ("the scale was wrong", ["data.scale"])
    assert row["redriven"]["published"] == {"topic": "feedback", "partition": 0, "offset": 6}
    groups = [json.loads(line) for line in headrace("dead-letters", "groups", "--json")[1].splitlines()]
    assert [(group["code"], group["field"], group["source"], group["letters"], group["redriven"]) for group in groups] == [
        ("out_of_range", "data.score", "people:test", 3, 3),
        ("not_json", None, None, 1, 0),
    ]
    assert "wrong: " in headrace("dead-letters", "show", "feedback/0/0")[1]
    assert headrace("dead-letters", "redrive", "feedback/1/99", "--reason", "x")[0] == 1
    code, _, err = headrace("replay", "--verify")
    assert (code, err) == (0, "")


def test_two_redrives_at_once_publish_each_record_once(settings: Settings) -> None:
    async def main() -> None:
        await publish(settings, "feedback", 0, bad(*range(30)))
        await taken_in(settings)
        work = [
            redriving.redrive(settings, LetterFilter(topic="feedback"), FIX, reason="both", requested_by=name) for name in "ab"
        ]
        ended = await asyncio.gather(*work, return_exceptions=True)
        assert all(isinstance(each, redriving.RedriveReport | redriving.RedriveFailed) for each in ended)
        await redriving.redrive(settings, LetterFilter(topic="feedback"), FIX, reason="the rest", requested_by=None)
        assert await redriven(settings) == {f"feedback/0/{number}": 1 for number in range(30)}

    asyncio.run(main())


@pytest.mark.parametrize("sends", [1, 5, 9])
def test_a_redrive_that_breaks_in_the_middle_left_nothing_and_the_next_one_does_it_all(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, sends: int
) -> None:
    class Broke(Exception):
        pass

    send, left = AtomicPublisher.send, [sends]

    async def breaks(self: AtomicPublisher, *arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise Broke
        left[0] -= 1
        return await send(self, *arguments, **options)

    async def main() -> None:
        await publish(settings, "feedback", 0, bad(*range(5)))
        await taken_in(settings)
        monkeypatch.setattr(AtomicPublisher, "send", breaks)
        with pytest.raises(Broke):
            await redriving.redrive(settings, LetterFilter(topic="feedback"), FIX, reason="broken", requested_by=None)
        monkeypatch.setattr(AtomicPublisher, "send", send)
        assert await redriven(settings) == {}
        report = await redriving.redrive(settings, LetterFilter(topic="feedback"), FIX, reason="again", requested_by=None)
        assert len(report.redriven) == 5
        assert await redriven(settings) == {f"feedback/0/{number}": 1 for number in range(5)}

    asyncio.run(main())


def test_a_letter_that_no_stage_wrote_is_not_redriven(settings: Settings, headrace: Run) -> None:
    record = Record("interactions", 0, 7, START_MS, START_MS, b"k", feedback(), ())
    letter = dead_letter("intake", record, RecordError(code="stage_error", message="forged")).value
    value = letter if isinstance(letter, bytes) else encode(letter)
    asyncio.run(publish(settings, "dead-letters", 0, [(b"interactions/0/7", value)]))
    code, out, _ = headrace("dead-letters", "redrive", "--all", "--reason", "x", "--json")
    assert (code, json.loads(out)["not_redriven"][0]["why"]) == (1, "unknown_writer")
