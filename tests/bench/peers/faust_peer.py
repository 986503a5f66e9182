# mypy: ignore-errors
"""The job in Faust: at least once, a table in memory with a changelog."""

import faust
from job import BOOTSTRAP, FOLDER, INPUT, NAME, OUTPUT, step

app = faust.App(
    NAME,
    broker=f"kafka://{BOOTSTRAP}",
    store="memory://",
    datadir=FOLDER,
    topic_partitions=4,
    topic_replication_factor=1,
    key_serializer="raw",
    value_serializer="raw",
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
)
source = app.topic(INPUT, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)
target = app.topic(OUTPUT, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)
cases = app.Table("cases", partitions=4, key_type=bytes, value_type=bytes)


@app.agent(source)
async def join(stream):
    async for key, value in stream.items():
        case, written = step(cases.get(key), value)
        if case is not None:
            cases[key] = case
        if written is not None:
            await target.send(key=key, value=written)


if __name__ == "__main__":
    app.main()
