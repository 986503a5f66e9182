# mypy: ignore-errors
"""The job as a stage of Headrace's runtime: exactly once, four tasks in one process, state in a changelog."""

import asyncio

from job import BOOTSTRAP, INPUT, step

from headrace_schemas.topology import StageTopology
from headrace_streams.kafka import compat
from headrace_streams.policy import Policy
from headrace_streams.runtime.fold_task import FoldTask
from headrace_streams.runtime.stage import Fold, FoldStage, RuleVersion, Step, Write
from headrace_streams.settings import Settings

PARTITIONS = 4


class Join(Fold):
    def step(self, state, record):
        key = record.key.decode()
        case, written = step(state.get(key), record.value)
        return Step(
            () if written is None else (Write("examples", key, written),), {} if case is None else {key: case}, {"joined": 1}
        )

    def load(self, key, value):
        return value

    def dump(self, key, value):
        return value


class NoPolicy(Policy):
    """Nothing to choose."""


STAGE = FoldStage(
    topology=StageTopology(
        name="peer", description="for a comparison", inputs=("signals",), outputs=("examples",), counters=("joined",)
    ),
    policy=NoPolicy,
    versions={1: RuleVersion(lambda body, digest: Join())},
)


async def main():
    compat.install()  # as a worker does
    settings = Settings(bootstrap=BOOTSTRAP, deployment=INPUT.partition(".")[0], partitions=PARTITIONS)
    await asyncio.gather(*(FoldTask(STAGE, {}, "signals", number, settings).run() for number in range(PARTITIONS)))


if __name__ == "__main__":
    asyncio.run(main())
