"""Training once more without what was taken back, where policy asks for it: what to ask, and that it is asked once. Knows events
and topics, no trainer.

A request is one event on `batches`: the newest trained batch of a bucket again, from the newest adapter of the served chain that
has not learnt what was taken back, over all rows that are left. It is asked for when the answer to whom has learnt is found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import aclosing

from headrace_schemas.derived import BatchRetryRequest, ModelVersion
from headrace_schemas.events import BatchRetryRequested, RulesActivated
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import HeadraceError
from headrace_streams.kafka.publisher import publish, requested
from headrace_streams.kafka.reader import Reader
from headrace_streams.release_log import Decision, adapter_digest
from headrace_streams.settings import Settings

POLICY = "retrain_taken_back"  # of [train]
WITHOUT_LIMIT = 20_000  # ids in one request: 0.7 MB of a record of 2 MiB
REASON = "what its release learnt was taken back"


class RetryRefused(HeadraceError):
    """More was taken back at once than one request can name; the message says what to do."""


def retrains(
    served: Iterable[Decision],
    made: Collection[ModelVersion],
    touched: Collection[str],
    learnt: Mapping[str, Collection[str]],
) -> list[BatchRetryRequest]:
    """One request for each bucket whose release in `served` has an adapter among `touched`. `made`: all versions in the order of
    the log; `learnt`: ids of the examples that were taken back, by bucket. Pure."""
    by_adapter = {version.adapter.digest: version for version in made}
    newest = {version.bucket: version.batch_id for version in made}
    asked = []
    for decision in served:
        bucket, adapter = decision.data.bucket, adapter_digest(decision.data)
        if adapter not in touched or bucket not in newest:
            continue
        seen: set[str] = set()
        while adapter is not None and adapter in touched and adapter not in seen:
            seen.add(adapter)
            version = by_adapter.get(adapter)
            adapter = None if version is None or not goes_on(version) else version.parent_adapter
        asked.append(
            BatchRetryRequest(
                bucket=bucket,
                batch_id=newest[bucket],
                reason=REASON,
                begins=None if adapter in touched else adapter,
                without=sorted(learnt.get(bucket, ())),
            )
        )
    return asked


def goes_on(version: ModelVersion) -> bool:
    """Whether a version's training went on from the adapter that it names, and did not begin anew beside it."""
    return bool(version.hyperparameters.get("warm_started", True))


async def queue(settings: Settings, asked: Iterable[BatchRetryRequest], source: str | None = None) -> list[BatchRetryRequest]:
    """Publishes those that nobody has published yet, where the trainer's policy in force says so; which those are. `source`: who
    asks. NotAllowed for who may not write to `batches`, RetryRefused."""
    wanted = list(asked)
    reader = Reader(settings)
    if not wanted or not await _is_asked_for(reader):
        return []
    known: set[str] = set()
    async with aclosing(reader.events("batches", containing=b"headrace.batch.retry.requested.v1")) as events:
        async for event in events:
            known.add(event.id)
    for request in wanted:  # before any is published: who is refused is told that there is none
        if len(without := request.without or []) > WITHOUT_LIMIT:
            raise RetryRefused(
                f"{request.bucket}: {len(without)} examples were taken back, and a request names {WITHOUT_LIMIT} at most: wait "
                "until they are withdrawn (`headrace status`), and take one of them back once more"
            )
    queued = []
    for request in wanted:
        name = derive_id("retrain", request.bucket, request.batch_id, request.begins or "", *(request.without or ()))
        if name not in known:
            await publish(settings, requested(BatchRetryRequested, request, name, source))
            queued.append(request)
    return queued


async def _is_asked_for(reader: Reader) -> bool:
    """By the newest policy of a trainer on the log."""
    newest: tuple[str, bool] = ("", False)
    async with aclosing(reader.events("rules", containing=b'"train"')) as events:
        async for event in events:
            if isinstance(event, RulesActivated) and event.data.stage == "train":
                newest = max(newest, (event.time or "", event.data.body.get(POLICY) is True))
    return newest[1]
