"""The views of a lake: their names, columns and an example query each. Knows where a field stands in an event, runs nothing.

A column is a path in the event's JSON and a type; where a record does not have it, or has something else there, it is null. Ids
stand in columns of their own in the segments, which a search reads alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

TEXT, NUMBER, WHOLE, FLAG, JSON, TIME = "VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN", "JSON", "TIMESTAMP"
SCHEMA = "segments"  # where the relations are that views are made of: SHOW TABLES lists only the views
DECISIONS = "event_type LIKE 'headrace.release.%' AND starts_with(origin, 'release/') AND key = bucket"  # of the release stage
SERVING = ("promoted", "rolled_back", "revoked")  # answers that change what is served, as `release_log.CHANGES`
KIND = "replace(replace(event_type, 'headrace.', ''), '.v1', '')"  # example.rewarded, of what is an event
PLACE = ("topic", "partition", "log_offset", "appended_at")  # where each record lies on the log, and when it came there (UTC)


class LakeView(Struct, frozen=True, kw_only=True):
    """One view. `columns`: name -> (path below `$`, type) of what stands in the JSON, `stored` of what is a column of segments,
    `made` of what is an expression; `records`: which records of the topic it is about; `example`: a question and a query that
    answers it."""

    name: str
    description: str
    topic: str
    records: str
    example: tuple[str, str]
    stored: Sequence[str] = ()
    columns: Mapping[str, tuple[str, str]] = {}
    made: Mapping[str, str] = {}

    def sql(self) -> str:
        """The view's SELECT over the segments of its topic."""
        listed = [
            *PLACE,
            *self.stored,
            *(f"{read(path, kind)} AS {name}" for name, (path, kind) in self.columns.items()),
            *(f"{text} AS {name}" for name, text in self.made.items()),
        ]
        return f"SELECT {', '.join(listed)} FROM {table_of(self.topic)} WHERE {self.records}"


def table_of(topic: str) -> str:
    """Name of the relation that holds a topic's segments."""
    return f'{SCHEMA}."{topic}"'


def read(path: str, kind: str = TEXT) -> str:
    """The expression of what stands at `path` in a record's event; null where that is not there, or is something else."""
    if kind == JSON:
        return f"try(value->'$.{path}')"
    text = f"try(value->>'$.{path}')"
    if kind == TIME:
        return f"CAST(try_cast({text} AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS TIMESTAMP)"
    return text if kind == TEXT else f"try_cast({text} AS {kind})"


def says(path: str, parameter: str) -> str:
    """The condition that a text stands at `path` in a record's event."""
    return f"{mentions(parameter)} AND {read(path)} = ${parameter}"


def mentions(parameter: str, value: str = "value") -> str:
    """The condition that a text may stand in a record's event: to look for it among the bytes first costs a tenth of reading the
    JSON. One that JSON writes otherwise (quotes, control characters) may stand in all."""
    return f"(contains({value}, ${parameter}) OR regexp_matches(${parameter}, '[\"\\\\[:cntrl:]]'))"


def literal(value: bool | str | Iterable[str], around: str = "[]") -> str:
    """A value as SQL has it; several with brackets around them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"{around[0]}{', '.join(map(literal, value))}{around[1]}"


def event(*types: str) -> str:
    return f"event_type IN ({', '.join(repr(f'headrace.{kind}.v1') for kind in types)})"


def _data(**columns: str) -> dict[str, tuple[str, str]]:
    """`name=kind` of fields that are called as the column is."""
    return {name: (f"data.{name}", kind) for name, kind in columns.items()}


_WHEN = {"event_time": ("time", TIME)}
MEMBERS = (  # of a manifest, as `from_json` takes them
    '[{"example_id":"VARCHAR","revision":"BIGINT","sha256":"VARCHAR","role":"VARCHAR","weight":"DOUBLE","difficulty":"DOUBLE",'
    '"split":"VARCHAR","locator":{"topic":"VARCHAR","partition":"INTEGER","offset":"BIGINT"}}]'
)

POOLS = ("members", "validation_pool", "test_pool", "prompts", "rehearsal")


def _members(pool: str) -> str:
    topic, kind = ("runs", "training.started") if pool == "rehearsal" else ("batches", "batch.ready")
    return (
        f"SELECT batch_id, run_id, bucket, '{pool}' AS pool, "
        f"unnest(from_json(try(value->'$.data.{pool}'), '{MEMBERS}')) AS member, topic, partition, log_offset, appended_at "
        f"FROM {table_of(topic)} WHERE {event(kind)}"
    )


VIEWS: tuple[LakeView, ...] = (
    LakeView(
        name="interactions",
        description="what agents did, as intake has validated and scrubbed it",
        topic="signals",
        records=event("interaction.recorded"),
        stored=("interaction_id", "data_subject", "source"),
        columns={
            **_WHEN,
            "agent": ("data.agent.name", TEXT),
            "role": ("data.agent.role", TEXT),
            "agent_version": ("data.agent.version", TEXT),
            **_data(artifact_type=TEXT, model=TEXT, adapter=TEXT, prompt=TEXT, output=TEXT, context=TEXT, tools=JSON),
            **_data(prompt_group=TEXT, session_id=TEXT, turn=WHOLE, parent_interaction_id=TEXT, attempt=WHOLE),
            **_data(latency_ms=NUMBER, ttft_ms=NUMBER, cost_usd=NUMBER, finish_reason=TEXT, train=FLAG, attributes=JSON),
            "input_tokens": ("data.usage.input_tokens", WHOLE),
            "output_tokens": ("data.usage.output_tokens", WHOLE),
            "error_type": ("data.error.type", TEXT),
            **_data(release_id=TEXT, parameters=JSON, token_ids=JSON, logprobs=JSON),
            "experiment": ("data.experiment.id", TEXT),
            "arm": ("data.experiment.arm", TEXT),
        },
        example=(
            "How many answers did each agent give, and how fast?",
            "SELECT agent, count(*) AS answers, median(latency_ms) AS ms FROM interactions GROUP BY agent ORDER BY answers DESC",
        ),
    ),
    LakeView(
        name="feedback",
        description="what was said of interactions",
        topic="signals",
        records=event("feedback.recorded"),
        stored=("interaction_id", "source"),
        columns={
            **_WHEN,
            **_data(feedback_id=TEXT, kind=TEXT, score=NUMBER, name=TEXT, corrected_output=TEXT, comment=TEXT, under=TEXT),
            "preferred_over": ("data.over", JSON),
            "scale_low": ("data.scale[0]", NUMBER),
            "scale_high": ("data.scale[1]", NUMBER),
            "principal": ("data.principal.id", TEXT),
            "principal_kind": ("data.principal.kind", TEXT),
            "derived_by": ("data.attributed_from.derived_by", TEXT),
        },
        example=(
            "Which raters say most, and how do they score?",
            "SELECT principal, count(*) AS said, avg(score) AS mean FROM feedback GROUP BY principal ORDER BY said DESC",
        ),
    ),
    LakeView(
        name="signals",
        description="every record of signals, the source of truth",
        topic="signals",
        records="true",
        stored=("event_type", "event_id", "source", "interaction_id", "data_subject", "origin"),
        columns={**_WHEN, "data": ("data", JSON)},
        example=(
            "What was ever said of one interaction, in its order?",
            "SELECT log_offset, event_type, data FROM signals WHERE interaction_id = 'i-1' ORDER BY partition, log_offset",
        ),
    ),
    LakeView(
        name="examples",
        description="what each interaction is worth, every revision",
        topic="examples",
        records=event("example.rewarded"),
        stored=("example_id", "revision", "interaction_id", "bucket", "data_subject", "origin"),
        columns={
            "event_time": ("data.event_time", TIME),
            "agent": ("data.agent.name", TEXT),
            "role": ("data.agent.role", TEXT),
            **_data(artifact_type=TEXT, model=TEXT, adapter=TEXT, prompt_group=TEXT, quality=NUMBER, reward=NUMBER, score=NUMBER),
            **_data(contradicted=FLAG, voices=WHOLE, derived=WHOLE, train=FLAG, finish_reason=TEXT, principals=JSON),
            **_data(maturity=TEXT),
            "validation": ("data.components.validation", NUMBER),
            "feedback": ("data.components.feedback", NUMBER),
            "difficulty": ("data.components.difficulty", NUMBER),
            "multiplier": ("data.components.multiplier", NUMBER),
            "correction": ("data.components.correction", NUMBER),
            "balance": ("data.weights.balance", NUMBER),
            "prompt": ("data.content.prompt", TEXT),
            "output": ("data.content.output", TEXT),
            "target": ("data.content.target", TEXT),
            "context": ("data.content.context", TEXT),
        },
        example=(
            "How is the reward spread in each bucket?",
            "SELECT bucket, count(*) AS examples, avg(reward) AS mean, min(reward) AS least, max(reward) AS most "
            "FROM newest_examples GROUP BY bucket ORDER BY bucket",
        ),
    ),
    LakeView(
        name="drawn_prompts",
        description="what interactions of the test side asked, drawn before anybody said anything of the answer",
        topic="examples",
        records=event("prompt.drawn"),
        stored=("interaction_id", "bucket", "data_subject", "origin"),
        columns={
            "prompt_id": ("data.prompt_id", TEXT),
            "event_time": ("data.event_time", TIME),
            "agent": ("data.agent.name", TEXT),
            "role": ("data.agent.role", TEXT),
            **_data(artifact_type=TEXT, model=TEXT, adapter=TEXT, prompt_group=TEXT),
            "prompt": ("data.content.prompt", TEXT),
            "context": ("data.content.context", TEXT),
        },
        example=(
            "How many prompts were drawn in each bucket?",
            "SELECT bucket, count(*) AS prompts FROM drawn_prompts GROUP BY bucket ORDER BY bucket",
        ),
    ),
    LakeView(
        name="settlements",
        description="examples whose label was provisional and became final in the revision that stood",
        topic="examples",
        records=event("example.settled"),
        stored=("example_id", "revision", "interaction_id", "bucket"),
        columns={**_WHEN},
        example=(
            "How many labels became final in each bucket?",
            "SELECT bucket, count(*) AS labels FROM settlements GROUP BY ALL",
        ),
    ),
    LakeView(
        name="withdrawals",
        description="examples, and drawn prompts by their id, that hold no more: retracted, erased",
        topic="examples",
        records=event("example.withdrawn"),
        stored=("example_id", "revision", "interaction_id", "bucket"),
        columns={**_WHEN, **_data(reason=TEXT)},
        example=("Why were examples withdrawn?", "SELECT reason, count(*) AS examples FROM withdrawals GROUP BY reason"),
    ),
    LakeView(
        name="rejections",
        description="what was not taken, and why",
        topic="rejections",
        records=event("example.rejected", "signal.rejected", "example.superseded"),
        stored=("interaction_id", "example_id", "revision", "bucket", "batch_id"),
        columns={**_WHEN, **_data(reason=TEXT, rule=TEXT), "event_id": ("data.event_id", TEXT)},
        made={"kind": "split_part(event_type, '.', 2) || '.' || split_part(event_type, '.', 3)"},
        example=(
            "What is most often rejected, by which rule?",
            "SELECT reason, any_value(rule) AS rule, count(*) AS times FROM rejections GROUP BY reason ORDER BY times DESC",
        ),
    ),
    LakeView(
        name="batches",
        description="what was cut to be trained",
        topic="batches",
        records=event("batch.ready"),
        stored=("batch_id", "bucket", "origin"),
        columns={
            **_WHEN,
            **_data(artifact_type=TEXT, base=TEXT, cause=TEXT, target=NUMBER, policy_digests=JSON),
            "examples": ("data.statistics.examples", WHOLE),
            "negatives": ("data.statistics.negatives", WHOLE),
            "effective_size": ("data.statistics.effective_size", NUMBER),
            "mean_reward": ("data.statistics.mean_reward", NUMBER),
            "success_rate": ("data.statistics.success_rate", NUMBER),
        },
        example=(
            "When was each batch cut, why, and how large is it?",
            "SELECT batch_id, bucket, appended_at, cause, examples, negatives FROM batches ORDER BY appended_at",
        ),
    ),
    LakeView(
        name="runs",
        description="trainings as they began, went on and ended",
        topic="runs",
        records=event("training.started", "training.progressed", "training.completed", "training.failed"),
        stored=("run_id", "batch_id", "bucket", "version_id", "evaluation_id"),
        columns={
            **_WHEN,
            **_data(base=TEXT, method=TEXT, seed=WHOLE, step=WHOLE, steps=WHOLE, loss=NUMBER, phase=TEXT, attempt=WHOLE),
            **_data(tokens_per_second=NUMBER, validation_loss=NUMBER, learning_rate=NUMBER, gradient_norm=NUMBER),
            **_data(attempts=WHOLE, error=TEXT, seconds=NUMBER, left_out=JSON, shortened=JSON, parent_adapter=TEXT),
            **_data(parent_release_id=TEXT, hyperparameters=JSON),
        },
        made={"kind": "split_part(event_type, '.', 3)"},
        example=(
            "How did the loss of each run fall?",
            "SELECT run_id, step, loss FROM runs WHERE kind = 'progressed' ORDER BY run_id, step",
        ),
    ),
    LakeView(
        name="versions",
        description="adapters with their lineage",
        topic="versions",
        records=event("model_version.created"),
        stored=("version_id", "bucket", "batch_id", "run_id"),
        columns={
            **_WHEN,
            **_data(artifact_type=TEXT, base=TEXT, method=TEXT, tokens=WHOLE, seconds=NUMBER, parent_adapter=TEXT),
            **_data(hyperparameters=JSON, dataset_digest=TEXT),
            "adapter": ("data.adapter.digest", TEXT),
            "trained_rows": ("data.rows", WHOLE),
            "size_bytes": ("data.adapter.size_bytes", WHOLE),
        },
        example=(
            "What was learnt from how much?",
            "SELECT version_id, bucket, adapter, trained_rows, tokens, seconds FROM versions ORDER BY appended_at",
        ),
    ),
    LakeView(
        name="evaluations",
        description="versions compared with what was served",
        topic="outcomes",
        records=event("evaluation.completed"),
        stored=("evaluation_id", "version_id", "bucket", "batch_id", "run_id"),
        columns={
            **_WHEN,
            **_data(base=TEXT, candidate=JSON, incumbent=JSON, requirements=JSON, parent_release_id=TEXT, parent_adapter=TEXT),
            **_data(dataset_digest=TEXT),
            "adapter": ("data.adapter.digest", TEXT),
            "loss_gain": ("data.comparison.loss_gain.value", NUMBER),
            "loss_gain_low": ("data.comparison.loss_gain.low", NUMBER),
            "loss_gain_high": ("data.comparison.loss_gain.high", NUMBER),
            "compared": ("data.comparison.n", WHOLE),
            "wins": ("data.comparison.wins", WHOLE),
            "losses": ("data.comparison.losses", WHOLE),
            "ties": ("data.comparison.ties", WHOLE),
            "p_value": ("data.comparison.p_value", NUMBER),
        },
        example=(
            "Which versions lose less than what was served, surely?",
            "SELECT version_id, loss_gain, wins, losses FROM evaluations WHERE loss_gain_low > 0 ORDER BY loss_gain DESC",
        ),
    ),
    LakeView(
        name="releases",
        description="every answer of the release stage",
        topic="releases.history",
        records=DECISIONS,
        stored=("release_id", "version_id", "evaluation_id", "bucket"),
        columns={
            **_WHEN,
            **_data(sequence=WHOLE, artifact_type=TEXT, base=TEXT, reason=TEXT, requested_by=TEXT, parent_release_id=TEXT),
            **_data(batch_ids=JSON, evidence=JSON, dataset_digest=TEXT),
            "adapter": ("data.adapter.digest", TEXT),
        },
        made={"kind": "split_part(event_type, '.', 3)"},
        example=(
            "What is served now?",
            "SELECT bucket, arg_max_null(adapter, sequence) AS adapter, max(sequence) AS number FROM releases "
            f"WHERE kind IN {SERVING} GROUP BY bucket ORDER BY bucket",
        ),
    ),
    LakeView(
        name="policies",
        description="which policy held for which task from which offset on",
        topic="rules",
        records=event("rules.activated"),
        columns={
            **_WHEN,
            **_data(stage=TEXT, from_offset=WHOLE, digest=TEXT, body=JSON),
            "input": ("data.topic", TEXT),
            "input_partition": ("data.partition", WHOLE),
            "rule_version": ("data.version", WHOLE),
        },
        example=(
            "Which policies did each stage have?",
            "SELECT stage, rule_version, digest, min(appended_at) AS since FROM policies GROUP BY ALL ORDER BY since",
        ),
    ),
    LakeView(
        name="assessments",
        description="why buckets are not cut yet, at every cut and at most once a minute: `conditions` with value and bound",
        topic="assessments",
        records=event("bucket.assessed"),
        columns={
            **_WHEN,
            **_data(bucket=TEXT, conditions=JSON, batches=WHOLE, lowered_by=TEXT, evidence=NUMBER, batch_id=TEXT),
        },
        example=(
            "What does each bucket wait for?",
            'SELECT bucket, event_time, list_filter(from_json(conditions, \'[{"name":"VARCHAR","met":"BOOLEAN"}]\'), '
            "lambda condition: NOT condition.met) AS unmet FROM assessments "
            "QUALIFY row_number() OVER (PARTITION BY bucket ORDER BY log_offset DESC) = 1",
        ),
    ),
    LakeView(
        name="silences",
        description="who should speak and did not: raised, ended, and muted by whom until when",
        topic="assessments",
        records=event("silence.raised", "silence.ended", "silence.muted"),
        columns={
            **_WHEN,
            "said": ("type", TEXT),
            **_data(kind=TEXT, subject=TEXT, since=TIME, expected=TEXT, seen=TEXT, bucket=TEXT, interaction_id=TEXT),
            **_data(policy_key=TEXT, until=TIME, reason=TEXT, requested_by=TEXT),
        },
        example=(
            "Who was missed how often?",
            "SELECT kind, subject, count(*) AS times FROM silences WHERE said = 'headrace.silence.raised.v1' GROUP BY ALL "
            "ORDER BY times DESC",
        ),
    ),
    LakeView(
        name="redriven",
        description="dead letters' records that were published once more: where each was, and where it lies now",
        topic="dead-letters",
        records=event("record.redriven"),
        columns={
            **_WHEN,
            "input": ("data.topic", TEXT),
            "input_partition": ("data.partition", WHOLE),
            "input_offset": ("data.offset", WHOLE),
            "published_topic": ("data.published.topic", TEXT),
            "published_partition": ("data.published.partition", WHOLE),
            "published_offset": ("data.published.offset", WHOLE),
            **_data(reason=TEXT, requested_by=TEXT, edited=JSON),
        },
        example=(
            "How many letters came back, by whom and why?",
            "SELECT requested_by, reason, count(*) AS records FROM redriven GROUP BY ALL ORDER BY records DESC",
        ),
    ),
    LakeView(
        name="dead_letters",
        description="what could not be processed, and why",
        topic="dead-letters",
        records=event("record.rejected"),
        columns={
            **_WHEN,
            "input": ("data.topic", TEXT),
            "input_partition": ("data.partition", WHOLE),
            "input_offset": ("data.offset", WHOLE),
            "code": ("data.error.code", TEXT),
            "field": ("data.error.field", TEXT),
            "message": ("data.error.message", TEXT),
            "value_base64": ("data.value_base64", TEXT),
        },
        example=(
            "What is wrong with what is published, most often?",
            "SELECT input, code, field, count(*) AS times FROM dead_letters GROUP BY ALL ORDER BY times DESC",
        ),
    ),
)

# What is made of other views.
COMPOSED: dict[str, tuple[str, str, tuple[str, str]]] = {
    "newest_examples": (
        "examples as they stand: the newest revision of each, without what was withdrawn",
        "SELECT examples.* FROM examples WHERE (partition, log_offset) IN "
        f"(SELECT (partition, max(log_offset)) FROM {table_of('examples')} "
        f"WHERE {event('example.rewarded', 'example.withdrawn')} GROUP BY partition, example_id)",
        ("What is worth most?", "SELECT example_id, bucket, reward FROM newest_examples ORDER BY reward DESC LIMIT 10"),
    ),
    "members": (
        "rows that batches name (pools `members`, `validation_pool`, `test_pool`, `prompts`), and those that runs repeat "
        "(`rehearsal`)",
        "SELECT batch_id, run_id, bucket, pool, member.example_id, member.revision, member.sha256, member.role, member.weight, "
        "member.difficulty, member.split, member.locator.topic AS example_topic, member.locator.partition AS example_partition, "
        'member.locator."offset" AS example_offset, topic, partition, log_offset, appended_at FROM ('
        f"{' UNION ALL BY NAME '.join(map(_members, POOLS))})",
        (
            "How many rows of each batch are on which side?",
            "SELECT batch_id, pool, split, role, count(*) AS members FROM members GROUP BY ALL ORDER BY ALL",
        ),
    ),
    "activity": (
        "how many records came in each minute, by stage, kind, reason (of rejections and dead letters) and bucket; counted "
        "beforehand",
        "",
        (
            "What did each stage write in the last hour of the log, minute by minute?",
            "SELECT minute, stage, kind, sum(records) AS records FROM activity "
            "WHERE minute > (SELECT max(minute) FROM activity) - INTERVAL 1 HOUR GROUP BY ALL ORDER BY ALL",
        ),
    ),
    "records": (
        "every record that the lake holds, with the ids that lineage goes along",
        "",
        (
            "How many records came on which topic, day by day?",
            "SELECT topic, date_trunc('day', appended_at) AS day, count(*) AS records FROM records GROUP BY ALL ORDER BY ALL",
        ),
    ),
}
EXAMPLES: dict[str, tuple[str, str]] = {
    **{view.name: view.example for view in VIEWS},
    **{name: example for name, (_, _, example) in COMPOSED.items()},
}
