"""Forgetting on a real broker: every byte that lies on its disk and in the folders of workers, before and after; and verify."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace_lake.feeder import Feeder
from headrace_lake.kafka_log import KafkaLog
from headrace_lake.keys import sealing_of
from headrace_lake.lake_log import LakeLog
from headrace_lake.manifest import LAKE_TOPICS, LakeFolder
from headrace_lake.verify import verify
from headrace_processors.owners import feedback_owner
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import KeyIssued
from headrace_schemas.inputs import Ref
from headrace_schemas.topology import ALL_TOPICS
from headrace_streams import requests
from headrace_streams.kafka import admin, clients
from headrace_streams.kafka.config_requests import set_topic_configs
from headrace_streams.kafka.reader import Reader
from headrace_streams.local_kafka.process import LocalKafka
from headrace_streams.settings import Settings
from support.live import publish, until
from support.ring import Ring
from support.signals import feedback, interaction

pytestmark = [pytest.mark.kafka, pytest.mark.slow(seconds=120)]

SECRET = b"marked-text-of-bob"
TEXT = SECRET.decode()
INPUTS = ("interactions", "feedback")
JIRA = {"system": "jira", "id": "OPS-7"}


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker of its own, so that its whole disk is this test's."""
    with LocalKafka(tmp_path / "kafka") as broker:
        yield broker


def settings_of(kafka: LocalKafka, deployment: str, folder: Path, seal: str) -> Settings:
    policy = folder / f"{deployment}.toml"
    policy.write_text(f'[intake]\nseal = "{seal}"\n')
    return Settings(bootstrap=kafka.bootstrap, deployment=deployment, partitions=2, data_dir=folder / deployment, policy=policy)


def ring_of(settings: Settings, folder: Path) -> Ring:
    """A worker that keeps its state on this machine, too."""
    ring = Ring(settings, folder)
    ring.environment["HEADRACE_STATE_DIR"] = str(settings.data_dir / "state")
    return ring


async def declare(settings: Settings) -> None:
    """All topics; those that are compacted in seconds instead of hours."""
    await admin.declare(settings)
    soon = {
        "segment.ms": "500",
        "max.compaction.lag.ms": "1000",
        "min.cleanable.dirty.ratio": "0.01",
        "file.delete.delay.ms": "1",
    }
    names = [clients.full_name(settings, topic.name) for topic in ALL_TOPICS if topic.compacted]
    async with clients.connected(clients.admin(settings)) as client:
        assert not await set_topic_configs(client, dict.fromkeys(names, soon))


def told() -> dict[str, list[bytes]]:
    """What bob's agents and people say: of each way that a text takes."""
    texts: dict[str, Any] = {"data_subject": "bob", "prompt": f"{TEXT} asks", "output": f"{TEXT} hears", "context": TEXT}
    more: dict[str, Any] = {"attributes": {"note": TEXT}, "mystery": [TEXT], "tools": [{"name": "t", "description": TEXT}]}
    interactions = [interaction(f"b-{number}", **texts, **more) for number in range(4)]
    interactions += [interaction("b-9", refs=[JIRA], **texts), interaction("dead", **texts, turn="none")]
    interactions += [interaction("other", prompt="of somebody else", output="select 1")]
    says = [
        feedback(f"f-{number}", f"b-{number}", "user_correction", corrected_output=f"{TEXT} corrects", comment=TEXT)
        for number in range(4)
    ]
    says += [feedback("r-1", None, "user_correction", corrected_output=TEXT, ref=JIRA), feedback("o-1", "other", score=100)]
    return {"interactions": interactions, "feedback": says}


async def tell(settings: Settings, values: dict[str, list[bytes]]) -> int:
    for topic, told in values.items():
        for number, value in enumerate(told):
            await publish(settings, topic, number % 2, [(None, value)])
    return sum(map(len, values.values()))


async def readable(settings: Settings, needle: bytes) -> set[str]:
    """Topics of which some reader finds a text in key, value or headers, packed or not."""
    found = set()
    for topic in ALL_TOPICS:
        async for record in Reader(settings).read_topic(topic.name):
            parts = (record.key, record.value, *(value for _, value in record.headers))
            said = b"".join(part or b"" for part in parts)
            letters = b"".join(base64.b64decode(part) for part in _base64_values(record.value))
            if needle in said or needle in letters:
                found.add(topic.name)
    return found


async def in_lake(settings: Settings, folder: LakeFolder, needle: bytes) -> set[str]:
    """Topics of a lake, fed up to now, of which a record holds a text: its files are compressed."""
    log = KafkaLog(settings)
    folder.path.mkdir(exist_ok=True)
    feeder = Feeder(log, folder, folder.bound(settings.deployment, await log.cluster_id()), every=0.1)
    await feeder.prepare()
    async with aclosing(feeder.feed(await feeder.ends())) as steps:
        async for _ in steps:
            pass
    found = set()
    with folder.open() as manifest:
        lake = LakeLog(folder, manifest)
        for topic in LAKE_TOPICS:
            for partition in range(await lake.partitions(topic)):
                async for record in lake.read(topic, partition):
                    letters = b"".join(base64.b64decode(part) for part in _base64_values(record.value))
                    if needle in b"".join((record.key or b"", record.value or b"", letters)):
                        found.add(topic)
    return found


def record_by_an_agent(settings: Settings, outbox: Path) -> int:
    """Through the door, which keeps what it has not sent yet in a file."""
    with headrace.Recorder(settings.bootstrap, agent="bot", outbox=outbox, deployment=settings.deployment) as recorder:
        call = recorder.interaction(artifact_type="sql", model="m", prompt=TEXT, output=TEXT, data_subject="bob")
        recorder.feedback(call, kind="user_correction", corrected_output=TEXT, comment=TEXT)
        assert bytes_on_disk(outbox.parent, SECRET), "the scan finds it"
        assert recorder.flush(30)
    return 2


def _base64_values(value: bytes | None) -> Iterator[bytes]:
    if value is not None and b'"value_base64":"' in value:
        yield value.split(b'"value_base64":"')[1].split(b'"')[0]


def bytes_on_disk(folder: Path, needle: bytes) -> set[str]:
    """Files that hold a text, by their folder: of a broker, topic and partition."""
    return {path.parent.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()}


async def secrets_of(settings: Settings, owners: set[str]) -> set[bytes]:
    found = set()
    async for record in Reader(settings).read_topic("keys"):
        said = decode(record.value, record.headers)
        if isinstance(said, KeyIssued) and said.data.owner in owners:
            found.add(said.data.secret_base64.encode())
    return found


def test_after_forgetting_no_byte_of_a_text_and_of_its_key_is_left_but_on_the_inputs_and_the_log_verifies(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    plain, sealed = (settings_of(kafka, name, tmp_path, seal) for name, seal in (("plain", "none"), ("sealed", "subjects")))
    for settings in (plain, sealed):
        asyncio.run(declare(settings))
        published = asyncio.run(tell(settings, told()))
        outbox = settings.data_dir / "outbox" / "o.db"
        outbox.parent.mkdir(parents=True)
        published += record_by_an_agent(settings, outbox)
        with ring_of(settings, tmp_path / f"ring-{settings.deployment}") as ring:
            ring.start("worker")
            ring.wait(published=published, deadline=180)
    everywhere = asyncio.run(readable(plain, SECRET))
    assert {"signals", "refs", "examples", "dead-letters", "state.reward.signals", *INPUTS} <= everywhere, "the scan finds it"
    assert asyncio.run(readable(sealed, SECRET)) == set(INPUTS)
    lakes = {each.deployment: LakeFolder(each.data_dir / "lake") for each in (plain, sealed)}
    assert {"signals", "examples", "dead-letters"} <= asyncio.run(in_lake(plain, lakes["plain"], SECRET)), "the scan finds it"
    assert asyncio.run(in_lake(sealed, lakes["sealed"], SECRET)) == set()
    owners = {*(f"interaction/b-{number}" for number in (0, 1, 2, 3, 9)), "interaction/dead"}
    owners.add(feedback_owner(Ref(**JIRA), "people:test", "r-1"))
    secrets = asyncio.run(secrets_of(sealed, owners))
    assert len(secrets) == len(owners)
    keys = f"{sealed.deployment}.keys-0"
    disk = kafka.data_dir / "log"
    assert all(bytes_on_disk(disk, secret) == {keys} for secret in secrets)

    touched = asyncio.run(requests.forget(sealed, "bob"))
    assert len(touched.example_ids) == 6, "whose examples they were is told, though they do not say so"
    with ring_of(sealed, tmp_path / "ring-after") as ring:
        ring.start("worker")
        ring.wait(published=published + 1, deadline=180)
        # Whatever is compacted is compacted in closed segments: what comes later closes one.
        new = [interaction(f"n-{number}", data_subject="eve", prompt="new") for number in range(2)]

        async def gone() -> bool:
            new.append(interaction(f"n-{len(new)}", data_subject="eve", prompt="new"))
            await tell(sealed, {"interactions": new[-2:]})
            await asyncio.sleep(1)
            return not any(bytes_on_disk(disk, secret) for secret in secrets)

        asyncio.run(until(gone, 120))
    assert asyncio.run(readable(sealed, SECRET)) == set(INPUTS), "what others wrote is kept for 7 days"
    on_disk = {name for name in bytes_on_disk(disk, SECRET) if name.startswith("sealed.")}
    assert {name.rpartition("-")[0] for name in on_disk} == {f"sealed.{topic}" for topic in INPUTS}
    assert bytes_on_disk(sealed.data_dir, SECRET) == set(), "local state, outbox, lake: all that lies in the data folder"
    assert asyncio.run(in_lake(sealed, lakes["sealed"], SECRET)) == set()
    assert bytes_on_disk(plain.data_dir, SECRET), "the scan finds it in local state"

    async def check() -> None:
        log = KafkaLog(sealed)
        ring = (await sealing_of(log)).keyring
        assert all(ring.is_erased(owner) for owner in owners)
        reports = await verify(log, STAGES)
        assert [difference for report in reports.values() for difference in report.differences] == []
        assert [span for report in reports.values() for span in report.not_comparable] == []
        assert sum(report.erased for report in reports.values())

    asyncio.run(check())
