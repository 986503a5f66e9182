"""The stage table: which fold reads which topics and writes which. Both drivers (live tasks and replay) run this table.

`version` is raised when the code would decide otherwise under the same policy; replay then says "not comparable". The boxes of
a stage, and `dead`, add up to its input records.
"""

from __future__ import annotations

from headrace_processors.curate import fold as curate
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.intake import fold as intake
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.link import fold as link
from headrace_processors.link.policy import LinkPolicy
from headrace_processors.release import fold as release
from headrace_processors.release.policy import ReleasePolicy
from headrace_processors.reward import fold as reward
from headrace_processors.reward.policy import RewardPolicy
from headrace_streams.runtime.stage import Stage

STAGES: tuple[Stage, ...] = (
    Stage(
        name="intake",
        inputs=("interactions", "feedback"),
        outputs=("signals", "refs"),
        version=1,
        policy=IntakePolicy,
        build=intake.build,
        boxes=("signals",),
    ),
    Stage(
        name="link",
        inputs=("refs",),
        outputs=("signals",),
        version=1,
        policy=LinkPolicy,
        build=link.build,
        boxes=("resolved", "waiting"),
    ),
    Stage(
        name="reward",
        inputs=("signals",),
        outputs=("examples", "rejections", "signals"),
        version=1,
        policy=RewardPolicy,
        build=reward.build,
        boxes=("applied", "duplicate", "conflict", "waiting"),
    ),
    Stage(
        name="curate",
        inputs=("examples",),
        outputs=("batches", "rejections"),
        version=curate.VERSION,
        policy=CuratePolicy,
        build=curate.build,
        boxes=curate.BOXES,
    ),
    Stage(
        name="release",
        inputs=("outcomes",),
        outputs=("releases", "releases.history", "examples"),
        version=release.VERSION,
        policy=ReleasePolicy,
        build=release.build,
        boxes=release.BOXES,
    ),
)
