"""Whether the topics of a task are kept as declared: one that somebody made otherwise is refused before a record is folded.

Knows configurations, no record. Times that publishers chose would be fold times, a changelog that is cut by age forgets, and an
output over a topic's limit would be refused for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.errors import TopicAuthorizationFailedError

from headrace_schemas.topics import Topic
from headrace_streams.kafka.clients import full_name
from headrace_streams.kafka.config_requests import topic_configs
from headrace_streams.kafka.diagnosis import RIGHTS
from headrace_streams.kafka.topic_configs import differences
from headrace_streams.runtime.errors import Refused
from headrace_streams.settings import Settings


async def refuse_wrong_topics(client: Any, settings: Settings, label: str, topics: Iterable[Topic]) -> None:
    """Asks with any started `client`. Raises Refused, naming each difference that does harm, or KafkaError."""
    names = {full_name(settings, topic.name): topic for topic in topics}
    try:
        configs = await topic_configs(client, list(names))
    except TopicAuthorizationFailedError as error:
        raise Refused(f"{label}: no right to DESCRIBE_CONFIGS of a topic ({error}): {RIGHTS}") from error
    wrong = [
        f"{name}: {found}"
        for name, topic in names.items()
        if name in configs
        for found in differences(topic, configs[name])
        if found.harmful
    ]
    if wrong:
        raise Refused(f"{label}: {'; '.join(wrong)}: `headrace topics create` mends what can be mended")
