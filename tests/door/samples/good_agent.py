"""An agent as its author's type checker sees it: everything here is right. Checked by test_types, never run."""

from __future__ import annotations

from datetime import UTC, datetime

from anthropic.types import Message
from openai.types.chat import ChatCompletion

import headrace


def answer(question: str, completion: ChatCompletion, message: Message) -> None:
    with headrace.Recorder("127.0.0.1:9092", agent={"name": "sql-bot", "version": "7"}, outbox="outbox.db") as recorder:
        call = recorder.interaction(artifact_type="sql", model="tiny-sql", prompt=question, output="select 1")
        child = recorder.interaction(
            parent=call,
            artifact_type="sql",
            model="tiny-sql",
            prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}],
            output=completion.choices[0].message,
            tools=[{"type": "function", "function": {"name": "run", "parameters": {}}}],
            usage=completion.usage,
            finish_reason=completion.choices[0].finish_reason,
            context=[{"content": "the schema", "score": 0.5}],
            refs=[("jira", "OPS-7"), {"system": "ci", "id": "12"}],
            latency_ms=12,
            cost_usd=0.002,
            train=False,
            attributes={"family": "count", "level": 2, "exam": None},
            time=datetime.now(UTC),
        )
        recorder.interaction(artifact_type="sql", model="claude", prompt=question, output=message, usage=message.usage)
        recorder.interaction(artifact_type="sql", model="gpt", prompt=question, output=completion)
        fields: headrace.InteractionFields = {"artifact_type": "sql", "model": "m", "prompt": "p", "output": ""}
        fields["error"] = {"type": "Timeout", "message": "30 s"}
        recorder.interaction(**fields, parent=child)
        by: headrace.PrincipalFields = {"id": "pytest", "kind": "test"}
        feedback_id: str = recorder.feedback(call, kind="success", score=100, name="unit_tests", principal=by)
        recorder.feedback(interaction_id=child.interaction_id, kind="rating", score=4, scale=(1, 5))
        recorder.feedback(ref=("jira", "OPS-7"), kind="user_correction", corrected_output="select 2")
        recorder.feedback(call, kind="preference", over=[child, "another"])
        recorder.retract_feedback(feedback_id, call)
    releases = headrace.Releases("127.0.0.1:9092", buckets=["sql/tiny-sql"])
    release = releases.current("sql/tiny-sql")
    if release is not None and release.adapter is not None:
        print(release.fetch() / "adapter_config.json", release.decision.policy_digests)


async def answer_async(question: str) -> None:
    async with headrace.AsyncRecorder(agent="sql-bot") as recorder, headrace.AsyncReleases() as releases:
        try:
            call = await recorder.interaction(artifact_type="sql", model="tiny-sql", prompt=question, output="")
            await recorder.feedback(call, kind="explicit_negative", comment="empty")
        except headrace.HeadraceError as error:
            raise SystemExit(error.exit_code) from error
        async for release in releases.follow():
            print(release.sequence, release.digest)
