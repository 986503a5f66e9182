"""What the train stage says of a run names whose rules it went by."""

from pathlib import Path

from headrace_schemas.derived import Adapter, Comparison, Gain
from headrace_schemas.events import EvaluationCompleted, ModelVersionCreated
from headrace_schemas.selection import members_digest
from headrace_streams.runtime.stage import Record
from headrace_trainer.policy import RequirementPolicy, TrainerPolicy
from headrace_trainer.spec import EvaluationReport, JobProgress, JobResult
from headrace_trainer.stage.events import Origin, completed, pins, progressed
from support import training_data


def test_an_evaluation_names_the_policy_that_it_was_made_by_and_the_run_keeps_its_pins() -> None:
    batch = training_data.batch([training_data.recorded(1).member])
    before, after = TrainerPolicy(), TrainerPolicy(requirements=(RequirementPolicy(name="low", metric="loss", target=1.0),))
    origin = Origin(Record("batches", 0, 0, 0, 0, None, None), batch)
    start = pins(origin, before, "fp32", parent_adapter=None, parent_release_id=None, rehearsal=[])
    report = EvaluationReport({}, {}, Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0), [], ungraded={"late": 2})
    result = JobResult(Path("adapter"), 1, False, 1.0, report, None)
    adapter = Adapter(digest="sha256:" + "0" * 64, uri="file:///a", format="peft", size_bytes=0, files=[])
    version, evaluation, _ = completed(origin, start, adapter, result, 0, after)
    assert isinstance(version, ModelVersionCreated)
    assert version.data.dataset_digest == members_digest(batch.members)
    assert start.policy_digests["train"] == before.digest
    assert isinstance(evaluation, EvaluationCompleted)
    assert evaluation.data.dataset_digest == version.data.dataset_digest
    assert evaluation.data.ungraded == {"late": 2}
    assert evaluation.data.policy_digests == {**batch.policy_digests, "train": after.digest}


def test_progress_says_what_the_loop_told_and_is_silent_where_it_told_nothing() -> None:
    origin = Origin(Record("batches", 0, 0, 0, 0, None, None), training_data.batch([training_data.recorded(1).member]))
    start = training_data.start(origin.batch)
    step = progressed(origin, start, JobProgress(3, 9, 1.5, 80.0, "validation", 1.75, 2e-4, 0.5), 1, 0).data
    assert (step.loss, step.validation_loss, step.learning_rate, step.gradient_norm) == (1.5, 1.75, 2e-4, 0.5)
    silent = progressed(origin, start, JobProgress(9, 9, 1.5, 0.0, "evaluation"), 1, 0).data
    assert (silent.validation_loss, silent.learning_rate, silent.gradient_norm) == (None, None, None)
