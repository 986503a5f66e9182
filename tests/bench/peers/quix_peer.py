# mypy: ignore-errors
"""The job in Quix Streams: exactly once, its own commit interval (5 s), state in RocksDB with a changelog."""

from job import BOOTSTRAP, FOLDER, INPUT, NAME, OUTPUT, step
from quixstreams import Application


def join(value, state):
    case, written = step(state.get_bytes("case"), value)
    if case is not None:
        state.set_bytes("case", case)
    return written


def main():
    app = Application(
        broker_address=BOOTSTRAP,
        consumer_group=NAME,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=FOLDER,
        loglevel="WARNING",
    )
    source = app.topic(INPUT, key_deserializer="bytes", value_deserializer="bytes")
    target = app.topic(OUTPUT, key_serializer="bytes", value_serializer="bytes")
    joined = app.dataframe(source).apply(join, stateful=True)
    joined.filter(lambda written: written is not None).to_topic(target)
    app.run()


if __name__ == "__main__":
    main()
