"""Evaluations and commands as they stand on `outcomes`, and a run of the release stage that reads its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace_processors.release.fold import NEWEST, build
from headrace_processors.release.policy import ReleasePolicy
from headrace_schemas import derived, events
from headrace_schemas.canonical import sha256
from headrace_schemas.codec import encode
from headrace_schemas.derived import (
    Adapter,
    Comparison,
    Evaluation,
    Gain,
    GroupResult,
    HeadResult,
    ReleaseDecision,
    Requirement,
)
from support.examples import BUCKET
from support.signals import StageRun, at


def digest(name: str) -> str:
    return sha256(name.encode())


def adapter(name: str) -> Adapter:
    return Adapter(digest=digest(name), uri=f"file:///adapters/{name}", format="peft", size_bytes=10, files=[])


def evaluation(
    version: str,
    parent: str | None = None,
    *,
    low: float = 0.1,
    n: int = 200,
    wins: int | None = None,
    losses: int | None = None,
    satisfied: bool = False,
    bucket: str = BUCKET,
    id: str | None = None,
    weights: str | None = None,
    **more: Any,
) -> bytes:
    """The evaluation of a version whose adapter is named after it (or after `weights`), compared with release `parent`; `more`
    fields of it."""
    data = Evaluation(
        evaluation_id=f"evaluation-{version}",
        version_id=version,
        bucket=bucket,
        artifact_type="sql",
        base="tiny",
        batch_id=f"batch-{version}",
        run_id=f"run-{version}",
        adapter=adapter(weights or version),
        candidate={},
        incumbent={},
        comparison=Comparison(loss_gain=Gain(value=low + 0.1, low=low, high=low + 0.2), n=n, wins=wins, losses=losses),
        requirements=[
            Requirement(name="good", metric="success", target=0.9, direction="at_least", satisfied=satisfied, current=0.5)
        ],
        policy_digests={"curate": digest("curate"), "trainer": digest("trainer")},
        parent_release_id=parent,
        **more,
    )
    event = events.EvaluationCompleted(
        specversion="1.0", id=id or f"evaluated-{version}", source="headrace:train", time=at(0), data=data
    )
    return encode(event)


def groups(prefix: str, gains: Sequence[float], *, loss: float | None = None, **more: Any) -> list[GroupResult]:
    """Groups with these gains in success, and in loss unless it is given."""
    return [
        GroupResult(
            group=f"{prefix}{number}", rows=1, samples=1, success_gain=gain, loss_gain=gain if loss is None else loss, **more
        )
        for number, gain in enumerate(gains)
    ]


def looked(version: str, parent: str | None = None, *, id: str | None = None, **results: Sequence[GroupResult]) -> bytes:
    """The evaluation of a version in which heads, the version among them, stand group by group."""
    heads = [HeadResult(version_id=name, groups=list(found)) for name, found in results.items()]
    return evaluation(version, parent, id=id, measure="success", heads=heads)


def _command(kind: type[events.Envelope], id: str, data: Any) -> bytes:
    return encode(kind(specversion="1.0", id=id, source="headrace:cli", time=at(0), data=data))  # type: ignore[call-arg,arg-type]


def promote(version: str, *, id: str = "promote", reason: str | None = None) -> bytes:
    data = derived.PromoteRequest(bucket=BUCKET, version_id=version, reason=reason, requested_by="ann")
    return _command(events.PromoteRequested, id, data)


def roll_back(release_id: str | None = None, *, id: str = "rollback", reason: str | None = None) -> bytes:
    data = derived.RollbackRequest(bucket=BUCKET, release_id=release_id, reason=reason, requested_by="ann")
    return _command(events.RollbackRequested, id, data)


def revoke(name: str, *, id: str = "revoke", reason: str | None = None) -> bytes:
    data = derived.RevokeRequest(bucket=BUCKET, adapter=digest(name), reason=reason, requested_by="ann")
    return _command(events.RevokeRequested, id, data)


def pause(*, id: str = "pause") -> bytes:
    return _command(events.PauseRequested, id, derived.SwitchRequest(bucket=BUCKET, reason="holiday", requested_by="ann"))


def resume(*, id: str = "resume") -> bytes:
    return _command(events.ResumeRequested, id, derived.SwitchRequest(bucket=BUCKET, requested_by="ann"))


class ReleaseRun(StageRun):
    """The release stage under a policy."""

    def __init__(self, *, through_dump: bool = False, recorded: str | None = None, version: int = NEWEST, **policy: Any) -> None:
        """`recorded`: the digest that the log names the policy by, if not today's; `version`: of the rules."""
        self.policy = ReleasePolicy(**{"rule": "gate", **policy})
        super().__init__(
            build(self.policy.body(), recorded or self.policy.digest, version),
            "outcomes",
            through_dump=through_dump,
        )

    def answer(self, value: bytes) -> tuple[str, ReleaseDecision]:
        """(kind of answer, answer) to one record, which must have exactly one."""
        [answer] = [output for output in self.feed(value) if output.topic == "releases.history"]
        return type(answer.value).__name__.removeprefix("Release").lower(), answer.value.data  # type: ignore[union-attr,return-value]

    def written(self, topic: str) -> list[Any]:
        return [output.value.data for output in self.outputs if output.topic == topic]  # type: ignore[union-attr]

    @property
    def serving(self) -> str | None:
        """Digest of the adapter that subscribers were releases to serve; None: the base."""
        releases = self.written("releases")
        return releases[-1].adapter.digest if releases and releases[-1].adapter else None

    @property
    def current(self) -> str | None:
        releases = self.written("releases")
        return releases[-1].release_id if releases else None
