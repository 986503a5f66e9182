"""What became of a transaction that hangs, decided from what partitions show, against a model of brokers that skip markers."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_streams.kafka.transactions import ProducerState
from headrace_streams.runtime.hanging import hanging, was_committed
from headrace_streams.runtime.position import Stamp

CHANGELOG = TopicPartition("state", 0)
OUTPUTS = [TopicPartition("out", number) for number in range(3)]
PARTITIONS = [CHANGELOG, *OUTPUTS]


@dataclass
class Partition:
    """A partition's log of one producer: (transaction, its count of records here), then how each transaction ended here."""

    epoch: int = -1
    sequence: int = -1
    open: list[int] = field(default_factory=list)
    ended: dict[int, bool] = field(default_factory=dict)
    stamps: dict[int, Stamp] = field(default_factory=dict)

    def append(self, transaction: int, epoch: int, records: int, stamp: Stamp | None = None) -> None:
        if epoch != self.epoch:
            self.epoch, self.sequence = epoch, -1
        self.sequence += records
        if transaction not in self.open:
            self.open.append(transaction)
        if stamp is not None:
            self.stamps[transaction] = stamp

    def mark(self, epoch: int, committed: bool) -> None:
        for transaction in self.open:
            self.ended[transaction] = committed
        self.open = []
        if epoch != self.epoch:
            self.epoch, self.sequence = epoch, -1

    def state(self) -> ProducerState | None:
        return None if self.epoch < 0 else ProducerState(7, self.epoch, self.sequence, 0, 1 if self.open else None)

    def last_committed(self) -> Stamp | None:
        found = [self.stamps[n] for n, committed in self.ended.items() if committed and n in self.stamps]
        return found[-1] if found else None


class Log:
    """Partitions, and a producer that fills them one transaction after the other."""

    def __init__(self) -> None:
        self.partitions = {tp: Partition() for tp in PARTITIONS}
        self.epoch, self.number = 0, 0
        self.written = dict.fromkeys(OUTPUTS, 0)
        self.touched: dict[int, list[TopicPartition]] = {}

    def send(self, outputs: dict[TopicPartition, int], arrived: set[TopicPartition]) -> None:
        """A transaction's records; those for partitions that are not in `arrived` were lost with their producer."""
        self.number += 1
        for tp, records in outputs.items():
            self.written[tp] += records
        stamp = Stamp(self.epoch, {f"{tp.topic}/{tp.partition}": self.written[tp] for tp in outputs})
        self.touched[self.number] = [tp for tp in (*outputs, CHANGELOG) if tp in arrived]
        for tp, records in outputs.items():
            if tp in arrived:
                self.partitions[tp].append(self.number, self.epoch, records)
        if CHANGELOG in arrived:
            self.partitions[CHANGELOG].append(self.number, self.epoch, 1, stamp)

    def end(self, committed: bool, skipped: set[TopicPartition]) -> None:
        """As a coordinator does: an abort is never the producer's own, so it comes with a new epoch."""
        epoch = self.epoch if committed else self.epoch + 1
        for tp in self.touched[self.number]:
            if tp not in skipped:
                self.partitions[tp].mark(epoch, committed)

    def reopen(self, skipped: set[TopicPartition], administrator: bool) -> bool:
        """The next owner takes the id and ends what hangs, except where its markers are skipped too. False: some still hangs.
        Who is no administrator does it with a transaction of its own, so in its own epoch."""
        self.epoch += 2
        self.written = dict.fromkeys(OUTPUTS, 0)
        states = {tp: state for tp, partition in self.partitions.items() if (state := partition.state()) is not None}
        changelog = self.partitions[CHANGELOG]
        open_stamps = [changelog.stamps[n] for n in changelog.open if n in changelog.stamps]
        decided = was_committed(states, CHANGELOG, changelog.last_committed(), open_stamps[-1] if open_stamps else None)
        assert decided.keys() == hanging(states).keys()
        for tp, committed in decided.items():
            if tp not in skipped:
                as_its_coordinator = states[tp].epoch + (not committed)
                self.partitions[tp].mark(as_its_coordinator if administrator else self.epoch, committed)
        return not any(partition.open for partition in self.partitions.values())


subsets = st.sets(st.sampled_from(PARTITIONS))
outputs = st.dictionaries(st.sampled_from(OUTPUTS), st.integers(1, 3))


@settings(max_examples=1000)
@given(
    st.lists(outputs, max_size=4),
    outputs,
    st.just(set()) | subsets,
    st.booleans(),
    subsets,
    st.lists(st.tuples(subsets, st.booleans()), max_size=3),
    st.booleans(),
)
def test_what_hangs_ends_as_the_rest_of_its_transaction_did(
    before: list[dict[TopicPartition, int]],
    last: dict[TopicPartition, int],
    lost: set[TopicPartition],
    wanted: bool,
    skipped: set[TopicPartition],
    attempts: list[tuple[set[TopicPartition], bool]],
    administrator: bool,
) -> None:
    log = Log()
    for done in before:
        log.send(done, set(PARTITIONS))
        log.end(True, set())
    log.send(last, set(PARTITIONS) - lost)
    complete = not lost & {CHANGELOG, *last}
    committed = wanted and complete  # a producer commits only what was acknowledged
    log.end(committed, skipped)
    for skipped_again, by_administrator in attempts:  # whoever opens may die over it, and the broker may skip markers again
        log.reopen(skipped_again, by_administrator)
    assert log.reopen(set(), administrator)
    number = log.number
    ends = {log.partitions[tp].ended[number] for tp in log.touched[number]}
    assert len(ends) <= 1, "a part of the transaction is committed and another is not"
    if any(tp not in skipped for tp in log.touched[number]):
        assert ends == {committed}, "somebody may have read what its coordinator decided"
    for earlier in range(1, number):
        assert {log.partitions[tp].ended[earlier] for tp in log.touched[earlier]} == {True}
