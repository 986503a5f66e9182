"""What a worker or trainer waits for before it runs: the broker, and the topics of its stages. Knows no task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from headrace_schemas.topology import StageTopology, changelog
from headrace_streams.kafka import clients
from headrace_streams.settings import Settings

log = logging.getLogger("headrace")

RETRY_SECONDS = 1.0
SAY_SECONDS = 2.0  # without an answer, before the wait is mentioned


async def wait_for_topics(
    settings: Settings,
    stages: Sequence[StageTopology],
    *,
    patient: bool = False,
    note: Callable[[str], None] = lambda reason: None,
) -> None:
    """Returns when the broker has every topic of `stages`; a broker that is away is waited for, and so are missing topics if
    `patient`. Else raises TopicMissing. `note` is told what it waits for each time; the log says it when it changes."""
    topics = {"rules", "dead-letters"}
    for stage in stages:
        topics |= {*stage.inputs, *stage.outputs, *(changelog(stage.name, topic).name for topic in stage.inputs)}
    said = ""

    def say(what: str, reason: object) -> None:
        nonlocal said
        note(f"{what}: {reason}")
        if said != what:
            log.warning("waiting %s: %s", what, reason)
        said = what

    broker = f"for the broker at {settings.bootstrap}"
    while True:
        later = asyncio.get_running_loop().call_later(SAY_SECONDS, say, broker, "no answer yet")
        try:
            await clients.partition_counts(settings, sorted(topics))
            return
        except clients.TopicMissing as error:
            if not patient:
                raise
            say("for topics", error)
        except (clients.BrokerUnavailable, OSError) as error:
            say(broker, error)
        finally:
            later.cancel()
        await asyncio.sleep(RETRY_SECONDS)
