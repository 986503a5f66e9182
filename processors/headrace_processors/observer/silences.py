"""Who is missed, by the table of traffic, what tasks report and the policy. Pure; knows no clock (it is given the time)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Literal

from msgspec import Struct

from headrace_processors.observer.policy import SilencePolicy
from headrace_processors.observer.traffic import BucketTraffic, Speaker, Traffic
from headrace_schemas.derived import Silence
from headrace_schemas.times import rfc3339
from headrace_schemas.topics import DAY_MS, HOUR_MS
from headrace_streams.silences import SilenceKey

BASE = "the base"
SHRINKS = 0.9  # of what it was ten minutes before: a backlog that was said to grow is said to do so no more


class TaskSamples(Struct):
    """What one task reported over time: (ms, records to come, records that wait for another), ascending, one a minute."""

    samples: list[tuple[int, int, int]] = []

    def add(self, at_ms: int, lag: int, waiting: int, keep_ms: int) -> None:
        self.samples = [sample for sample in self.samples if sample[0] > at_ms - keep_ms] + [(at_ms, lag, waiting)]


def traffic_silences(
    traffic: Traffic, policy: SilencePolicy, now_ms: int, raised: Container[SilenceKey] = ()
) -> Iterator[Silence]:
    """Adapters, buckets, agents and raters that are missed at `now_ms`. `raised`: what was said before and is not over, which it
    takes less to go on than it took to begin."""
    for name, bucket in sorted(traffic.buckets.items()):
        yield from _bucket_silences(name, bucket, policy, now_ms, raised)
    for name, agent in sorted(traffic.agents.items()):
        if (silence := _stopped("agent_stopped", name, agent, policy, now_ms)) is not None:
            yield silence
    for name, rater in sorted(traffic.raters.items()):
        if (silence := _stopped("rater_stopped", name, rater, policy, now_ms)) is not None:
            yield silence


def task_silences(
    tasks: Mapping[str, TaskSamples], policy: SilencePolicy, raised: Container[SilenceKey] = ()
) -> Iterator[Silence]:
    """Tasks, by stage/topic/partition, that fall behind, or where feedback waits for good. `raised` as for `traffic_silences`: a
    backlog that comes and goes by a few records, or a worker that has just started, ends nothing."""
    for name, task in sorted(tasks.items()):
        at_ms, lag, _ = task.samples[-1]
        earlier = [sample for sample in task.samples if sample[0] <= at_ms - 10 * 60_000]
        since_ms, before, _ = earlier[-1] if earlier else task.samples[0]
        grows = lag >= before * SHRINKS if ("lag_grows", name) in raised else bool(earlier) and lag > before
        if lag >= policy.lag_records and grows:
            yield Silence(
                kind="lag_grows",
                subject=name,
                since=rfc3339(since_ms),
                expected=f"fewer than {policy.lag_records} records to come, or fewer than ten minutes before",
                seen=f"{lag} records to come, {before} ten minutes before",
                policy_key="lag_records",
            )
        keep_ms = round(policy.unjoined_hours * HOUR_MS)
        if task.samples[0][0] > at_ms - keep_ms + 2 * 60_000 and ("feedback_unjoined", name) not in raised:
            continue  # nobody has looked for so long yet
        least = min(waiting for _, _, waiting in task.samples)
        if least >= policy.unjoined_records:
            yield Silence(
                kind="feedback_unjoined",
                subject=name,
                since=rfc3339(task.samples[0][0]),
                expected=f"fewer than {policy.unjoined_records} records that wait, at some time in {policy.unjoined_hours:g} h",
                seen=f"never fewer than {least}, {task.samples[-1][2]} now",
                policy_key="unjoined_hours",
            )


def _bucket_silences(
    name: str, bucket: BucketTraffic, policy: SilencePolicy, now_ms: int, raised: Container[SilenceKey]
) -> Iterator[Silence]:
    if bucket.releases:
        since_ms, adapter, release_id = bucket.releases[-1]
        seen = bucket.adapters.get(adapter)
        silent = adapter and (seen is None or seen.last_ms < since_ms)
        if silent and now_ms - since_ms > policy.adapter_unseen_hours * HOUR_MS:
            others = sorted((by.last_ms, digest) for digest, by in bucket.adapters.items() if by.last_ms >= since_ms)
            answered = f"answers name {_called(others[-1][1])}" if others else "no answer by its base came since"
            yield Silence(
                kind="adapter_unseen",
                subject=_subject(name, release_id),
                since=rfc3339(since_ms),
                expected=f"answers by {adapter} within {policy.adapter_unseen_hours:g} h of its release",
                seen=answered,
                policy_key="adapter_unseen_hours",
                bucket=name,
            )
        for digest, by in sorted(bucket.adapters.items()):
            subject = _subject(name, digest or "base")
            least = 1 if ("served_other", subject) in raised else policy.served_other_answers  # they are counted anew by the hour
            if by.others >= least and now_ms - by.others_last_ms < HOUR_MS:
                yield Silence(
                    kind="served_other",
                    subject=subject,
                    since=rfc3339(by.others_since_ms),
                    expected=f"answers by {_called(by.expected)}, which was served {policy.swap_minutes:g} min and longer",
                    seen=f"{by.others} answers name {_called(digest)}",
                    policy_key="served_other_answers",
                    bucket=name,
                    interaction_id=by.interaction_id or None,
                )
    spoken_ms = bucket.first_ms if bucket.spoken_ms is None else bucket.spoken_ms
    missed = now_ms - spoken_ms > policy.feedback_hours * HOUR_MS and bucket.unspoken >= policy.feedback_answers
    if missed and now_ms - bucket.last_ms < policy.forget_days * DAY_MS:
        yield Silence(
            kind="bucket_without_feedback",
            subject=name[:200],
            since=rfc3339(spoken_ms),
            expected=f"feedback within {policy.feedback_hours:g} h and {policy.feedback_answers} answers",
            seen=f"{bucket.unspoken} answers without any",
            policy_key="feedback_hours",
            bucket=name,
        )


def _stopped(
    kind: Literal["agent_stopped", "rater_stopped"], name: str, speaker: Speaker, policy: SilencePolicy, now_ms: int
) -> Silence | None:
    silent_ms = now_ms - speaker.last_ms
    most_ms = max(policy.stopped_hours * HOUR_MS, policy.stopped_factor * speaker.pause_ms)
    if speaker.times < policy.stopped_after or not most_ms < silent_ms < policy.forget_days * DAY_MS:
        return None
    return Silence(
        kind=kind,
        subject=name[:200],
        since=rfc3339(speaker.last_ms),
        expected=f"a word within {most_ms / HOUR_MS:.3g} h: its longest pause was {speaker.pause_ms / HOUR_MS:.2g} h",
        seen=f"{speaker.times} until then, none since",
        policy_key="stopped_hours",
    )


def _called(adapter: str) -> str:
    return adapter or BASE


def _subject(bucket: str, name: str) -> str:
    """Bucket and name within the length of a key."""
    return f"{bucket[:120]} {name[:79]}"
