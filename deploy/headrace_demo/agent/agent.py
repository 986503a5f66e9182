"""The SQL agent: answers questions about its shop, executes its answers, publishes what happened, follows releases.

An ordinary outside user of Headrace. It imports the door (`headrace`), DuckDB and its model's libraries, and nothing else of
the project: not the stages, not the trainer, not the topics. Run as a process of its own: `python -m headrace_demo.agent.agent`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers.utils.logging

import headrace
from headrace_demo.agent.serve import BATCH, Model
from headrace_demo.names import DOCS, MODEL, SQL
from headrace_demo.shop import database as shop
from headrace_demo.shop import questions
from headrace_demo.shop.exam import ExamPaper
from headrace_demo.shop.grade import Referee
from headrace_demo.shop.questions import Question

log = logging.getLogger("headrace_demo.agent.agent")

RUSH = 960  # questions at full speed after each release: it has customers, not a policy
LULL = 4  # questions at a time after a rush
LULL_SECONDS = 2.0
PATIENCE = 15  # lulls without a new release until the next rush
NOTE_EVERY = 6  # of so many questions one is also put in words for the documentation


@dataclass(frozen=True, slots=True)
class Standing:
    """What answers for one artifact type at the moment: the base (digest None) or a release of it."""

    model: Model
    digest: str | None = None


class SqlAgent:
    """Asks, answers, judges, publishes. `stop` ends it after the batch in hand."""

    def __init__(
        self,
        recorder: headrace.Recorder,
        base: Path,
        database: Path,
        seed: int,
        corrected: float,
        load: Callable[..., Model] = Model,
    ) -> None:
        """`corrected`: which share of wrong answers somebody corrects. `load(base, adapter=None)` gives the model of folders."""
        values = questions.slot_values(shop.shop_of(seed))
        self._recorder, self._base, self._load = recorder, base, load
        self._referee = Referee(database)
        self._corrected, self._owner = corrected, random.Random(f"owner:{seed}")
        self._exam = ExamPaper(seed)
        rounds = (questions.training_questions(values, seed + 1000 * turn) for turn in itertools.count())
        self._questions: Iterator[Question] = itertools.chain.from_iterable(rounds)
        plain = Standing(load(base))
        self._standing = {SQL: plain, DOCS: plain}
        self._arrived: dict[str, Standing] = {}
        self._news = threading.Event()
        self._stopped = False
        self._asked = 0
        self._described: set[str] = set()

    def stop(self) -> None:
        self._stopped = True
        self._news.set()

    def follow(self, releases: headrace.Releases) -> None:
        """Takes each release as it comes; runs in a thread of its own. A release that cannot be loaded changes nothing."""
        for release in releases.follow():
            kind = release.bucket.partition("/")[0]
            try:
                folder = release.fetch() if release.adapter else None
                arrived = Standing(self._load(self._base, folder), release.digest)
            except Exception as error:  # damaged, missing or not for this base: whatever it is, the old one goes on answering
                log.error("%s release %d is not taken, the old one stays: %s", release.bucket, release.sequence, error)
                continue
            log.info("%s release %d has arrived", release.bucket, release.sequence)
            self._arrived[kind] = arrived
            self._news.set()

    def run(self) -> None:
        """Until `stop`: an exam for whatever is new, then a rush of questions, then few at a time until something is new."""
        for kind in self._standing:
            self._hold_exam(kind)
        while not self._stopped:
            for _ in range(0, RUSH, BATCH):
                self._swap()
                self._work(BATCH)
            for _ in range(PATIENCE):
                if self._news.wait(LULL_SECONDS) and self._swap():
                    break
                self._work(LULL)

    def _swap(self) -> bool:
        """Hot-swaps what has arrived, and examines it at once. True when it answers SQL."""
        self._news.clear()
        swapped = [kind for kind in self._standing if kind in self._arrived]
        for kind in swapped:
            self._standing[kind] = self._arrived.pop(kind)
            self._hold_exam(kind)
        return SQL in swapped

    def _hold_exam(self, kind: str) -> None:
        ask = self._answer if kind == SQL else self._describe
        asked = self._exam.questions(kind)
        for first in range(0, len(asked), BATCH):
            if not self._stopped:
                ask(asked[first : first + BATCH], train=False)

    def _work(self, count: int) -> None:
        if self._stopped:
            return
        batch = list(itertools.islice(self._questions, count))
        self._answer(batch, train=True)
        first = -self._asked % NOTE_EVERY
        self._asked += len(batch)
        notes = [question for question in batch[first::NOTE_EVERY] if question.sql not in self._described]
        self._described |= {question.sql for question in notes}
        if notes:
            self._describe(notes, train=True)

    def _answer(self, batch: Sequence[Question], *, train: bool) -> None:
        """Answers in SQL; DuckDB decides."""
        standing = self._standing[SQL]
        for question, output in zip(batch, standing.model.answers([question.text for question in batch]), strict=True):
            right = self._referee.right(output, question.sql)
            self._publish(SQL, standing, question.text, output, question, right, question.sql, train)

    def _describe(self, batch: Sequence[Question], *, train: bool) -> None:
        """Puts queries in words; right is what the shop's handbook says."""
        standing = self._standing[DOCS]
        for question, output in zip(batch, standing.model.answers([question.sql for question in batch]), strict=True):
            wanted = question.description
            self._publish(DOCS, standing, question.sql, output, question, output == wanted, wanted, train)

    def _publish(
        self,
        kind: str,
        standing: Standing,
        prompt: str,
        output: str,
        question: Question,
        right: bool,
        wanted: str,
        train: bool,
    ) -> None:
        """The call and what is said of it. Of what is wrong the shop's owner corrects a share, and nothing in an exam; of the
        rest is only said that it is wrong."""
        recorder = self._recorder
        call = recorder.interaction(
            artifact_type=kind,
            model=MODEL,
            adapter=standing.digest,
            prompt=prompt,
            output=output,
            prompt_group=question.combination,
            train=train,
            attributes={"family": question.family, "level": question.level},
        )
        check: headrace.PrincipalFields = {"id": "duckdb" if kind == SQL else "handbook", "kind": "test"}
        if right:
            recorder.feedback(call, kind="success", score=100, principal=check)
            return
        recorder.feedback(call, kind="validation_failure", score=0, principal=check)
        if train and self._owner.random() < self._corrected:
            owner: headrace.PrincipalFields = {"id": "shop-owner", "kind": "human"}
            recorder.feedback(call, kind="user_correction", corrected_output=wanted, principal=owner)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs until SIGTERM or Ctrl-C. Everything that it needs to know is on its command line."""
    parser = argparse.ArgumentParser(prog="headrace_demo.agent.agent", description=__doc__)
    parser.add_argument("--bootstrap", required=True, help="Kafka, host:port")
    parser.add_argument("--deployment", required=True, help="first part of every topic name")
    parser.add_argument("--base", required=True, type=Path, help="folder of the base model")
    parser.add_argument("--database", required=True, type=Path, help="the shop's DuckDB file")
    parser.add_argument("--outbox", required=True, type=Path, help="SQLite file of what is not yet delivered")
    parser.add_argument("--store", required=True, help="folder or URL that adapters are fetched from")
    parser.add_argument("--cache", required=True, type=Path, help="folder of fetched adapters")
    parser.add_argument("--seed", required=True, type=int, help="which shop it is, and the order of questions")
    parser.add_argument("--corrected", required=True, type=float, help="share of wrong answers that somebody corrects")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    buckets = [f"{kind}/{MODEL}" for kind in (SQL, DOCS)]
    with (
        headrace.Recorder(
            given.bootstrap,
            deployment=given.deployment,
            agent="sql-bot",
            outbox=given.outbox,
            rebind_outbox=True,  # the demo's broker may come back on another port
        ) as recorder,
        headrace.Releases(
            given.bootstrap, deployment=given.deployment, buckets=buckets, store=given.store, cache=given.cache
        ) as releases,
    ):
        agent = SqlAgent(recorder, given.base, given.database, given.seed, given.corrected)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: agent.stop())
        threading.Thread(target=agent.follow, args=(releases,), daemon=True).start()
        agent.run()


if __name__ == "__main__":
    main()
