"""Which examples of a data set are wanted: by agent, role, reward, time, rater and side. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from headrace_lake.dataset import DatasetExample
from headrace_schemas.times import parse_ns


class DatasetFilter(Struct, frozen=True, kw_only=True):
    """Every field that is given must hold. Times are RFC 3339 and of the event: `since` counts in, `before` does not. `rater`: a
    principal that was heard, as its id or as kind:id."""

    agent: str | None = None
    role: str | None = None
    rater: str | None = None
    split: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    since: str | None = None
    before: str | None = None

    def given(self) -> dict[str, str]:
        """Name and value of what is asked for."""
        named = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: str(value) for name, value in named if value is not None}

    def apply(self, examples: Iterable[DatasetExample]) -> list[DatasetExample]:
        since, before = (None if text is None else parse_ns(text) for text in (self.since, self.before))
        return [one for one in examples if self._holds(one, since, before)]

    def _holds(self, one: DatasetExample, since: int | None, before: int | None) -> bool:
        example = one.example
        time = parse_ns(example.event_time) if since is not None or before is not None else 0
        heard = example.principals or []
        return (
            self.agent in (None, example.agent.name)
            and self.role in (None, example.agent.role)
            and self.split in (None, one.member.split)
            and (self.rater is None or any(self.rater in (who, who.partition(":")[2]) for who in heard))
            and (self.min_reward is None or example.reward >= self.min_reward)
            and (self.max_reward is None or example.reward <= self.max_reward)
            and (since is None or time >= since)
            and (before is None or time < before)
        )
