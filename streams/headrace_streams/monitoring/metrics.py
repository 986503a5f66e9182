"""A process's report and meters as Prometheus metrics. Knows names, labels and units; asks nobody, counts nothing.

What is durable (counters of position records) has a `partition` label, so that a partition which moves to another process goes on
there at the same value; what begins at zero with the process has none. Labels are bounded by the partitions of this process, the
tables of stages and topics, and `GAUGED_BUCKETS` buckets a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_schemas.delays import DELAY, SUM_MS, histogram_of
from headrace_schemas.topology import DEAD, RECORDS, STAGES_BY_NAME
from headrace_streams.monitoring.readiness import NOT_YET, reasons_not_ready
from headrace_streams.runtime.meters import Histogram, StageMeter
from headrace_streams.runtime.status import SlotReport, TaskReport, WorkerReport

Meters = Mapping[tuple[str, str], StageMeter]
_STAGE = ("stage", "topic")
_TASK = (*_STAGE, "partition")

TaskFigure = Callable[[TaskReport], float | None]


def _of_restore(name: str) -> TaskFigure:
    return lambda task: None if task.restore is None else getattr(task.restore, name)


# Of a task: metric, what it says, where it comes from.
_TASK_GAUGES: tuple[tuple[str, str, TaskFigure], ...] = (
    (
        "task_running",
        "1 while a task folds or trains, 0 while it starts, restores or waits to be started again.",
        lambda task: float(task.phase not in NOT_YET),
    ),
    ("lag_records", "Offsets between a task's position and what is committed on its input.", lambda task: task.lag),
    ("lag_seconds", "How long the first record that is not folded has waited.", lambda task: task.lag_seconds),
    ("last_commit_timestamp_seconds", "When a task committed last.", lambda task: task.committed),
    ("fold_timestamp_seconds", "Fold time of a task.", lambda task: task.now / 1000 if task.now else None),
    ("input_partitions", "Partitions of a task's input topic, in this process or not.", lambda task: task.partitions or None),
    ("state_keys", "Keys in a task's state.", lambda task: task.state_keys),
    ("state_restored_bytes", "State, in changelog form, that a task's last start found.", _of_restore("bytes")),
    ("restore_seconds", "A task's last start, from its fence to its first fetch.", _of_restore("seconds")),
    ("restored_records", "Changelog records that a task's last start read.", _of_restore("records")),
    ("buckets", "Buckets in a task's state; figures are shown of the first 200 by name.", lambda task: task.buckets or None),
)
BUCKET_GAUGES = {  # of a bucket, as stages name them
    "fill": "Weight of the examples that wait in a bucket.",
    "target": "The fill at which a bucket is cut.",
    "examples": "Examples that wait in a bucket.",
    "test_rows": "Rows in a bucket's test pool.",
    "batches": "Batches that were cut from a bucket.",
    "opened_timestamp_seconds": "Fold time at which an open bucket got its first example.",
    "decisions": "Answers of the release stage about a bucket.",
    "paused": "1 while a bucket's releases are paused.",
    "held_batches": "Batches that wait because of something around them, and are tried again.",
    "untrained_batches": "Batches whose rows wait for a run of their bucket.",
}


def exposition_of(report: WorkerReport, meters: Meters, deployment: str, accept: str) -> tuple[bytes, str]:
    """All metrics, and their content type, in the newest form that `accept` names."""
    registry = CollectorRegistry()
    registry.register(_Families(list(families(report, meters, deployment))))
    registry.register(ProcessCollector(registry=None))
    encode, content_type = exposition.choose_encoder(accept)
    return encode(registry), content_type


class _Families(Collector):
    """Metrics that are there already, as a registry asks for them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def families(report: WorkerReport, meters: Meters, deployment: str) -> Iterator[Metric]:
    """Every metric of a process."""
    for family in (*_process(report), _silences(report), *_tasks(report.tasks), *_meters(meters)):
        for number, sample in enumerate(family.samples):
            family.samples[number] = sample._replace(labels={"deployment": deployment, **sample.labels})
        if family.samples:
            yield family


def _process(report: WorkerReport) -> Iterator[Metric]:
    info = InfoMetricFamily("headrace_build", "What runs here.", labels=())
    info.add_metric((), {"version": version("headrace"), "group": report.group})
    yield info
    for name, text, value in (
        ("broker_away", "1 while the broker does not answer this process.", report.away is not None),
        ("joined", "1 while this process has a place in its group.", report.waiting is None),
        ("ready", "1 while /readyz says so.", not reasons_not_ready(report)),
    ):
        yield GaugeMetricFamily(f"headrace_{name}", text, value=float(value))


def _silences(report: WorkerReport) -> Metric:
    family = GaugeMetricFamily(
        "headrace_silences", "Who should speak and does not, by kind, without what is muted; of one worker.", labels=("kind",)
    )
    for kind, count in report.silences.items():
        family.add_metric((kind,), count)
    return family


def _tasks(slots: Iterable[SlotReport]) -> Iterator[Metric]:
    refused = GaugeMetricFamily(
        "headrace_task_refused", "1 while a task is refused: somebody has to look.", labels=("topic", "partition")
    )
    gauges = [GaugeMetricFamily(f"headrace_{name}", text, labels=_TASK) for name, text, _ in _TASK_GAUGES]
    buckets = {
        name: GaugeMetricFamily(f"headrace_bucket_{name}", text, labels=(*_STAGE, "bucket"))
        for name, text in BUCKET_GAUGES.items()
    }
    records = CounterMetricFamily("headrace_input_records", "Input records that tasks have folded, ever.", labels=_TASK)
    dead = CounterMetricFamily("headrace_dead_letters", "Input records that became dead letters, ever.", labels=_TASK)
    outcomes = GaugeMetricFamily(
        "headrace_outcomes",
        "Input records by what became of them, ever. What waits or is looked at again leaves its count, so this may fall.",
        labels=(*_TASK, "outcome"),
    )
    delays = HistogramMetricFamily(
        "headrace_feedback_delay_seconds",
        "How long after an answer something was said of it, ever; of link, how long feedback waited for its link.",
        labels=_TASK,
    )
    for slot in slots:
        refused.add_metric((slot.topic, str(slot.partition)), float(slot.ended == "refused"))
        task = slot.task
        if task is None:
            continue
        labels = (task.stage, task.topic, str(task.partition))
        for gauge, (_, _, value_of) in zip(gauges, _TASK_GAUGES, strict=True):
            if (value := value_of(task)) is not None:
                gauge.add_metric(labels, value)
        row = STAGES_BY_NAME.get(task.stage)
        none_yet = dict.fromkeys((RECORDS, DEAD, *(row.counters if row else ())), 0)  # so that the first of a kind is an increase
        for name, count in {**none_yet, **task.counters}.items():
            if name == RECORDS:
                records.add_metric(labels, count)
            elif name == DEAD:
                dead.add_metric(labels, count)
            elif not name.startswith(DELAY):
                outcomes.add_metric((*labels, name), count)
        if row is not None and row.is_tally(DELAY):
            bounds, counts = zip(*histogram_of(task.counters), strict=True)
            names = [*map(str, bounds[:-1]), "+Inf"]
            delays.add_metric(labels, list(zip(names, accumulate(counts), strict=True)), task.counters.get(SUM_MS, 0) / 1000)
        for bucket, figures in task.gauges.items():
            for name, value in figures.items():
                if name in buckets:
                    buckets[name].add_metric((task.stage, task.topic, bucket), value)
    yield from (refused, *gauges, records, dead, outcomes, delays, *buckets.values())


def _meters(meters: Meters) -> Iterator[Metric]:
    commits = HistogramMetricFamily("headrace_commit_seconds", "Seconds of a transaction.", labels=_STAGE)
    latency = HistogramMetricFamily(
        "headrace_latency_seconds",
        "Seconds from an input record's append time to the commit of what it led to, by this machine's clock.",
        labels=_STAGE,
    )
    trainings = HistogramMetricFamily("headrace_training_seconds", "Seconds of a training, by outcome.", labels=("outcome",))
    restarts = CounterMetricFamily("headrace_task_restarts", "Tasks that ended, by reason.", labels=(*_STAGE, "reason"))
    codes = CounterMetricFamily(
        "headrace_dead_letters_by_code", "Dead letters since this process began.", labels=(*_STAGE, "code")
    )
    outputs = CounterMetricFamily(
        "headrace_output_records", "Records written since this process began.", labels=(*_STAGE, "output")
    )
    for labels, meter in sorted(meters.items()):
        for family, histogram in ((commits, meter.commits), (latency, meter.latency)):
            _add(family, labels, histogram)
        for outcome, histogram in meter.trainings.items():
            _add(trainings, (outcome,), histogram)
        for counters, counted in ((restarts, meter.restarts), (codes, meter.dead), (outputs, meter.outputs)):
            for name, count in counted.items():
                counters.add_metric((*labels, name), count)
    yield from (commits, latency, trainings, restarts, codes, outputs)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    bounds: list[Any] = [*map(str, histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
