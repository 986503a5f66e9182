"""A publisher that writes down what the broker has acknowledged to it, outside Kafka: the truth that a run is held against.

`python -m chaos.publisher BOOTSTRAP DEPLOYMENT NAME FILE RATE`: until it is killed. A line of FILE: interaction, its number of
feedbacks, and the time of the last acknowledgement.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator

from aiokafka import AIOKafkaProducer

OPEN = 200  # pairs that may wait for their acknowledgement


def pair(name: str, number: int) -> tuple[str, bytes, list[bytes]]:
    """An interaction and its one or two feedbacks, as the contract has them."""
    interaction = f"{name}-{number}"
    data = {"interaction_id": interaction, "agent": {"name": "bot"}, "artifact_type": "sql", "model": "m",
            "prompt": f"how many orders has customer {interaction}?", "output": f"select {number}"}  # fmt: skip
    feedbacks = [("success", 100), ("validation_failure", 20)][: 1 + number % 2]
    return (
        interaction,
        _event("interaction", interaction, data),
        [
            _event("feedback", f"{interaction}-{kind}",
                   {"feedback_id": f"{interaction}-{kind}", "interaction_id": interaction, "kind": kind, "score": score})
            for kind, score in feedbacks
        ],
    )  # fmt: skip


def _event(kind: str, name: str, data: object) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    type_ = f"headrace.{kind}.recorded.v1"
    return json.dumps({"specversion": "1.0", "id": name, "source": "chaos", "type": type_, "time": now, "data": data}).encode()


async def publish(bootstrap: str, deployment: str, name: str, path: str, rate: float) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    while True:
        try:
            await producer.start()
            break
        except Exception:  # the broker is away: that is what this is about
            await asyncio.sleep(0.5)
    acknowledged = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    room = asyncio.Semaphore(OPEN)

    async def send(number: int) -> None:
        interaction, asked, told = pair(name, number)
        try:
            key = interaction.encode()
            sent = [await producer.send(f"{deployment}.interactions", asked, key=key)]
            sent += [await producer.send(f"{deployment}.feedback", each, key=key) for each in told]
            await asyncio.gather(*sent)
            os.write(acknowledged, json.dumps([interaction, len(told), time.time()]).encode() + b"\n")
        finally:
            room.release()

    waiting = set()
    for number in _forever():
        await room.acquire()
        task = asyncio.create_task(send(number))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        await asyncio.sleep(1 / rate)


def _forever() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


if __name__ == "__main__":
    bootstrap, deployment, name, path, rate = sys.argv[1:]
    asyncio.run(publish(bootstrap, deployment, name, path, float(rate)))
