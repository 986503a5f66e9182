"""How good the data of a batch is, in figures with targets, and its sample for people. Knows examples and batches; no log.

Agreement is the share of rows with several voices in which none contradicts another: what two raters said of one row stands in no
example, so coefficients that correct for chance (Krippendorff's alpha) would need the feedback itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
from msgspec import Struct

from headrace_lake.dataset import DatasetExample
from headrace_processors.quality_policy import QualityPolicy
from headrace_schemas.canonical import digest, rounded, sha256
from headrace_schemas.derived import Batch, Example
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Feedback, Principal
from headrace_schemas.plain_chat import answer_text, prompt_text
from headrace_schemas.root_error import USAGE, HeadraceError

OTHER = "other"
_DROPPED = ("duplicate", "near_duplicate")
_SAID = ("kind", "score", "corrected_output", "comment")


class QualityFigure(Struct, frozen=True, kw_only=True):
    """A figure of a batch. `value` None: nothing of the batch tells it. `met` None: it has no target, or no value."""

    name: str
    value: float | None
    target: float | None = None
    met: bool | None = None
    meaning: str = ""


class BatchQuality(Struct, frozen=True, kw_only=True):
    """A batch in figures; `task_types`, `roles`, `styles`: rows of each; `dropped`: duplicates since the batch before."""

    batch_id: str
    bucket: str
    rows: int
    figures: list[QualityFigure]
    task_types: dict[str, int]
    roles: dict[str, int]
    styles: dict[str, int]
    dropped: dict[str, int]

    @property
    def missed(self) -> list[str]:
        """Names of the targets that are not met."""
        return [figure.name for figure in self.figures if figure.met is False]


def quality_of(
    batch: Batch, rows: Sequence[DatasetExample], policy: QualityPolicy, known_roles: Iterable[str] = ()
) -> BatchQuality:
    """`rows`: what is learnt of the batch; `known_roles`: that the bucket ever had."""
    examples = [row.example for row in rows]
    types = Counter(task_type(example, policy.task_types) for example in examples)
    roles = Counter(example.agent.role or example.agent.name for example in examples)
    styles = Counter(style_of(example) for example in examples)
    wanted_roles = set(policy.roles) or {*known_roles, *roles}
    named = Counter({name: types[name] for name in policy.task_types})
    left_out = batch.statistics.left_out or {}
    dropped = {name: left_out[name] for name in _DROPPED if left_out.get(name)}
    told = [example for example in examples if example.voices > 1]
    seen = len(examples) + sum(dropped.values())
    figures = [
        _figure("task_types", _covered(named, policy.task_types), policy.coverage, "share of kinds of tasks with a row"),
        _figure("task_entropy", evenness(types) if policy.task_types else None, policy.entropy, "evenness of kinds of tasks"),
        _figure("roles", _covered(roles, wanted_roles), policy.coverage, "share of roles with a row"),
        _figure("group_entropy", evenness(Counter(example.prompt_group for example in examples)), policy.entropy,
                "evenness of prompt groups"),
        _figure("verified", _share(examples, lambda each: _verified(each, policy.verified_score)), policy.verified,
                f"share corrected, or scored {policy.verified_score:g} or more"),
        _figure("corrected", _share(examples, lambda each: each.components.correction is not None), None, "share corrected"),
        _figure("contradicted", _share(examples, lambda each: each.contradicted), None, "share with voices of opposite sign"),
        _figure("agreement", _share(told, lambda each: not each.contradicted), policy.agreement,
                "share without contradiction of rows with several voices"),
        _figure("duplicates", sum(dropped.values()) / seen if seen else None, None, "share dropped as duplicates"),
        _figure("style", max(styles.values()) / len(examples) if examples else None, policy.style,
                "share of answers in the most frequent style"),
        _figure("looked_at", _share(examples, _looked_at), policy.looked_at, "share that a person has judged"),
    ]  # fmt: skip
    return BatchQuality(
        batch_id=batch.batch_id, bucket=batch.bucket, rows=len(examples), figures=figures, task_types=dict(types),
        roles=dict(roles), styles=dict(styles), dropped=dropped,
    )  # fmt: skip


def task_type(example: Example, patterns: Mapping[str, str]) -> str:
    """The first kind whose pattern is found in what was asked; `other` for none."""
    asked = prompt_text(example.content.prompt)
    return next((name for name, pattern in patterns.items() if re.search(pattern, asked, re.IGNORECASE)), OTHER)


def style_of(example: Example) -> str:
    """How an answer looks: fenced code, JSON, a list, a word, or prose with a full stop or without; one line or more."""
    text = answer_text(example.content.target).strip()
    lines = "one line" if "\n" not in text else "lines"
    if "```" in text:
        return "fenced code"
    if text[:1] in ("{", "["):
        return "json"
    if re.search(r"^\s*(?:[-*]|\d+[.)]) ", text, re.MULTILINE):
        return "list"
    if len(text.split()) < 2:
        return "one word"
    return f"{lines}, {'full stop' if text[-1:] in '.!?' else 'open end'}"


def evenness(counts: Mapping[str, int]) -> float | None:
    """Shannon entropy over its largest value, `-Σ p·log p / log k`; 1 for one kind alone; None without any."""
    values = [count for count in counts.values() if count]
    if len(values) < 2:
        return 1.0 if values else None
    total = sum(values)
    return -math.fsum(count / total * math.log(count / total) for count in values) / math.log(len(values))


def _covered(counts: Mapping[str, int], wanted: Iterable[str]) -> float | None:
    names = set(wanted)
    return sum(1 for name in names if counts.get(name)) / len(names) if names else None


def _share(examples: Sequence[Example], holds: Any) -> float | None:
    return sum(1 for example in examples if holds(example)) / len(examples) if examples else None


def _verified(example: Example, score: float) -> bool:
    return example.components.correction is not None or (example.score is not None and example.score >= score)


def _looked_at(example: Example) -> bool:
    return any(principal.startswith("human:") for principal in example.principals or ())


def _figure(name: str, value: float | None, target: float | None, meaning: str) -> QualityFigure:
    met = None if value is None or target is None else value >= target - 1e-12
    return QualityFigure(name=name, value=None if value is None else rounded(value), target=target, met=met, meaning=meaning)


def sample_of(batch: Batch, rows: Sequence[DatasetExample], share: float) -> list[dict[str, Any]]:
    """So many of the rows, at least one, for people to judge; the same at every call. Of each what was asked and answered, and
    the fields that people fill in, which `feedback_of` reads."""
    ordered = sorted(rows, key=lambda row: sha256(f"{batch.batch_id} {row.example.example_id}".encode()))
    chosen = ordered[: max(1, math.ceil(len(ordered) * share))] if ordered else []
    return [
        {
            "interaction_id": example.interaction_id, "prompt": prompt_text(example.content.prompt, example.content.context),
            "output": answer_text(example.content.output), "target": answer_text(example.content.target),
            **dict.fromkeys(_SAID),
        }
        for example in (row.example for row in chosen)
    ]  # fmt: skip


class SampleInvalid(HeadraceError):
    """A sample file that cannot come back; the message names line, field and value."""

    exit_code = USAGE


class SampleFeedback(NamedTuple):
    """What one line says. `feedback_id` follows from batch, rater and what is said: read again it is the same feedback, and who
    thinks better of it says something new."""

    feedback: Feedback
    line: int


def feedback_of(lines: Iterable[str], batch: Batch, rows: Sequence[DatasetExample], rater: str) -> list[SampleFeedback]:
    """What people filled in; lines that nobody did are passed over. SampleInvalid for an id that is none of the batch's, and for
    anything else that is no feedback: nothing of the file is feedback then."""
    known = {row.example.interaction_id for row in rows}
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        told = _told(line, number)
        said = {name: told[name] for name in _SAID if told.get(name) is not None}
        interaction = told.get("interaction_id")
        if not isinstance(interaction, str) or interaction not in known:
            raise SampleInvalid(f"line {number}: interaction_id = {interaction!r}: no row of batch {batch.batch_id}")
        if said:
            found.append(SampleFeedback(_feedback(said, interaction, batch, rater, number), number))
    return found


def _told(line: str, number: int) -> dict[str, Any]:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SampleInvalid(f"line {number}: no JSON: {error}: {line[:80]!r}") from error
    if not isinstance(told, dict):
        raise SampleInvalid(f"line {number}: {line[:80]!r} is no object")
    return told


def _feedback(said: dict[str, Any], interaction: str, batch: Batch, rater: str, number: int) -> Feedback:
    kind = said.get("kind") or ("user_correction" if "corrected_output" in said else "rating")
    score = said.get("score")
    for name, wanted in (("kind", str), ("corrected_output", str), ("comment", str)):
        if name in said and not (isinstance(said[name], wanted) and said[name].strip()):
            raise SampleInvalid(f"line {number}: {name} = {said[name]!r}: a text, or null")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100):
        raise SampleInvalid(f"line {number}: score = {score!r}: a number from 0 to 100, or null")
    if kind == "user_correction" and "corrected_output" not in said:
        raise SampleInvalid(f"line {number}: kind = 'user_correction' needs corrected_output")
    if kind == "rating" and score is None:
        raise SampleInvalid(f"line {number}: a comment alone judges nothing: give score, kind or corrected_output")
    feedback = Feedback(
        feedback_id=derive_id("sample", batch.batch_id, interaction, rater, digest(said)), interaction_id=interaction,
        kind=kind, score=score, corrected_output=said.get("corrected_output"), comment=said.get("comment"),
        principal=Principal(id=rater, kind="human"),
    )  # fmt: skip
    try:
        return msgspec.convert(msgspec.to_builtins(feedback), Feedback)
    except msgspec.ValidationError as error:
        raise SampleInvalid(f"line {number}: no feedback: {error}") from error
