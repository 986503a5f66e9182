"""What all train tasks of a process share: settings, policy, hardware, adapter store, and a slot for one job at a time.

Knows how pins are chosen and a job is specified; nothing of offsets, transactions or attempts.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from headrace_schemas.canonical import digest
from headrace_schemas.derived import BaseIdentity, Batch, HeadReference, Member, SamplesReference, TrainingStart
from headrace_schemas.selection import run_members, without_withdrawn
from headrace_streams import release_log
from headrace_streams.adapter_files import AdapterRefused, StoreError, file_sha256, hexadecimal
from headrace_streams.adapter_store import Store, fetch
from headrace_streams.kafka.reader import Reader
from headrace_streams.settings import Settings
from headrace_trainer import suites
from headrace_trainer.data.members import MemberRefused, RecordValues, key_of, verify
from headrace_trainer.job.plan import describe, plan_of
from headrace_trainer.job.process import Hardware, in_child, probe_hardware
from headrace_trainer.model.hub import BaseFolder, folder_of
from headrace_trainer.model.identity import BaseChanged, FileNotes, changes, identify
from headrace_trainer.objectives.table import OBJECTIVES
from headrace_trainer.policy import Hyperparameters, TrainerPolicy, load
from headrace_trainer.spec import JobResult, JobSpec, MemoryPlan, TeacherSpec
from headrace_trainer.stage import catalogue, events
from headrace_trainer.stage.catalogue import Catalogue
from headrace_trainer.stage.events import Origin
from headrace_trainer.stage.rehearsal import rehearsal_rows
from headrace_trainer.stage.run_folders import RunFolders
from headrace_trainer.stage.taken_back import VersionOrigin, retrained
from headrace_trainer.suites import Suite

log = logging.getLogger("headrace")


class Pins(NamedTuple):
    """`rehearsed`: the records of the rehearsal rows, which were read to verify them."""

    start: TrainingStart
    rehearsed: RecordValues


class KnownBase(NamedTuple):
    """Where a base's files are, and what they are."""

    folder: BaseFolder
    identity: BaseIdentity


class TrainerContext:
    """`hardware` is what jobs run on; whoever starts a job holds `job_slot` while it runs. PolicyError for a file that is no
    suite."""

    def __init__(self, settings: Settings, policy: TrainerPolicy, hardware: Hardware) -> None:
        self.settings, self.policy, self.hardware = settings, policy, hardware
        self.store, self.reader = Store(settings.store), Reader(settings)
        self.job_slot = asyncio.Semaphore(1)
        self._plans: dict[str, MemoryPlan] = {}
        self._suites = suites.read_all(policy.suites)
        self.folder = settings.data_dir / "trainer" / settings.deployment
        self._cache = self.folder / "cache"
        self.run_folders = RunFolders(self.folder)

    def weights_of(self, base: str) -> str | None:
        """Where the base's weights are, or None: then nothing can be trained for it."""
        mapped = self.policy.bases.get(base)
        return None if mapped is None else mapped.weights

    def suites_of(self, bucket: str) -> list[Suite]:
        """What versions of a bucket are asked beside its test rows, as the files said it at the start. PolicyError when they
        can't be asked together."""
        return suites.together([self._suites[file] for file in self.policy.suite_files_of(bucket)])

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / run_id

    async def base_of(self, name: str, tell: Callable[[str, int, int], None] = lambda phase, done, whole: None) -> KnownBase:
        """A base that policy maps: downloaded where it is not here yet, and looked at file by file; `tell` hears phase, bytes
        done and in all. BaseMissing; BaseChanged when it is not what policy says."""
        mapped = self.policy.bases[name]

        def find() -> KnownBase:
            folder = folder_of(mapped, lambda done, whole: tell("downloading", done, whole))
            notes = FileNotes(self.folder / "bases.json")
            hashed = identify(
                folder.path, notes, revision=folder.revision, quantisation=mapped.quantisation,
                on_hashed=lambda done, whole: tell("hashing", done, whole),
            )  # fmt: skip
            return KnownBase(folder, hashed)

        known = await asyncio.to_thread(find)
        if mapped.identity is not None and known.identity.digest != mapped.identity:
            raise BaseChanged(
                f"base_changed: base {name!r} at {known.folder.path} is {known.identity.digest}, and "
                f"train.bases.{name}.identity says {mapped.identity}: put the files back, or write what it is"
            )
        return known

    def check_base(self, name: str, known: KnownBase, before: BaseIdentity | None) -> None:
        """BaseChanged when the base is another than `before`: an adapter of the one is none of the other, and what agents
        load by that name may be either."""
        if before is None or not (changed := changes(before, known.identity)) or self.policy.bases[name].identity is not None:
            return
        raise BaseChanged(
            f"base_changed: base {name!r} at {known.folder.path} is not what it was in the last run ({changed}): put the files "
            f'back, map the new ones to another name, or, if they may stand for the old ones, write identity = "'
            f'{known.identity.digest}" under train.bases.{name}'
        )

    def teacher_of(self, bucket: str, start: TrainingStart | None) -> str | None:
        """The base that teaches a run of a bucket, by its pins if it has begun; None where none does. BaseChanged when policy
        maps it no more."""
        hyper = self.policy.hyperparameters(bucket) if start is None else Hyperparameters.from_wire(start.hyperparameters)
        if not OBJECTIVES[hyper.objective].taught or hyper.teacher is None:
            return None
        if hyper.teacher not in self.policy.bases:
            raise BaseChanged(f"no_teacher: no weights are mapped to base {hyper.teacher!r}, which is to teach {bucket}")
        return hyper.teacher

    def precision_of(self, hyper: Hyperparameters) -> str:
        """The number format that is computed in, where `auto` is what this machine has."""
        return self.hardware.precision if hyper.precision == "auto" else hyper.precision

    async def job_spec(
        self,
        origin: Origin,
        start: TrainingStart,
        base: KnownBase,
        rehearsed: RecordValues,
        known: Catalogue,
        teacher: KnownBase | None = None,
    ) -> JobSpec:
        """The job of pinned `start`, with all adapters that its pins name and the records of all its members, as far as they are
        there; those in `rehearsed` are not read again. KeyError when the base has no weights; AdapterRefused, StoreError."""
        policy, batch = self.policy, origin.batch
        mapped = policy.bases[batch.base]
        parent = await self.adapter_folder(start.parent_adapter)
        members = [member for member in run_members(batch, start).all() if key_of(member) not in rehearsed]
        values = {**rehearsed, **await catalogue.values_of(self.reader, members)}
        heads = {head.version_id: await self.adapter_folder(head.adapter) for head in start.heads or ()}
        if heads:
            await known.refresh(batch.bucket)
        return JobSpec(
            start=start, batch=batch, weights=str(base.folder.path), hub_name=base.folder.hub_name, values=values, parent=parent,
            learner=await self.adapter_folder(start.learner_adapter), optimiser=await self.adapter_folder(start.optimiser),
            heads={version: folder for version, folder in heads.items() if folder is not None},
            watched=await self.adapter_folder(start.watched.adapter if start.watched else None),
            attn_implementation=mapped.attn_implementation, trust_remote_code=mapped.trust_remote_code,
            quantisation=mapped.quantisation,
            folder=self.run_folder(start.run_id), evaluation=policy.evaluation, requirements=policy.requirements_of(batch.bucket),
            grader=policy.graders.get(batch.artifact_type), suites=self.suites_of(batch.bucket), device=self.hardware.device,
            window=await self._window(batch, start, origin.record.offset, known) if heads else [],
            teacher=self._teacher_spec(start, teacher),
            threads=policy.threads, checkpoint_seconds=policy.checkpoint_seconds, processes=policy.processes,
        )  # fmt: skip

    async def _window(self, batch: Batch, start: TrainingStart, before: int, known: Catalogue) -> list[Member]:
        """Rows that no earlier head can know."""
        made = await catalogue.versions_of(self.reader, batch.bucket)
        avoided = any(OBJECTIVES[version.hyperparameters.get("objective", "sft")].avoids for version in made)
        return known.members_of_new_groups(without_withdrawn(batch, start.withdrawn), before, avoided=avoided)

    def _teacher_spec(self, start: TrainingStart, teacher: KnownBase | None) -> TeacherSpec | None:
        if teacher is None:
            return None
        mapped = self.policy.bases[start.hyperparameters["teacher"]]
        return TeacherSpec(str(teacher.folder.path), mapped.attn_implementation, mapped.trust_remote_code, mapped.quantisation)

    async def store_samples(
        self, batch: Batch, start: TrainingStart, result: JobResult, known: Catalogue
    ) -> SamplesReference | None:
        """Puts the samples of an evaluation into the store, and removes old ones from it. None when there are none to keep, or
        somebody took an example of the batch back since the run began. StoreError."""
        if result.samples is None:
            return None
        await known.refresh(batch.bucket)
        if set(known.withdrawn_of(batch)) - set(start.withdrawn or ()):
            log.info("%s: no samples are kept of run %s: examples were taken back meanwhile", batch.bucket, start.run_id)
            # An attempt that was cut off before its evaluation was on the log may have put them there.
            digest = await asyncio.to_thread(file_sha256, result.samples.path)
            await asyncio.to_thread(self.store.remove_samples, digest)
            return None
        digest = await asyncio.to_thread(self.store.put_samples, result.samples.path)
        before = datetime.now(UTC) - timedelta(days=self.policy.evaluation.samples_days)
        try:
            await asyncio.to_thread(self.store.remove_samples_before, before)
        except StoreError as error:  # old ones wait for the next time; the evaluation need not
            log.warning("%s: %s", batch.bucket, error)
        return SamplesReference(sha256=digest, rows=result.samples.rows, batch_id=batch.batch_id)

    async def store_optimiser(self, result: JobResult) -> str | None:
        """Digest of the optimiser's state, put into the store for the run that goes on with it; None when none is kept.
        StoreError."""
        if result.optimiser is None:
            return None
        return (await asyncio.to_thread(self.store.put, result.optimiser)).digest

    async def taken_back(self, start: TrainingStart, adapter: str, warm_started: bool, known: Catalogue) -> dict[str, str]:
        """Why heads that a run names count no more, and its own version of this `adapter` with them, by version: they have learnt
        what was taken back until now."""
        own = HeadReference(version_id=events.version_id(start.run_id), adapter=adapter)
        begins = start.learner_adapter or start.parent_adapter
        learnt = VersionOrigin(own.version_id, start.run_id, start.batch_id, begins, warm_started)
        await known.refresh(start.bucket)
        chain = await known.chain(start.bucket, {adapter: learnt})
        heads = (*(start.heads or ()), *(start.taken_back or ()), own)
        reasons = {head.version_id: chain.reason(head.adapter, start.parent_adapter) for head in heads}
        return {version_id: reason for version_id, reason in reasons.items() if reason is not None}

    async def optimiser_of(self, bucket: str, adapter: str, objective: str) -> str | None:
        """Digest of the optimiser's state of the run that an adapter is of; None when none was kept, or it is not in the store
        any more: no bucket is held up by that, and the run's pins say so. StoreError."""
        digest = await catalogue.optimiser_of(self.reader, bucket, adapter, objective)
        try:
            await self.adapter_folder(digest)
        except AdapterRefused as error:
            log.warning("%s: the optimiser begins anew: of the state of its last run, %s", bucket, error)
            return None
        return digest

    async def adapter_folder(self, digest: str | None) -> Path | None:
        """The folder of an adapter in the store, verified. AdapterRefused, StoreError."""
        if digest is None:
            return None
        return await asyncio.to_thread(fetch, self.store, digest, self._cache)

    def clear(self, start: TrainingStart) -> None:
        """Removes what a run that is over has left on this machine, and its copy of the optimiser's state, which is twice an
        adapter's size and as a rule asked for by no other run."""
        shutil.rmtree(self.run_folder(start.run_id), ignore_errors=True)
        if start.optimiser is not None:
            shutil.rmtree(self._cache / "adapters" / hexadecimal(start.optimiser), ignore_errors=True)

    async def choose_pins(
        self,
        origin: Origin,
        known: Catalogue,
        base: KnownBase,
        untrained: tuple[str, ...] = (),
        teacher: KnownBase | None = None,
    ) -> Pins:
        """The pins of a batch as of now. Rows of earlier batches that are not what their manifest says are left out, or one bad
        batch would fail all later ones. JobFailed, StoreError."""
        batch = origin.batch
        hyper = self.policy.hyperparameters(batch.bucket)
        planned, retrain = await self._plan(batch, base, hyper), origin.retrain
        await known.refresh(batch.bucket)
        stands = await catalogue.standing_of(self.reader, batch.bucket)
        chain = await known.chain(batch.bucket)
        learner, left = chain.clean(stands)
        if retrain is not None:
            made = await catalogue.versions_of(self.reader, batch.bucket)
            learner = retrained(stands, chain.begin(retrain.begins), made)  # who asked knows of one taking back alone
            if learner.adapter is None:
                planned |= {"warm_start": False}
        elif learner.adapter != stands.adapter:
            log.warning(
                "%s: examples were taken back: the learner goes on from %s", batch.bucket, learner.adapter or "what is served"
            )
        if learner.restarted:  # what the chain learnt since is not in what the run begins from
            since = known.batches_after(batch.bucket, learner.batches, origin.record.offset)
            untrained = tuple(dict.fromkeys((*untrained, *since)))
        avoids = OBJECTIVES[hyper.objective].avoids
        without = frozenset(() if retrain is None else retrain.without or ())
        earlier = known.earlier_members(batch.bucket, origin.record.offset, avoids=avoids)
        whole = known.members_of(untrained, avoids=avoids)
        if without:
            earlier, whole = ([member for member in rows if member.example_id not in without] for rows in (earlier, whole))
        rows = rehearsal_rows(batch, earlier, hyper.rehearsal, whole, avoids=avoids, chosen_by=known.group_of if avoids else str)
        values = await catalogue.values_of(self.reader, rows)
        served = (await release_log.served(self.reader, batch.bucket)).get(batch.bucket)
        begins = learner.adapter or release_log.adapter_digest(served)
        carries = begins is not None and hyper.warm_start and hyper.carry_optimiser and retrain is None
        start = events.pins(
            origin, self.policy, self.precision_of(hyper), planned=planned, parent_adapter=release_log.adapter_digest(served),
            optimiser=await self.optimiser_of(batch.bucket, begins, hyper.objective) if begins and carries else None,
            parent_release_id=served.release_id if served else None,
            rehearsal=[member for member in rows if _verified(member, values)], withdrawn=known.withdrawn_of(batch, without),
            base_identity=base.identity, surroundings=self.hardware.surroundings, learner=learner,
            suites=self.suites_of(batch.bucket), taken_back=left, teacher=None if teacher is None else teacher.identity,
        )  # fmt: skip
        return Pins(start, {key: values[key] for key in map(key_of, start.rehearsal)})

    async def _plan(self, batch: Batch, base: KnownBase, hyper: Hyperparameters) -> dict[str, Any]:
        """The hyperparameters that memory decides: pinned, so that the same run needs no second look at another machine's."""
        key = digest([base.identity.digest, hyper.body()])
        if key not in self._plans:
            mapped = self.policy.bases[batch.base]
            self._plans[key] = await in_child(
                plan_of, base.folder.path, hyper, self.hardware.device, self.precision_of(hyper), self.policy.memory_gb,
                mapped.attn_implementation, mapped.trust_remote_code, self.policy.processes,
                mapped.quantisation,
            )  # fmt: skip
            log.info("%s: %s", batch.bucket, describe(self._plans[key]))
        plan: MemoryPlan = self._plans[key]
        return {"batch_tokens": plan.batch_tokens, "activation_checkpointing": plan.activation_checkpointing}


async def context_of(settings: Settings, device: str) -> TrainerContext:
    """By the policy of `settings`, on `device` ("auto": what there is). PolicyError, JobFailed."""
    policy = load(settings.policy)
    return TrainerContext(settings, policy, await probe_hardware(device, policy.threads, policy.processes))


def _verified(member: Member, values: RecordValues) -> bool:
    try:
        verify(member, values.get(key_of(member)))
    except MemberRefused as error:
        log.warning("not rehearsed: %s", error)
        return False
    return True
