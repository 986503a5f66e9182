"""Requests that people make of a running deployment, and the answers found in the log. Knows topics and events, no command.

A request is one event on `outcomes`; the release stage answers each with one event on `releases.history` whose `request_id` is
the request's event id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import BatchRetryRequest, Evaluation, ModelVersion
from headrace_schemas.events import (
    BatchReady,
    EvaluationCompleted,
    Event,
    ExampleRewarded,
    InteractionRetracted,
    ModelVersionCreated,
    PromptDrawn,
    SubjectErased,
    TrainingStarted,
)
from headrace_schemas.inputs import InteractionRetraction, SubjectErasure
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.selection import watched
from headrace_schemas.topics import TOPICS
from headrace_streams import retraining
from headrace_streams.kafka.clients import NotAllowed
from headrace_streams.kafka.publisher import publish, requested
from headrace_streams.kafka.reader import Reader, event_of
from headrace_streams.release_log import CHANGES, Decision, adapter_digest, follow, history, served
from headrace_streams.sealing.key_log import key_log
from headrace_streams.sealing.keyring import INTERACTION_OWNER, subject_digest
from headrace_streams.settings import Settings

_ASKED = tuple(kind for topic in TOPICS for kind in topic.requests)  # to ask about a bucket does not make it one


class NoAnswer(HeadraceError, TimeoutError):
    """The request stands in the log, but nobody has answered it yet. Whoever starts a worker later still gets it answered."""


class Touched(NamedTuple):
    """What an interaction or a person's data went into. `inherited`: not trained on it, but on top of an adapter that was.
    `possible`: cut behind it in its bucket, by a run that is no longer kept, so that nobody knows what was rehearsed.
    `heads`: versions of all three kinds that were never released; the learner's next run goes on from none of them.
    `samples`: digests of samples of evaluations that hold answers to it. `retrains`: runs without it that were asked for now,
    as policy says, of the buckets that serve it."""

    example_ids: list[str]
    batch_ids: list[str]
    releases: list[Decision]
    inherited: list[Decision]
    possible: list[Decision]
    served: list[str]  # release ids among them that are served now
    samples: list[str]
    heads: list[ModelVersion]
    retrains: list[BatchRetryRequest] = []  # noqa: RUF012 - never changed


async def ask(settings: Settings, bucket: str, event: Event, timeout: float, *, repeated: bool = False) -> Decision:
    """Publishes a request about `bucket` and waits for its answer. NoAnswer after `timeout` seconds.

    A request is answered once, whatever comes with its id later: with `repeated` the answer may be there already."""
    reader = Reader(settings)
    async with aclosing(follow(reader, bucket, since="end")) as decisions:
        await anext(decisions)  # now it reads: whatever answers comes behind that
        if repeated:
            for decision in await history(reader):
                if (decision.data.bucket, decision.data.request_id) == (bucket, event.id):
                    return decision
        await publish(settings, event)
        try:
            async with asyncio.timeout(timeout):
                async for batch in decisions:
                    for decision in batch:
                        if decision.data.request_id == event.id:
                            return decision
        except TimeoutError:
            pass
    raise NoAnswer(
        f"no answer for {bucket} within {timeout:g} s; the request stands: is a worker running? Repeat it with "
        f"--request-id {event.id}, or it is done twice"
    )


async def buckets(settings: Settings, wanted: str) -> set[str]:
    """The buckets that there are; reads all examples only when `wanted` is not among those that were cut or evaluated."""
    reader = Reader(settings)
    known: set[str] = set()
    for topic in ("batches", "outcomes", "releases.history", "examples"):
        if wanted in known:
            break
        async with aclosing(reader.read_topic(topic)) as records:
            async for record in records:
                if record.key is not None and (event := event_of(record)) is not None and not isinstance(event, _ASKED):
                    known.add(record.key.decode(errors="replace"))
    return known


async def versions(settings: Settings) -> list[ModelVersion]:
    """Every model version, in the order of the log."""
    return [event.data async for event in Reader(settings).events("versions") if isinstance(event, ModelVersionCreated)]


async def evaluations(settings: Settings) -> AsyncGenerator[Evaluation]:
    """Every evaluation, in the order of the log, one at a time: each may name hundreds of groups for each of its heads."""
    async with aclosing(Reader(settings).events("outcomes")) as events:
        async for event in events:
            if isinstance(event, EvaluationCompleted):
                yield event.data


async def evaluation(settings: Settings, evaluation_id: str) -> Evaluation | None:
    """The evaluation of an id; None when there is none."""
    async with aclosing(evaluations(settings)) as found:
        async for each in found:
            if each.evaluation_id == evaluation_id:
                return each
    return None


async def retract(
    settings: Settings, interaction_id: str, reason: str | None, *, id: str | None = None, source: str | None = None
) -> Touched:
    """Says that an interaction shall not be learnt from; what it has gone into so far. DecodeError for an id that can't be."""
    event = requested(InteractionRetracted, InteractionRetraction(interaction_id=interaction_id, reason=reason), id, source)
    decode(encode(event))
    await publish(settings, event)
    return await _with_retrains(settings, await touched(settings, interaction_id=interaction_id), source)


async def forget(settings: Settings, data_subject: str, *, id: str | None = None, source: str | None = None) -> Touched:
    """Asks for a person's data to be erased, and says what it has gone into so far. DecodeError for an id that can't be."""
    event = requested(SubjectErased, SubjectErasure(data_subject=data_subject), id, source)
    decode(encode(event))
    sealed = await _sealed_interactions(settings, data_subject)  # afterwards nobody knows any more whose they were
    await publish(settings, event)
    return await _with_retrains(settings, await touched(settings, data_subject=data_subject, interactions=sealed), source)


async def _with_retrains(settings: Settings, found: Touched, source: str | None) -> Touched:
    """Asks for the runs of `found`, where policy says so: those that were asked for now."""
    try:
        return found._replace(retrains=await retraining.queue(settings, found.retrains, source))
    except (NotAllowed, retraining.RetryRefused) as error:
        logging.getLogger("headrace").warning("nothing is trained once more without it: %s", error)
        return found._replace(retrains=[])


async def _sealed_interactions(settings: Settings, data_subject: str) -> set[str]:
    """Ids of the interactions of a person whose texts are sealed, which say nothing of the person themselves."""
    log = key_log(settings)
    try:
        await log.refresh()
    except NotAllowed as error:
        logging.getLogger("headrace").warning("what is sealed is not in the list: %s", error)
        return set()
    return {
        owner.removeprefix(INTERACTION_OWNER)
        for owner in log.ring.all_owners(subject_digest(data_subject))
        if owner.startswith(INTERACTION_OWNER)
    }


async def touched(
    settings: Settings,
    *,
    interaction_id: str | None = None,
    data_subject: str | None = None,
    interactions: Collection[str] = (),
) -> Touched:
    """Follows examples into batches (as members or as rehearsal rows), batches into versions, versions into releases.
    `interactions`: those of a person whose examples do not say so."""
    reader = Reader(settings)
    needle = b"" if interactions else msgspec.json.encode(interaction_id or data_subject)[1:-1]  # as it stands in what we wrote
    examples: set[str] = set()
    prompts: set[str] = set()  # drawn of them, whether or not there is an example; nobody learns from those
    async for event in reader.events("examples", containing=needle):
        if not isinstance(event, ExampleRewarded | PromptDrawn):
            continue
        is_meant = event.data.interaction_id == interaction_id if interaction_id else event.data.data_subject == data_subject
        if is_meant or event.data.interaction_id in interactions:
            if isinstance(event, ExampleRewarded):
                examples.add(event.data.example_id)
            else:
                prompts.add(event.data.prompt_id)
    batches: set[str] = set()
    behind: set[str] = set()  # batches whose rehearsal may hold them
    runs: set[str] = set()
    asked: set[str] = set()  # batches whose test rows they are among
    learnt: dict[str, set[str]] = {}  # examples among them, by bucket
    held: dict[str, set[str]] = {}  # and by batch
    without: set[str] = set()  # runs of such batches that did without them, as they were taken back before
    for topic in ("batches", "runs") if examples or prompts else ():
        async for event in reader.events(topic):
            if not isinstance(event, BatchReady | TrainingStarted):
                continue
            batch_id, bucket, found = event.data.batch_id, event.data.bucket, examples & set(_rows(event))
            if found:
                batches.add(batch_id)
                learnt.setdefault(bucket, set()).update(found)
            if isinstance(event, TrainingStarted):
                runs.add(event.data.run_id)
                if not found and not held.get(batch_id, set()).difference(event.data.withdrawn or ()):
                    without.add(event.data.run_id)
                continue
            held[batch_id] = found
            if not found and bucket in learnt:
                behind.add(batch_id)
            if (examples | prompts) & set(_asked(event)):
                asked.add(batch_id)
    made = await versions(settings) if batches else []
    direct = {version.adapter.digest for version in made if version.batch_id in batches and version.run_id not in without}
    inherited = _descendants(made, direct)
    unknown = {version.adapter.digest for version in made if version.batch_id in behind and version.run_id not in runs}
    possible = (unknown | _descendants(made, unknown)) - direct - inherited
    concerned = direct | inherited | possible
    decisions = [decision for decision in await history(reader) if decision.kind in CHANGES]
    now = {release.release_id for release in (await served(reader)).values()}
    trained = [decision for decision in decisions if adapter_digest(decision.data) in direct]
    later = [decision for decision in decisions if adapter_digest(decision.data) in inherited]
    perhaps = [decision for decision in decisions if adapter_digest(decision.data) in possible]
    released = {adapter_digest(decision.data) for decision in decisions}
    heads = [version for version in made if version.adapter.digest in concerned - released]
    serving = [decision for decision in (*trained, *later, *perhaps) if decision.data.release_id in now]
    samples: set[str] = set()
    if asked:
        async for each in evaluations(settings):
            if each.samples is not None and each.samples.batch_id in asked:
                samples.add(each.samples.sha256)
    still = [decision.data.release_id for decision in serving]
    again = retraining.retrains(serving, made, concerned, learnt)
    return Touched(sorted(examples), sorted(batches), trained, later, perhaps, still, sorted(samples), heads, again)


def _descendants(made: Collection[ModelVersion], adapters: Collection[str]) -> set[str]:
    """Adapters whose training began from one of `adapters`, or from one that did; without `adapters` themselves."""
    known = set(adapters)
    going_on = [version for version in made if retraining.goes_on(version)]
    while new := {version.adapter.digest for version in going_on if version.parent_adapter in known} - known:
        known |= new
    return known - set(adapters)


def _asked(event: BatchReady) -> Iterator[str]:
    """Ids of the examples and prompts that versions are asked."""
    for member in (*event.data.test_pool, *(event.data.prompts or ())):
        yield member.example_id


def _rows(event: BatchReady | TrainingStarted) -> Iterator[str]:
    """Ids of the examples that a batch or a training run learns from or watches, as its data set holds; test rows are neither."""
    for member in watched(event.data) if isinstance(event, BatchReady) else event.data.rehearsal:
        yield member.example_id
