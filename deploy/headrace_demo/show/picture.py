"""What the demo shows, as a fold over the topics' events: questions, buckets, training, releases. Knows no Kafka, no screen.

Everything shown comes from the log. Success of a release is counted from its exam: the held-out questions (`train` false) that
its adapter answered, under the heading that its paper gives each, right when the log says so (score 100).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb

from headrace_schemas import derived, events
from headrace_schemas.splits import split_of

RECENT = 64  # answers that the rolling rate looks at


@dataclass
class Exam:
    """Held-out questions of one heading that one adapter answered: question -> was it right."""

    answers: dict[str, bool] = field(default_factory=dict)

    @property
    def right(self) -> int:
        return sum(self.answers.values())

    @property
    def total(self) -> int:
        return len(self.answers)

    @property
    def rate(self) -> float:
        return self.right / self.total if self.total else 0.0


@dataclass
class Row:
    """A promoted release of a bucket; its base is row 0."""

    bucket: str
    sequence: int
    digest: str | None
    seconds: float
    gate: str = ""
    served: float | None = None  # seconds when its first answer was seen
    version: str | None = None


@dataclass
class Control:
    """The control arm beside a release: how many were right of how many, by heading, and what it was."""

    bucket: str
    sequence: int
    right: Mapping[str, int]
    asked: Mapping[str, int]
    text: str


@dataclass
class Training:
    """The run under way, or the last one."""

    bucket: str
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    phase: str = "starting"
    losses: list[float] = field(default_factory=list)


class Picture:
    """Feed it `take(event, seconds since start)`. Times are seconds since the demo's start. `papers`: of each bucket, the prompts
    of its exam and the heading that each is counted under."""

    def __init__(self, main: str, targets: Mapping[str, float], papers: Mapping[str, Mapping[str, str]]) -> None:
        self.main, self.targets, self._papers = main, dict(targets), papers
        self.scores: dict[str, bool] = {}  # interaction -> right, of answers of the main bucket that are no exam
        self.recent: deque[bool] = deque(maxlen=RECENT)
        self.rates: deque[float] = deque(maxlen=48)
        self.open: dict[str, set[str]] = {bucket: set() for bucket in targets}
        self.batches: dict[str, int] = dict.fromkeys(targets, 0)
        self._cut: set[str] = set()
        self._newest: dict[str, int] = {}  # example -> revision
        self._unfit: dict[str, int] = {}  # example -> revision that was rejected; topics come in no order between them
        self._exams: dict[tuple[str, str | None, str], Exam] = {}  # bucket, adapter, heading
        self.training: Training | None = None
        self.verdict = ""
        self.rows: list[Row] = [Row(bucket, 0, None, 0.0, "the base model") for bucket in papers]
        self.news: list[tuple[float, str]] = []
        self.control: Control | None = None

    def take(self, event: events.Event, seconds: float) -> None:
        """Events that say nothing for the picture are ignored."""
        match event:
            case events.ExampleRewarded(data=example):
                self._example(example, seconds)
            case events.ExampleRejected(data=rejection):  # a duplicate, say
                name, revision = rejection.example_id, rejection.revision
                self._unfit[name] = max(revision, self._unfit.get(name, 0))
                if self._newest.get(name, 0) <= revision:
                    self.open.setdefault(rejection.bucket, set()).discard(name)
            case events.BatchReady(data=batch):
                self.batches[batch.bucket] = self.batches.get(batch.bucket, 0) + 1
                gone = {member.example_id for member in batch.members}
                self._cut |= gone
                self.open.setdefault(batch.bucket, set()).difference_update(gone)
                counted = f"{batch.statistics.examples} examples, {len(batch.test_pool)} test rows"
                self._say(seconds, f"{batch.bucket}: batch {self.batches[batch.bucket]} is cut ({counted})")
            case events.TrainingStarted(data=started):
                self.training = Training(started.bucket)
            case events.TrainingProgressed(data=moment):
                self._progress(moment)
            case events.TrainingFailed(data=failure):
                self._say(seconds, f"{failure.bucket}: training failed: {failure.error}")
            case events.EvaluationCompleted():
                if self.training is not None:
                    self.training.phase = "evaluated"
            case events.ReleasePromoted(data=release):
                self._promoted(release, seconds)
            case events.ReleaseDeclined(data=release):
                self.verdict = f"{release.bucket}: {verdict_of(release)}"
                self._say(seconds, self.verdict)
            case _:
                pass

    def exams(self, row: Row) -> dict[str, Exam]:
        """What a row answered so far, by heading."""
        headings = dict.fromkeys(self._papers.get(row.bucket, {}).values())
        return {heading: self._exams.get((row.bucket, row.digest, heading), Exam()) for heading in headings}

    def rows_of(self, bucket: str) -> list[Row]:
        """The base and the promoted releases of a bucket, in order."""
        return [row for row in self.rows if row.bucket == bucket]

    def complete(self, releases: int) -> bool:
        """True when that many releases of the main bucket were promoted and the last one's exam is over."""
        rows = self.rows_of(self.main)
        asked = Counter(self._papers[self.main].values())
        return len(rows) > releases and all(exam.total >= asked[name] for name, exam in self.exams(rows[releases]).items())

    def _example(self, example: derived.Example, seconds: float) -> None:
        right = None if example.score is None else example.score > 70
        if not example.train:
            heading = self._papers.get(example.bucket, {}).get(prompt := str(example.content.prompt))
            if right is not None and heading is not None:
                self._exams.setdefault((example.bucket, example.adapter, heading), Exam()).answers[prompt] = right
            self._seen(example, seconds)
            return
        self._newest[example.example_id] = example.revision
        learnt = example.components.correction is not None or right
        fits = example.example_id not in self._cut and example.revision > self._unfit.get(example.example_id, 0)
        if learnt and fits and split_of(example.bucket, example.prompt_group) == "train":
            self.open.setdefault(example.bucket, set()).add(example.example_id)
        if example.bucket == self.main and right is not None and example.interaction_id not in self.scores:
            self.scores[example.interaction_id] = right
            self.recent.append(right)
            if len(self.scores) % 16 == 0:
                self.rates.append(sum(self.recent) / len(self.recent))
        self._seen(example, seconds)

    def _seen(self, example: derived.Example, seconds: float) -> None:
        for row in self.rows:
            if row.bucket == example.bucket and row.digest == example.adapter and row.served is None:
                row.served = seconds
                if row.digest is not None:
                    self._say(seconds, f"{row.bucket}: the agent has swapped to release {row.sequence}")

    def _progress(self, moment: derived.TrainingProgress) -> None:
        if self.training is None or self.training.bucket != moment.bucket:
            self.training = Training(moment.bucket)
        run = self.training
        run.step, run.steps, run.loss, run.phase = moment.step, moment.steps, moment.loss, moment.phase
        if moment.phase == "training":
            run.losses.append(moment.loss)

    def _promoted(self, release: derived.ReleaseDecision, seconds: float) -> None:
        digest = release.adapter.digest if release.adapter else None
        if any(row.bucket == release.bucket and row.sequence == release.sequence for row in self.rows):
            return
        gate = gate_of(release)
        self.rows.append(Row(release.bucket, release.sequence, digest, seconds, gate, version=release.version_id))
        self.verdict = f"{release.bucket}: promoted, {gate}"
        self._say(seconds, f"{release.bucket}: release {release.sequence} is promoted ({gate})")

    def _say(self, seconds: float, line: str) -> None:
        self.news.append((seconds, line))


def gate_of(release: derived.ReleaseDecision) -> str:
    """What the gate knew of a version when it was promoted; its reason where it was promoted otherwise."""
    for head in release.evidence or ():
        if head.version_id == release.version_id:
            looks = "look" if head.looks == 1 else "looks"
            return (
                f"{head.measure} gain {head.mean:.2f} on {head.groups} groups in {head.looks} {looks}, "
                f"evidence {head.capital:.1f} of {head.needed:.1f} nats"
            )
    return release.reason


def verdict_of(release: derived.ReleaseDecision) -> str:
    """Why a version is not served, by the name of the rule and the figures."""
    figures = gate_of(release)
    if figures == release.reason:
        return f"declined, {figures}"
    return f"{': '.join(release.reason.split(': ')[:2])} ({figures})"


def worse(before: Exam, after: Exam) -> float:
    """One-sided exact sign test over the questions that both answered: the chance of so many losses if neither were better.
    Below 0.05 `after` is significantly worse."""
    both = before.answers.keys() & after.answers.keys()
    lost = sum(before.answers[question] and not after.answers[question] for question in both)
    won = sum(after.answers[question] and not before.answers[question] for question in both)
    return float(sum(comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won))
