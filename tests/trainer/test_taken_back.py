"""What was taken back reaches heads that nobody has released: they are not gone on from, and count no more."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from headrace_schemas.derived import Adapter, Comparison, Evaluation, Gain, HeadReference, HeadResult, ModelVersion
from headrace_schemas.events import EvaluationCompleted
from headrace_streams.release_log import Decision
from headrace_streams.runtime.stage import Record
from headrace_trainer.policy import TrainerPolicy
from headrace_trainer.spec import EvaluationReport, JobResult
from headrace_trainer.stage.events import Origin, completed, pins, version_id
from headrace_trainer.stage.standing import LearnerStanding, after
from headrace_trainer.stage.taken_back import LearnerVersions, VersionOrigin, by_adapter, version_origin
from support import training_data
from support.outcomes import ReleaseRun, adapter, digest, evaluation, groups

NAMES = ("v1", "v2", "v3", "v4")
STANDING = LearnerStanding(
    adapter=digest("v4"), served=digest("v1"), batches=("b-v1",),
    heads=tuple(HeadReference(version_id=name, adapter=digest(name)) for name in ("v3", "v4")),
)  # fmt: skip


def chain(taken_back: Collection[str], *, learnt: Collection[str] = NAMES, inherits: Collection[str] = NAMES) -> LearnerVersions:
    """Each version goes on from the one before and has learnt an example of its own, `e-v1` and so on."""
    versions = {
        digest(name): VersionOrigin(name, f"r-{name}", f"b-{name}", digest(before) if before else None, name in inherits)
        for before, name in zip((None, *NAMES), NAMES, strict=False)
    }
    return LearnerVersions(versions, {f"r-{name}": frozenset({f"e-{name}"}) for name in learnt}, taken_back)


def head(name: str) -> HeadReference:
    return HeadReference(version_id=name, adapter=digest(name))


def test_where_nothing_was_taken_back_the_learner_goes_on_as_before() -> None:
    assert chain(()).clean(STANDING) == (STANDING, [])
    assert chain(["somebody else's"]).clean(STANDING) == (STANDING, [])


def test_the_learner_goes_on_from_the_last_head_that_has_not_learnt_it_and_all_since_is_learnt_anew() -> None:
    standing, left = chain(["e-v3"]).clean(STANDING)
    assert (standing.adapter, standing.batches, standing.restarted) == (digest("v2"), ("b-v2",), True)
    assert left == [head("v3"), head("v4")], "what goes on from such a head has learnt it, too"
    assert standing.heads == ()


def test_earlier_heads_go_on_being_compared_where_only_the_newest_has_learnt_it() -> None:
    standing, left = chain(["e-v4"]).clean(STANDING)
    assert (standing.adapter, standing.heads, left) == (digest("v3"), (head("v3"),), [head("v4")])


def test_where_no_head_is_clean_the_learner_goes_on_from_what_is_served() -> None:
    standing, left = chain(["e-v2"]).clean(STANDING)
    assert (standing.adapter, standing.batches, standing.restarted, len(left)) == (None, ("b-v1",), True, 2)
    assert standing.served == digest("v1")


def test_what_is_served_is_left_to_people() -> None:
    assert chain(["e-v1"]).clean(STANDING) == (STANDING, [])


def test_a_head_that_began_from_the_base_has_nothing_of_those_before() -> None:
    standing, left = chain(["e-v3"], inherits=["v1", "v2", "v3"]).clean(STANDING)
    assert (standing.adapter, standing.restarted, left) == (digest("v4"), False, [head("v3")])


def test_a_head_of_which_nobody_knows_what_it_rehearsed_counts_as_having_learnt_it() -> None:
    found = chain(["e-v2"], learnt=["v1", "v2", "v4"])
    assert "r-v3 rehearsed is no longer known" in (found.reason(digest("v3"), digest("v2")) or "")
    assert found._replace(taken_back=()).reason(digest("v3"), digest("v2")) is None


def test_a_run_that_left_the_weights_as_they_were_hides_nothing_of_the_one_before() -> None:
    found = chain(["e-v4"])
    idle = digest("v4"), VersionOrigin("v5", "r-v5", "b-v5", digest("v4"))
    found = found._replace(versions=by_adapter([*found.versions.items(), idle]), learnt={**found.learnt, "r-v5": frozenset()})
    standing, _ = found.clean(STANDING)
    assert (standing.adapter, standing.restarted) == (digest("v3"), True)


def test_where_nobody_knows_the_adapter_that_a_run_began_at_the_learner_goes_on_from_what_is_served() -> None:
    found = chain(["e-v3"])
    versions = {adapter: version for adapter, version in found.versions.items() if version.version_id != "v2"}
    standing, _ = found._replace(versions=versions).clean(STANDING)
    assert (standing.adapter, standing.batches, standing.restarted) == (None, ("b-v1",), True)


def test_a_version_says_where_its_run_began() -> None:
    made = ModelVersion(
        version_id="v2", bucket="sql/tiny", artifact_type="sql", base="tiny", adapter=adapter("v2"), batch_id="b", run_id="r",
        method="lora", hyperparameters={"warm_started": False}, rows=1, tokens=1, seconds=1.0, parent_adapter=digest("v1"),
    )  # fmt: skip
    assert version_origin(made) == VersionOrigin("v2", "r", "b", digest("v1"), False)


def test_a_head_that_has_learnt_what_was_taken_back_is_never_promoted_and_its_chain_goes_on() -> None:
    stage = ReleaseRun(rule="evidence", evidence={"max_groups": 9})
    enough = [1.0] * 9

    def look(name: str, *heads: HeadResult) -> Decision:
        kind, answer = stage.answer(evaluation(name, measure="success", heads=list(heads)))
        return Decision(kind, "", answer)  # type: ignore[arg-type]

    standing = after(LearnerStanding(), look("v1", HeadResult(version_id="v1", groups=groups("a", enough))))
    assert standing.heads == (head("v1"),)
    own = HeadResult(version_id="v2", groups=groups("b", [0.0] * 9))
    decision = look("v2", HeadResult(version_id="v1", groups=[], invalid="taken_back: 2 examples"), own)
    assert decision.kind == "declined", "with nine groups more it would have been promoted"
    assert [(each.version_id, each.verdict, each.waits) for each in decision.data.evidence or ()] == [
        ("v1", "invalid", False), ("v2", "pending", True)
    ]  # fmt: skip
    standing = after(standing, decision)
    assert (standing.adapter, standing.heads) == (digest("v2"), (head("v2"),))
    last = look("v3", HeadResult(version_id="v3", groups=groups("c", enough), invalid="taken_back: meanwhile"))
    assert (last.kind, last.data.reason.split(":")[0]) == ("declined", "invalid")
    standing = after(standing, last)
    assert (standing.adapter, standing.restarted) == (digest("v3"), False), "the trainer knows the last clean one"


def test_an_evaluation_names_the_heads_that_have_learnt_what_was_taken_back() -> None:
    origin = Origin(Record("batches", 0, 0, 0, 0, None, None), training_data.batch([training_data.recorded(1).member]))
    left = [HeadReference(version_id="gone", adapter=digest("gone"))]
    start = pins(origin, TrainerPolicy(), "fp32", parent_adapter=None, parent_release_id=None, rehearsal=[], taken_back=left)
    assert start.taken_back == left
    measured = (
        HeadResult(version_id="old", groups=groups("a", [1.0])),
        HeadResult(version_id="", groups=[], invalid="identical"),
    )
    report = EvaluationReport({}, {}, Comparison(loss_gain=Gain(value=0.0, low=0.0, high=0.0), n=0), [], heads=measured)
    result = JobResult(Path("adapter"), 1, False, 1.0, report, None)
    made = Adapter(digest=digest("own"), uri="file:///a", format="peft", size_bytes=0, files=[])
    own = version_id(start.run_id)
    reasons = {name: f"taken_back: {name}" for name in ("old", "gone", own)}
    _, evaluated, _ = completed(origin, start, made, result, 0, TrainerPolicy(), taken_back=reasons)
    assert isinstance(evaluated, EvaluationCompleted)
    found: Evaluation = evaluated.data
    assert [(each.version_id, each.invalid) for each in found.heads or ()] == [
        ("gone", "taken_back: gone"), ("old", "taken_back: old"), (own, "identical")
    ]  # fmt: skip
