"""The one table of stages: name, inputs, outputs, further reads, counters. Changelogs follow from it. Knows no stage's code.

README's ring, AsyncAPI's writers, the worker, `status` and `replay --verify` are drawn from it.
"""

from __future__ import annotations

from msgspec import Struct

from headrace_schemas.delays import DELAY
from headrace_schemas.topics import BY_NAME, MIB, TOPICS, Compaction, Topic, may_grow


class StageTopology(Struct, frozen=True, kw_only=True):
    """One stage. The `counters`, and `dead`, add up to its input records; `lookups` are topics that it reads beside its input.
    `tallies` begin the names of counters of something else than records, of which there may be any number."""

    name: str
    description: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    counters: tuple[str, ...]
    lookups: tuple[str, ...] = ()
    tallies: tuple[str, ...] = ()

    def is_tally(self, counter: str) -> bool:
        """Whether a counter does not count input records."""
        return counter.startswith(self.tallies)


DEAD = "dead"  # the counter of dead letters, which every stage has
RECORDS = "in"  # the counter of input records
SCRUBBED = "scrubbed_"  # and a kind of private text: how many places of it got a placeholder
PROMPTS = "prompt_"  # and what became of an interaction that could be drawn: drawn, or why it was not
INTERACTIONS = "interactions_"  # and seen, or joined: how many came, and of how many something was said
FEEDBACK = "feedback_"  # and seen, or joined: how much came, and how much met what it is about
DERIVED = "derived_"  # and a derivation: how much of what it saw stands
LABELS = "label_"  # and provisional, final or late: examples of which more may be said, is not expected, was said nevertheless

TOPOLOGY: tuple[StageTopology, ...] = (
    StageTopology(
        name="intake",
        description="validate, scrub, re-key",
        inputs=("interactions", "feedback"),
        outputs=("signals", "refs", "sessions"),
        counters=("signals",),
        tallies=(SCRUBBED,),
    ),
    StageTopology(
        name="link",
        description="foreign ids become interaction ids",
        inputs=("refs",),
        outputs=("signals",),
        counters=("resolved", "waiting", "expired"),
        tallies=(FEEDBACK, DELAY),
    ),
    StageTopology(
        name="attribute",
        description="what is said of a session, and seen in it, becomes feedback on its interactions",
        inputs=("sessions",),
        outputs=("signals",),
        counters=("joined", "left", "reported", "credited", "waiting", "retracted", "duplicate", "conflict", "expired", "ticks"),
        tallies=(DERIVED,),
    ),
    StageTopology(
        name="reward",
        description="an interaction and all that is said of it become an example",
        inputs=("signals",),
        outputs=("examples", "rejections", "signals", "sessions"),
        counters=("applied", "duplicate", "conflict", "waiting", "expired"),
        lookups=("keys",),
        tallies=(PROMPTS, INTERACTIONS, FEEDBACK, DELAY, LABELS),
    ),
    StageTopology(
        name="curate",
        description="what is worth learning, and when a bucket is worth a run",
        inputs=("examples",),
        outputs=("batches", "rejections", "assessments"),
        counters=("admitted", "replaced", "waiting", "rejected", "withdrawn", "prompts", "ticks", "tracked", "settled"),
        lookups=("keys",),
    ),
    StageTopology(
        name="train",
        description="a batch becomes an adapter and its evaluation",
        inputs=("batches",),
        outputs=("runs", "versions", "outcomes"),
        counters=("trained", "failed", "held", "strange"),
        lookups=("examples", "releases", "releases.history", "runs", "dead-letters", "keys"),
    ),
    StageTopology(
        name="release",
        description="what is served, by policy and request",
        inputs=("outcomes",),
        outputs=("releases", "releases.history", "examples"),
        counters=("answered",),
    ),
)
STAGES_BY_NAME: dict[str, StageTopology] = {stage.name: stage for stage in TOPOLOGY}


def changelog(stage: str, topic: str) -> Topic:
    """The compacted topic with the state and position of `stage` over `topic`; same partition count as its input."""
    return Topic(
        name=f"state.{stage}.{topic}",
        key="state key",
        description=f"state and position of {stage} over {topic}",
        writers=(stage,),
        compaction=Compaction(),
        max_bytes=8 * MIB,
        packed=True,
        may_grow=may_grow(topic),
        later=topic in BY_NAME and BY_NAME[topic].later,
    )


CHANGELOGS: tuple[Topic, ...] = tuple(changelog(stage.name, topic) for stage in TOPOLOGY for topic in stage.inputs)
ALL_TOPICS: tuple[Topic, ...] = TOPICS + CHANGELOGS
LATER = frozenset(topic.name for topic in ALL_TOPICS if topic.later)
