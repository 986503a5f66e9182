"""What tests of the door share: the log as an outsider's client reads it. Imports nothing of headrace."""

from __future__ import annotations

import json
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition


def _span(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """First and next offset. A new topic's leader is not known everywhere at once: asked again for ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        except KafkaException as error:
            if not error.args[0].retriable() and "NOT_LEADER" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return low, high


def consume(bootstrap: str, topic: str) -> list[tuple[str, dict[str, Any]]]:
    """(key, event) of every record that is in `topic` (full name) now, partition by partition, read with confluent-kafka."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "outsider", "enable.auto.commit": False, "auto.offset.reset": "error"}
    )
    found = []
    try:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = _span(consumer, topic, partition)
            consumer.assign([TopicPartition(topic, partition, low)])
            position = low
            while position < high:
                message = consumer.poll(10)
                assert message is not None, f"{topic}/{partition} at {position} of {high}: nothing comes"
                assert message.error() is None, message.error()
                offset = message.offset()
                assert offset is not None
                position = offset + 1
                key, value = message.key(), message.value()
                assert key is not None
                assert value is not None
                found.append((key.decode(), json.loads(value)))
    finally:
        consumer.close()
    return found
