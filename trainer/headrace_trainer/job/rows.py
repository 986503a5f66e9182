"""Rows of a job, and what became of the examples that make none. Knows members, a tokenizer and what an objective uses; trains
and judges nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from headrace_schemas.derived import Member, PromptMember
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.selection import counts_text, run_members
from headrace_trainer.data.rows import RowTokeniser, TokenisedExample, TokenisedMembers, UnfitExample
from headrace_trainer.evaluation.asked import AskedRows, bad_answers, suite_rows
from headrace_trainer.job.parts import ObjectivePart
from headrace_trainer.model.base import Base, within_positions
from headrace_trainer.model.stops import stop_ids, stop_troubles
from headrace_trainer.objectives.loss import Units
from headrace_trainer.objectives.table import OBJECTIVES
from headrace_trainer.policy import Hyperparameters
from headrace_trainer.spec import Counts, ExampleIds, JobSpec, TrainingOutcome

log = logging.getLogger("headrace")


class RowsMissing(HeadraceError):
    """Not one row of a batch can be learnt from."""


class JobRows:
    """Rows of a job, and what became of those that make none. `learnt`: how many examples something is learnt from."""

    def __init__(self, spec: JobSpec, hyper: Hyperparameters) -> None:
        self._spec, self._hyper = spec, hyper
        self.left_out: Counts = {}
        self.shortened: Counts = {}
        self.left_out_examples: ExampleIds = {}
        self.notes: list[str] = []
        self.learnt = 0
        self._unfit: list[UnfitExample] = []  # of what is asked

    def add(self, learnt: TrainingOutcome) -> None:
        """What training found."""
        self.left_out.update(learnt.left_out)
        self.shortened.update(learnt.shortened)
        self.left_out_examples.update(learnt.left_out_examples)
        self.notes += learnt.notes

    def tokenised(self, side: str, base: Base, members: Sequence[Member]) -> list[TokenisedExample]:
        """The rows of a side (training, rehearsal, validation, test); counts what is left out. MemberRefused."""
        stops = stop_ids(base.tokenizer, base.model)
        made = self._tokeniser(base, judged=side == "test").members(members, self._spec.values)
        self._count(side, made)
        used = {each.row.completion[-1] for each in made.examples} & set(stops)
        for trouble in stop_troubles(base.model, used, self._hyper.modules_to_save):
            if trouble not in self.notes:
                self.notes.append(trouble)
                log.warning(trouble)
        return made.examples

    def parts(
        self,
        base: Base,
        training: Sequence[TokenisedExample],
        rehearsal: Sequence[TokenisedExample],
        validation: Sequence[TokenisedExample],
    ) -> list[ObjectivePart]:
        """What the objective makes of the examples that are learnt from and watched; counts what no part of it can use. A part
        that has nothing is left out where another has something. RowsMissing when none has."""
        objective, tokeniser = OBJECTIVES[self._hyper.objective], self._tokeniser(base, judged=False)
        losses, examples = objective.losses(), [*training, *rehearsal]
        learnt, watched = ([loss.units(listed, tokeniser, self._hyper) for loss in losses] for listed in (examples, validation))
        parts = [ObjectivePart(loss, rows.units, seen.units) for loss, rows, seen in zip(losses, learnt, watched, strict=True)]
        unused = self._unused("training", training, learnt) + self._unused("rehearsal", rehearsal, learnt)
        self._unused("validation", validation, watched)
        self.learnt = len(examples) - unused
        able = [part for part in parts if part.rows]
        if not able:
            needs = "" if objective.name == "sft" else f" ({objective.name} needs {objective.needs})"
            raise RowsMissing(f"no row is left to learn from: {counts_text(self.left_out) or 'all were withdrawn'}{needs}")
        if len(able) < len(parts):
            for name, part, made in zip(objective.parts, parts, learnt, strict=True):
                if not part.rows:
                    why = counts_text({"training": {reason: len(ids) for reason, ids in made.left_out.items()}})
                    self.notes.append(f"{objective.name}: nothing for {name} ({why or 'no such answers'})")
                    log.warning(self.notes[-1])
        return able

    def _unused(self, side: str, examples: Sequence[TokenisedExample], parts: Sequence[Units]) -> int:
        """Counts the examples of a side that a part left out and no other one learns from; how many these are."""
        used = {unit.example_id for made in parts for unit in made.units}
        reasons = {name: reason for made in reversed(parts) for reason, ids in made.left_out.items() for name in ids}
        unused = [name for each in examples if (name := each.row.example_id) in reasons and name not in used]
        for name in unused:
            counts = self.left_out.setdefault(side, {})
            counts[reasons[name]] = counts.get(reasons[name], 0) + 1
            self.left_out_examples.setdefault(side, {}).setdefault(reasons[name], []).append(name)
        return len(unused)

    def pool(self, base: Base) -> AskedRows:
        """What the candidate is tested on: the test rows and the prompts, and wrong answers to them. MemberRefused."""
        members = run_members(self._spec.batch, self._spec.start)
        rows = [*self.tokenised("test", base, members.test), *self._prompts(base, members.prompts)]
        return AskedRows(rows, self._unfit, bad=bad_answers(rows, self._tokeniser(base, judged=True)))

    def _prompts(self, base: Base, members: Sequence[PromptMember]) -> list[TokenisedExample]:
        """The prompts without a reference, where answers to them can be graded; counts what is left out. MemberRefused."""
        grader, side = self._spec.grader, "prompts"
        why = (
            "no_grader" if grader is None
            else "needs_reference" if grader.needs_reference
            else "not_generated" if self._spec.evaluation.generate != "always"
            else None
        )  # fmt: skip
        if why is not None:
            self.left_out |= {side: {why: len(members)}} if members else {}
            return []
        made = self._tokeniser(base, judged=True).prompts(members, self._spec.values)
        self._count(side, made)
        return made.examples

    def suites(self, base: Base) -> list[AskedRows]:
        """The tasks of the suites as rows."""
        tokeniser, grader = self._tokeniser(base, judged=True), self._spec.grader
        needs = grader is not None and grader.needs_reference
        return [suite_rows(suite, self._spec.batch.bucket, tokeniser, needs_reference=needs) for suite in self._spec.suites]

    def window(self, base: Base) -> list[TokenisedExample]:
        """Rows that earlier heads can't know; what makes none is counted where they are learnt."""
        return self._tokeniser(base, judged=True).members(self._spec.window, self._spec.values).examples

    def _count(self, side: str, made: TokenisedMembers) -> None:
        for counts, found in ((self.left_out, made.left_out), (self.shortened, made.shortened)):
            if found:
                counts[side] = found
        for unfit in made.unfit:
            self.left_out_examples.setdefault(side, {}).setdefault(unfit.reason, []).append(unfit.example.example_id)
        if side in ("test", "prompts"):
            self._unfit += made.unfit

    def _tokeniser(self, base: Base, *, judged: bool) -> RowTokeniser:
        limit = within_positions(base.model.config, self._hyper.max_sequence_tokens)
        if judged and base.positions is not None:
            limit = base.positions  # what is judged is asked whole, as it will be when it is served
        return RowTokeniser(base.tokenizer, limit, stop_ids(base.tokenizer, base.model))
