"""A run without what was taken back: it begins at the head that it is told and learns what is left behind that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace_schemas.derived import BaseIdentity, Batch, BatchRetryRequest, ModelVersion
from headrace_streams import release_log
from headrace_streams.runtime.stage import Record
from headrace_streams.settings import Settings
from headrace_trainer.job.process import Hardware
from headrace_trainer.model.hub import BaseFolder
from headrace_trainer.policy import BasePolicy, TrainerPolicy
from headrace_trainer.stage import catalogue
from headrace_trainer.stage.catalogue import Catalogue
from headrace_trainer.stage.context import KnownBase, TrainerContext
from headrace_trainer.stage.events import Origin
from headrace_trainer.stage.standing import LearnerStanding
from headrace_trainer.stage.taken_back import LearnerVersions, by_adapter, version_origin
from support import released, training_data
from support.outcomes import adapter, digest

ROWS = [training_data.recorded(number) for number in range(8)]
BATCHES = [
    training_data.batch([row.member for row in ROWS[first : first + 2]], name=f"b-v{number}")
    for number, first in ((1, 0), (2, 2), (3, 4))
]
CHAIN = [
    ModelVersion(
        version_id=name, run_id=f"r-{name}", batch_id=batch.batch_id, bucket=batch.bucket, artifact_type="sums", base="tiny",
        adapter=adapter(name), parent_adapter=parent and digest(parent), method="lora", hyperparameters={}, rows=1, tokens=1,
        seconds=1.0,
    )
    for name, parent, batch in zip(("v1", "v2", "v3"), (None, "v1", "v2"), BATCHES, strict=True)
]  # fmt: skip
TAKEN_BACK = [ROWS[2].member.example_id, ROWS[4].member.example_id]


class Earlier(Catalogue):
    """What is on the log."""

    def __init__(self) -> None:
        super().__init__(None, 0)  # type: ignore[arg-type]
        self._batches = list(enumerate(BATCHES))
        for row in ROWS:
            self._latest.add(row.example.example_id, 1, True, row.member.locator.offset, row.value)

    async def refresh(self, bucket: str) -> None:
        return


class Tainted(Earlier):
    """What v2 learnt was taken back before, too."""

    def __init__(self) -> None:
        super().__init__()
        self._latest.withdraw(TAKEN_BACK[0], 2, for_ever=True)

    async def chain(self, bucket: str, newest: Any = None) -> LearnerVersions:
        versions = by_adapter((version.adapter.digest, version_origin(version)) for version in CHAIN)
        learnt = {version.run_id: frozenset(_ids(batch)) for version, batch in zip(CHAIN, BATCHES, strict=True)}
        return LearnerVersions(versions, learnt, {TAKEN_BACK[0]})


def _ids(batch: Batch) -> list[str]:
    return [member.example_id for member in batch.members]


@pytest.mark.parametrize(
    ("begins", "learnt", "known"),
    [
        pytest.param("v1", [3], Earlier, id="from a head"),
        pytest.param(None, [0, 1, 3], Earlier, id="from the base"),
        pytest.param("v2", [3], Tainted, id="from a head that learnt what was taken back at another time"),
    ],
)
def test_a_run_without_what_was_taken_back(
    begins: str | None, learnt: list[int], known: type[Earlier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers(found: Any) -> Any:
        return found

    standing = LearnerStanding(adapter=digest("v3"), served=digest("v2"), batches=(BATCHES[1].batch_id,))
    monkeypatch.setattr(catalogue, "standing_of", lambda *_: answers(standing))
    monkeypatch.setattr(catalogue, "versions_of", lambda *_: answers(CHAIN))
    monkeypatch.setattr(catalogue, "values_of", lambda *_: answers(training_data.values(*ROWS)))
    served = {training_data.BUCKET: released.release(1, adapter("v2"), training_data.BUCKET)}
    monkeypatch.setattr(release_log, "served", lambda *_: answers(served))
    settings = Settings(data_dir=tmp_path / "data", store=f"file://{tmp_path}/store", deployment="again")
    policy = TrainerPolicy(bases={"tiny": BasePolicy(weights="w")}, defaults=training_data.HYPER)
    context = TrainerContext(settings, policy, Hardware("cpu", "fp32"))
    monkeypatch.setattr(context, "_plan", lambda *_: answers({}))
    again = BatchRetryRequest(
        bucket=training_data.BUCKET, batch_id=BATCHES[2].batch_id, begins=None if begins is None else digest(begins),
        without=sorted(TAKEN_BACK),
    )  # fmt: skip
    origin = Origin(Record("batches", 0, 9, 0, 0, None, None), BATCHES[2], None, "request", again)
    base = KnownBase(BaseFolder(tmp_path), BaseIdentity(digest="d", config="c", tokenizer="t", weights="w"))
    start = asyncio.run(context.choose_pins(origin, known(), base)).start
    assert start.learner_adapter == (None if begins is None else digest("v1"))
    assert start.hyperparameters["warm_start"] is (begins is not None), "else it would go on from what is served"
    rows = {member.example_id for member in start.rehearsal}
    assert {ROWS[number].member.example_id for number in learnt} <= rows, "beside the share of rehearsal"
    assert not rows & {*TAKEN_BACK, ROWS[5].member.example_id}
    assert start.withdrawn == [ROWS[4].member.example_id]
    assert (start.parent_adapter, start.optimiser, start.heads) == (digest("v2"), None, None)
