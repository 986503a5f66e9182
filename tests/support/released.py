"""Release answers and adapters as the release stage and the trainer would make them, for tests of those who read them."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

from headrace_schemas.codec import encode
from headrace_schemas.derived import Adapter, ReleaseDecision
from headrace_schemas.events import Event
from headrace_streams.adapter_store import Store
from headrace_streams.kafka import clients
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.settings import Settings
from headrace_streams.testing import written_headers

BUCKET = "sql/tiny-sql"


def safetensors(seed: int = 0) -> bytes:
    """A weights file of four floats."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<4f", seed, 1, 2, 3)


def adapter(settings: Settings, folder: Path, seed: int = 0) -> Adapter:
    """A small adapter in the store of `settings`; another `seed`, another digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(seed))
    (folder / "adapter_config.json").write_text('{"r":8}')
    return Store(settings.store).put(folder)


def release(sequence: int, adapter: Adapter | None, bucket: str = BUCKET, **fields: Any) -> ReleaseDecision:
    return ReleaseDecision(
        **{
            "release_id": f"{bucket}-{sequence}",
            "sequence": sequence,
            "bucket": bucket,
            "artifact_type": bucket.partition("/")[0],
            "base": bucket.partition("/")[2],
            "batch_ids": [],
            "reason": "better",
            "policy_digests": {},
            "request_id": f"request-{sequence}",
            "adapter": adapter,
            "version_id": f"v{sequence}" if adapter else None,
            **fields,
        }
    )


def event(kind: type[Any], data: Any, identity: str = "e") -> Event:
    made: Event = kind(specversion="1.0", id=identity, source="headrace:test", time="2026-11-21T10:00:00Z", data=data)
    return made


def write(settings: Settings, topic: str, key: str, *events: Event) -> None:
    """Appends events to the partition of `key`, acknowledged."""
    asyncio.run(awrite(settings, topic, key, *events))


async def awrite(settings: Settings, topic: str, key: str, *events: Event) -> None:
    count = (await clients.partition_counts(settings, [topic]))[topic]
    async with clients.connected(clients.producer(settings)) as producer:
        for one in events:
            partition = partition_for(key.encode(), count)
            name, headers = clients.full_name(settings, topic), list(written_headers(topic))
            await producer.send_and_wait(name, encode(one), key.encode(), partition, headers=headers)
