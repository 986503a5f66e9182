"""Names of deployments that can't be: those that a topic's own name begins with."""

from __future__ import annotations

import pytest

from headrace_schemas.topology import ALL_TOPICS
from headrace_streams.kafka.clients import full_name, short_name
from headrace_streams.settings import Settings, SettingsError, load


@pytest.mark.parametrize("name", ["releases", "state"])
def test_a_name_that_topics_begin_with_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^deployment = '{name}' \(from --deployment\): topics' own names begin with that"):
        load({"deployment": name})


@pytest.mark.parametrize("name", ["headrace", "signals", "release", "states", "rules"])
def test_every_topic_of_a_deployment_has_one_full_name_and_one_short_name(name: str) -> None:
    settings = Settings(deployment=name)
    for topic in ALL_TOPICS:
        full = full_name(settings, topic.name)
        assert full == f"{name}.{topic.name}" == full_name(settings, full)
        assert short_name(settings, full) == topic.name == short_name(settings, topic.name)
