# mypy: ignore-errors
"""The job in Bytewax: at least once, state in memory with snapshots in SQLite at each epoch, here of a second (its
default is 10): what it writes of state is to fall into what is measured."""

from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from job import BOOTSTRAP, FOLDER, INPUT, OUTPUT, step


def join(case, message):
    new, written = step(case, message.value)
    return (case if new is None else new), (() if written is None else (KafkaSinkMessage(message.key, written),))


def main():
    flow = Dataflow("peer")
    records = op.input("in", flow, KafkaSource([BOOTSTRAP], [INPUT], batch_size=1000))
    keyed = op.map("key", records, lambda message: (message.key.decode(), message))
    joined = op.stateful_flat_map("join", keyed, join)
    op.output("out", op.map("value", joined, lambda pair: pair[1]), KafkaSink([BOOTSTRAP], OUTPUT))
    folder = Path(FOLDER, "recovery")
    folder.mkdir(parents=True)
    init_db_dir(folder, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(folder))


if __name__ == "__main__":
    main()
