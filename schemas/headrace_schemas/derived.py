"""What Headrace says: the `data` of every derived event, as frozen msgspec Structs. Knows no envelope, no Kafka.

Times are RFC 3339 strings, scores 0-100, rewards and qualities in [-1, 1], digests `sha256:` and 64 hex digits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from headrace_schemas.inputs import Agent, Context, Digest, Key, Kind, Output, Principal, Ref, Text, Tool, Value, doc

# Fields that mean the same wherever they stand.
ExampleId = Annotated[str, doc("Id of the example, derived from its interaction's.")]
Revision = Annotated[int, doc("Revision of the example: 1, 2, 3 …")]
InteractionId = Annotated[str, doc("The interaction.")]
BucketName = Annotated[str, doc("The bucket: artifact type and base, such as sql/tiny-sql.")]
ArtifactTypeName = Annotated[str, doc("Kind of work, the first part of the bucket's name.")]
BaseName = Annotated[str, doc("Name of the base that learns, the second part of the bucket's name.")]
BatchId = Annotated[str, doc("Id of the batch, derived from what is in it.")]
RunId = Annotated[str, doc("Id of the training run, derived from the batch's.")]
VersionId = Annotated[str, doc("Id of the model version, derived from the run's.")]
EvaluationId = Annotated[str, doc("Id of the evaluation.")]
PolicyDigests = Annotated[dict[str, str], doc("Digest of each policy that took part, by stage.")]
Hyperparameters = Annotated[dict[str, Any], doc("Hyperparameters of the run, all of them.")]
Seconds = Annotated[float, doc("How long the run took, in s.")]
LeftOut = Annotated[
    dict[str, dict[str, int]] | None,
    doc(
        "Rows that were left out, by side (training, rehearsal, validation, test, prompts) and reason (template_refused, "
        "message_lost, answer_lost, answer_empty, answer_has_references, call_unreadable, question_too_long, answer_too_long, "
        "erased; of prompts also no_grader, needs_reference, not_generated; where no part of the objective can use them, in "
        "training, rehearsal and validation: equal_texts, small_gap, over_cap, no_counterpart, one_kind, no_words). Absent: none."
    ),
]
Shortened = Annotated[
    dict[str, dict[str, int]] | None,
    doc("Rows that were too long, by side and by what was cut: the head of the prompt, the end of the answer. Absent: none."),
]
RequestedBucket = Annotated[Key, doc("The bucket that is meant.")]
Because = Annotated[str | None, doc("Why, for people.")]
RequestedBy = Annotated[str | None, doc("Who asked.")]


class Locator(Value, frozen=True, kw_only=True):
    """Where an example's record lies. It only helps to find it: the digest decides."""

    topic: Annotated[str, doc("Short name of the topic.")]
    partition: Annotated[int, doc("Partition.")]
    offset: Annotated[int, doc("Offset in it.")]


class Content(Value, frozen=True, kw_only=True):
    """All texts of an example sit here and nowhere else, so that they can be sealed or erased together."""

    prompt: Annotated[Text, doc("What was asked.")]
    output: Annotated[Output, doc("What was answered.")]
    target: Annotated[Output, doc("What should be learnt: the corrected output where there is one, else the output.")]
    context: Annotated[Context, doc("What was retrieved or attached.")] = None
    tools: Annotated[list[Tool] | None, doc("Tools that the model could call.")] = None


class Components(Value, frozen=True, kw_only=True):
    """Raw terms of the reward, before squashing; `correction` is absent without a corrected output."""

    validation: Annotated[float, doc("Mean over the voices of tanh((score - 50) / 50); 0 without a score.")]
    feedback: Annotated[float, doc("Mean over the voices of the bonus of their kind.")]
    difficulty: Annotated[float, doc("Prior difficulty in [0, 1]: complexity of the kind of work, length of prompt and context.")]
    multiplier: Annotated[float, doc("By what the terms were multiplied: 1 + slope x difficulty.")]
    correction: Annotated[float | None, doc("1 - similarity of output and corrected output.")] = None


class Weights(Value, frozen=True, kw_only=True):
    """Factors of an example's weight in training, beside its reward and its age."""

    balance: Annotated[float, doc("Makes up for kinds of work that are rarer or more frequent than wanted. Fixed at revision 1.")]


class Example(Value, frozen=True, kw_only=True):
    """One interaction and what it is worth, revision n: the `data` of `headrace.example.rewarded.v1`."""

    example_id: ExampleId
    revision: Revision
    interaction_id: InteractionId
    bucket: BucketName
    artifact_type: ArtifactTypeName
    model: Annotated[str, doc("Who answered: name of the model as the agent knows it.")]
    agent: Annotated[Agent, doc("Who acted.")]
    prompt_group: Annotated[str, doc("The task that it is a try at. All of a group stand on one side of the split.")]
    content: Annotated[Content, doc("The texts.")]
    quality: Annotated[float, doc("How good the output was, in [-1, 1].")]
    reward: Annotated[float, doc("How much is to be learnt from the target, in [-1, 1].")]
    components: Annotated[Components, doc("The raw terms of the reward.")]
    weights: Annotated[Weights, doc("Factors of its weight in training.")]
    contradicted: Annotated[bool, doc("Whether voices of opposite sign were heard.")]
    voices: Annotated[int, doc("How many voices were heard.")]
    event_time: Annotated[str, doc("When the output was complete, RFC 3339.")]
    train: Annotated[bool, doc("False: the publisher doesn't allow training.")]
    score: Annotated[float | None, doc("Mean score of the voices, 0-100; absent when nobody gave one.")] = None
    adapter: Annotated[str | None, doc("Digest of the adapter that answered; absent: the base alone.")] = None
    data_subject: Annotated[str | None, doc("Whose personal data this may hold.")] = None
    finish_reason: Annotated[str | None, doc("Why the output ended: stop, length …")] = None
    principals: Annotated[list[str] | None, doc("People and agents that were heard, as kind:id, sorted; absent: none.")] = None
    maturity: Annotated[
        Literal["provisional", "final"] | None,
        doc(
            "Whether more is expected to be said: provisional until settle_after_days of the kinds of feedback have passed, then "
            "final. Absent: the policy names no such time."
        ),
    ] = None
    derived: Annotated[
        int | None,
        doc("How many of the voices are derivations, which nobody gave: weak, and not heard in quality. Absent: none."),
    ] = None


class ExampleSettlement(Value, frozen=True, kw_only=True):
    """The label of an example is final from now on, in the revision that stands: the time in which more was expected to be said
    is over."""

    example_id: ExampleId
    revision: Revision
    interaction_id: InteractionId
    bucket: BucketName


class PromptContent(Value, frozen=True, kw_only=True):
    """All texts of a drawn prompt."""

    prompt: Annotated[Text, doc("What was asked.")]
    context: Annotated[Context, doc("What was retrieved or attached.")] = None
    tools: Annotated[list[Tool] | None, doc("Tools that the model could call.")] = None


class DrawnPrompt(Value, frozen=True, kw_only=True):
    """What an interaction of the test side asked, drawn by the hash of its group before anybody said anything of the answer: the
    `data` of `headrace.prompt.drawn.v1`. It holds no answer and no reference."""

    prompt_id: Annotated[str, doc("Id of the prompt, derived from its interaction's.")]
    interaction_id: InteractionId
    bucket: BucketName
    artifact_type: ArtifactTypeName
    model: Annotated[str, doc("Who answered: name of the model as the agent knows it.")]
    agent: Annotated[Agent, doc("Who acted.")]
    prompt_group: Annotated[str, doc("The task that it is a try at. All of a group stand on one side of the split.")]
    content: Annotated[PromptContent, doc("The texts.")]
    event_time: Annotated[str, doc("When the output was complete, RFC 3339.")]
    adapter: Annotated[str | None, doc("Digest of the adapter that answered; absent: the base alone.")] = None
    data_subject: Annotated[str | None, doc("Whose personal data this may hold.")] = None


class Withdrawal(Value, frozen=True, kw_only=True):
    """An example, or a drawn prompt by its id, that holds no more."""

    example_id: ExampleId
    revision: Revision
    interaction_id: InteractionId
    bucket: BucketName
    reason: Annotated[Literal["retracted", "erased", "feedback_retracted"], doc("What was taken back.")]


class InteractionExpiry(Value, frozen=True, kw_only=True):
    """An interaction of which nothing was heard for as long as the policy waits: what is kept of it goes."""

    interaction_id: InteractionId
    last_heard: Annotated[str, doc("Fold time of the last record about it, RFC 3339.")]


class InteractionSketch(Value, frozen=True, kw_only=True):
    """What derivations compare of an interaction, without its texts: a sketch is the smallest hashes of its pieces, in base64."""

    agent: Annotated[Key | None, doc("Name of the agent.")] = None
    latency_ms: Annotated[float | None, doc("From question to complete output, in ms.")] = None
    question: Annotated[str | None, doc("Sketch of the last message of the user.")] = None
    output: Annotated[str | None, doc("Sketch of the output.")] = None
    context: Annotated[str | None, doc("Sketch of what was retrieved or attached.")] = None


class SessionJoin(Value, frozen=True, kw_only=True):
    """An interaction of a session, by its ids alone, and by sketches where policy derives feedback."""

    session_id: Annotated[Key, doc("The session.")]
    interaction_id: Annotated[Key, doc("The interaction.")]
    sketch: Annotated[InteractionSketch | None, doc("What derivations compare of it; absent: nothing is derived.")] = None


class SessionLeave(Value, frozen=True, kw_only=True):
    """An interaction of a session was retracted or erased: what was derived from it is to be taken back."""

    session_id: Annotated[Key, doc("The session.")]
    interaction_id: Annotated[Key, doc("The interaction.")]


class SessionFeedback(Value, frozen=True, kw_only=True):
    """What somebody says of a session, or of an interaction as the outcome of its session, as intake passes it on."""

    session_id: Annotated[Key, doc("The session.")]
    feedback_id: Annotated[Key, doc("Unique per source and session.")]
    kind: Annotated[Kind, doc("As of feedback.")]
    interaction_id: Annotated[Key | None, doc("The interaction up to which it is credited; absent: the last before it.")] = None
    score: Annotated[float | None, doc("How good, within the scale.")] = None
    scale: Annotated[tuple[float, float] | None, doc("Lowest and highest possible score; absent means 0 and 100.")] = None
    name: Annotated[Key | None, doc("Which check.")] = None
    corrected_output: Annotated[Output | None, doc("What the last output should have been.")] = None
    comment: Annotated[str | None, doc("In words.")] = None
    principal: Annotated[Principal | None, doc("Who says so.")] = None
    content_sketch: Annotated[str | None, doc("Sketch of the content that was reported, which itself is not kept.")] = None


class SessionFeedbackRetraction(Value, frozen=True, kw_only=True):
    """What was said of a session is taken back, and all that was derived from it."""

    session_id: Annotated[Key, doc("The session.")]
    feedback_id: Annotated[Key, doc("What was said, by its id at the same source.")]
    interaction_id: Annotated[Key | None, doc("As it was said.")] = None
    reason: Annotated[str | None, doc("Why, for people.")] = None


class SessionExpiry(Value, frozen=True, kw_only=True):
    """A session of which nothing was heard for as long as the policy waits: what is kept of it goes."""

    session_id: Annotated[Key, doc("The session.")]
    last_heard: Annotated[str, doc("Fold time of the last record about it, RFC 3339.")]


class InteractionSettlement(Value, frozen=True, kw_only=True):
    """The time in which more was expected to be said of an interaction is over: what its example says is final."""

    interaction_id: InteractionId
    settles: Annotated[str, doc("Fold time at which it was over, RFC 3339.")]


class ErasureContinuation(Value, frozen=True, kw_only=True):
    """The next portion of an erasure that is too large for one step."""

    subject: Annotated[str, doc("Digest of the erased subject's handle.")]
    portion: Annotated[int, doc("Number of the portion: 1, 2, 3 …")]


class RefExpiry(Value, frozen=True, kw_only=True):
    """A foreign id of which nothing was heard for as long as the policy waits: its link, or what waits for one, goes."""

    ref: Annotated[Ref, doc("The foreign id.")]
    last_heard: Annotated[str, doc("Fold time of the last record about it, RFC 3339.")]


class Tick(Value, frozen=True, kw_only=True):
    """Time passed on a partition where nothing else happened. What is due is decided by fold time, whatever it names."""

    bucket: Annotated[str, doc("A bucket of the partition whose deadline has passed, or one of whose examples.")]
    time: Annotated[str, doc("The time that passed until now, RFC 3339.")]
    examples: Annotated[list[str] | None, doc("Examples of the bucket whose deadline has passed; absent: none.")] = None


class ExampleRejection(Value, frozen=True, kw_only=True):
    """An example that curate did not take."""

    example_id: ExampleId
    revision: Revision
    interaction_id: InteractionId
    bucket: BucketName
    reason: Annotated[str, doc("Name of the rule that it broke, such as low_score or duplicate.")]
    rule: Annotated[str, doc("The rule in words, with the policy's figures.")]


class SignalRejection(Value, frozen=True, kw_only=True):
    """An event that reward did not take."""

    interaction_id: InteractionId
    event_id: Annotated[str, doc("Id of the event, or of the feedback, that was not taken.")]
    reason: Annotated[str, doc("duplicate, conflict, erased, voice_limit or expired.")]
    rule: Annotated[str, doc("Which rule it broke: identity, subject, voices or age.")]


class Supersession(Value, frozen=True, kw_only=True):
    """A batch holds a revision of an example that is no longer the newest."""

    example_id: ExampleId
    revision: Revision
    interaction_id: InteractionId
    bucket: BucketName
    batch_id: BatchId


class Member(Value, frozen=True, kw_only=True):
    """One row that a batch names. `sha256` is of the example record's value; the locator only helps to find it."""

    example_id: ExampleId
    revision: Revision
    sha256: Annotated[str, doc("Digest of the example record's value: what a reader checks.")]
    role: Annotated[Literal["train", "negative"], doc("train: its target is to be learnt; negative: an answer to be avoided.")]
    weight: Annotated[float, doc("Weight in training; the train members of a batch weigh 1 on average.")]
    difficulty: Annotated[float, doc("Prior difficulty, in [0, 1].")]
    split: Annotated[Literal["train", "validation", "test"], doc("Side of its prompt group, for ever.")]
    locator: Annotated[Locator, doc("Where the record lies.")]


class PromptMember(Value, frozen=True, kw_only=True):
    """A prompt that a batch names for graders, without a reference. `sha256` is of the record's value, as of any member."""

    example_id: Annotated[str, doc("Id of the drawn prompt, or of the example whose prompt it is.")]
    revision: Annotated[int, doc("Revision of the example; of a drawn prompt 1.")]
    sha256: Annotated[str, doc("Digest of the record's value: what a reader checks.")]
    locator: Annotated[Locator, doc("Where the record lies.")]
    drawn: Annotated[
        bool, doc("Whether it was drawn from interactions. False: of an example whose answer was wrong; feedback selected it.")
    ] = False


class BatchStatistics(Value, frozen=True, kw_only=True):
    """What is in a batch, in figures."""

    examples: Annotated[int, doc("Members to be learnt.")]
    negatives: Annotated[int, doc("Members to be avoided.")]
    effective_size: Annotated[float, doc("Effective sample size of the train members under decay.")]
    mean_reward: Annotated[float, doc("Mean reward of the train members.")]
    success_rate: Annotated[float | None, doc("Decayed success rate of the bucket's base, 0-1; absent without evidence.")] = None
    left_out: Annotated[
        dict[str, int] | None,
        doc("How many were left out since the batch before, by reason as on rejections; waiting and over_share may still come."),
    ] = None


class Batch(Value, frozen=True, kw_only=True):
    """The manifest of a cut bucket, `data` of `headrace.batch.ready.v1`. `batch_id` covers the members, not their locators."""

    batch_id: BatchId
    bucket: BucketName
    artifact_type: ArtifactTypeName
    base: BaseName
    cause: Annotated[Literal["target", "age", "drift", "rarity"], doc("Why it was cut.")]
    target: Annotated[float, doc("The fill that was asked for when it was cut.")]
    members: Annotated[list[Member], doc("What is trained and validated on.")]
    test_pool: Annotated[list[Member], doc("What versions are compared on; never trained on.")]
    statistics: Annotated[BatchStatistics, doc("What is in it, in figures.")]
    policy_digests: PolicyDigests
    validation_pool: Annotated[
        list[Member] | None, doc("What early stopping looks at; never trained on. Absent: the members of the validation side.")
    ] = None
    prompts: Annotated[
        list[PromptMember] | None,
        doc("Prompts of the test side without a reference, for graders; never trained on. Absent: none."),
    ] = None


class AssessedCondition(Value, frozen=True, kw_only=True):
    """One thing that must hold for a bucket to be cut."""

    name: Annotated[
        str,
        doc(
            "opened: a base is named and there is an example; fill: at least the bound; test_rows: so many in the test pool; "
            "requirements: not all are satisfied by what is served; not_good_enough: its success rate is below the bound, or "
            "there is too little evidence. Where a look at all members came so far: shared_fill, what fills it within the share "
            "of each principal; train_side: one is there; fresh: so many were in no batch yet."
        ),
    ]
    met: Annotated[bool, doc("Whether it holds.")]
    value: Annotated[float | None, doc("The figure now; absent: none was measured.")] = None
    bound: Annotated[float | None, doc("What it is held against; absent: nothing.")] = None
    since: Annotated[
        str | None, doc("Fold time from which on it holds, or does not, at the most a minute late; absent: not followed.")
    ] = None


class Assessment(Value, frozen=True, kw_only=True):
    """Why a bucket is not cut yet, or that it was: the `data` of `headrace.bucket.assessed.v1`. Of one bucket at most once a
    minute, and at every cut."""

    bucket: BucketName
    conditions: Annotated[list[AssessedCondition], doc("Each condition of a cut; it is cut when all are met.")]
    batches: Annotated[int, doc("Batches that were cut before.")]
    lowered_by: Annotated[
        Literal["age", "drift", "rarity"] | None, doc("What lowered the wanted fill below the target; absent: nothing.")
    ] = None
    evidence: Annotated[float | None, doc("Decayed number of answers behind the success rate; absent: none.")] = None
    batch_id: Annotated[str | None, doc("The batch that was cut now; absent: it was not cut.")] = None


class BaseIdentity(Value, frozen=True, kw_only=True):
    """What a base is, by the digests of its files as the trainer found them."""

    digest: Annotated[str, doc("Digest over the following ones: what the base is.")]
    config: Annotated[str, doc("Digest of its configuration: architecture, stop tokens, code that comes with it.")]
    tokenizer: Annotated[str, doc("Digest of its tokenizer's files, without the chat template.")]
    weights: Annotated[str, doc("Digest of names and contents of its weights.")]
    template: Annotated[str | None, doc("Digest of its chat template. Absent: it has none.")] = None
    revision: Annotated[
        str | None, doc("Commit of the hub that it was loaded from. Absent: a folder of the trainer's machine.")
    ] = None
    quantisation: Annotated[str | None, doc("How its linear layers are held, such as nf4. Absent: as they are.")] = None


class Surroundings(Value, frozen=True, kw_only=True):
    """On what a run computes: with others, equal pins may give other bytes."""

    device: Annotated[str, doc("Kind of device, such as cpu or the name of a GPU.")]
    instructions: Annotated[str, doc("Instruction set that products use, such as AVX512, or the GPU's capability.")]
    threads: Annotated[int, doc("Threads of a run.")]
    torch: Annotated[str, doc("Version of torch.")]
    transformers: Annotated[str, doc("Version of transformers.")]
    peft: Annotated[str, doc("Version of peft.")]
    processes: Annotated[int | None, doc("Processes that trained together; absent: one.")] = None


# What runs, versions and evaluations say of base and machine. Absent on records from before they did.
Identified = Annotated[BaseIdentity | None, doc("The base, by the digests of its files.")]
Surrounded = Annotated[Surroundings | None, doc("On what it was computed.")]


class HeadReference(Value, frozen=True, kw_only=True):
    """A version of the learner that waits for evidence."""

    version_id: VersionId
    adapter: Annotated[str, doc("Digest of its adapter.")]


class ServedReference(Value, frozen=True, kw_only=True):
    """Something that was served."""

    adapter: Annotated[str | None, doc("Digest of its adapter; absent: the base.")] = None


class SuiteReference(Value, frozen=True, kw_only=True):
    """A suite of tasks that versions are asked beside the rows of feedback."""

    name: Annotated[str, doc("Its name.")]
    sha256: Annotated[str, doc("Digest of what it asks.")]


class TrainingStart(Value, frozen=True, kw_only=True):
    """Pins of a run: everything that decides the bytes of the adapter. The first one of a batch wins; retries reuse it."""

    run_id: RunId
    batch_id: BatchId
    bucket: BucketName
    base: BaseName
    seed: Annotated[int, doc("Seed of everything random in the run.")]
    method: Annotated[str, doc("Method of training, such as lora.")]
    hyperparameters: Hyperparameters
    rehearsal: Annotated[list[Member], doc("Members of earlier batches that are repeated.")]
    policy_digests: PolicyDigests
    parent_adapter: Annotated[str | None, doc("Digest of the adapter that was served when it began; absent: the base.")] = None
    parent_release_id: Annotated[str | None, doc("The release that was served when it began.")] = None
    withdrawn: Annotated[list[str] | None, doc("Examples of the batch that were withdrawn before it began: none is used.")] = None
    base_identity: Identified = None
    surroundings: Surrounded = None
    learner_adapter: Annotated[
        str | None,
        doc("Digest of the adapter that it goes on from, where that is not what was served; absent: from what was served."),
    ] = None
    optimiser: Annotated[
        str | None, doc("Digest of the optimiser's state that it goes on with, of the run that adapter is of; absent: none.")
    ] = None
    heads: Annotated[
        list[HeadReference] | None, doc("Earlier heads that wait for evidence, to be compared on the same rows; absent: none.")
    ] = None
    watched: Annotated[
        ServedReference | None,
        doc("What was served before, while the promotion of what is served is watched; absent: nothing is."),
    ] = None
    suites: Annotated[list[SuiteReference] | None, doc("Suites that the version will be asked; absent: none.")] = None
    taken_back: Annotated[
        list[HeadReference] | None,
        doc("Heads that it neither goes on from nor compares: they have learnt what was taken back since. Absent: none."),
    ] = None
    avoids: Annotated[
        bool | None, doc("Whether it learns from negative members, too, as answers to be avoided. Absent: it does not.")
    ] = None
    teacher: Annotated[BaseIdentity | None, doc("The base that teaches it, by the digests of its files. Absent: none.")] = None


class TrainingProgress(Value, frozen=True, kw_only=True):
    """How far a run is. For people: a run may say it again after a restart."""

    run_id: RunId
    bucket: BucketName
    step: Annotated[int, doc("Optimiser steps done.")]
    steps: Annotated[int, doc("Optimiser steps that are planned.")]
    loss: Annotated[float, doc("Loss of the latest step, or the best one on the validation rows.")]
    attempt: Annotated[int, doc("The n-th attempt at the run.")]
    phase: Annotated[Literal["training", "validation", "evaluation"], doc("What the run is doing.")] = "training"
    tokens_per_second: Annotated[float | None, doc("Tokens a second.")] = None
    validation_loss: Annotated[
        float | None, doc("In the phase validation: loss on the validation rows now, in nats a token, where `loss` is the best.")
    ] = None
    learning_rate: Annotated[float | None, doc("Learning rate of the latest step.")] = None
    gradient_norm: Annotated[float | None, doc("Norm of its gradient, before it was scaled down.")] = None


class TrainingCompletion(Value, frozen=True, kw_only=True):
    """A run that ended with a version and its evaluation."""

    run_id: RunId
    batch_id: BatchId
    bucket: BucketName
    version_id: VersionId
    evaluation_id: EvaluationId
    seconds: Seconds
    left_out: LeftOut = None
    shortened: Shortened = None
    notes: Annotated[list[str] | None, doc("What stood in the way of learning, in words. Absent: nothing.")] = None
    left_out_examples: Annotated[
        dict[str, dict[str, list[str]]] | None,
        doc("Ids of the examples that `left_out` counts, by side and reason, where rows were made of them; absent: none."),
    ] = None


class TrainingFailure(Value, frozen=True, kw_only=True):
    """A run that was given up."""

    run_id: RunId
    batch_id: BatchId
    bucket: BucketName
    attempts: Annotated[int, doc("How often it was tried.")]
    error: Annotated[str, doc("What went wrong the last time.")]


class AdapterFile(Value, frozen=True, kw_only=True):
    """One file of an adapter."""

    path: Annotated[str, doc("Its path below the adapter's folder.")]
    size_bytes: Annotated[int, doc("Its size.")]
    sha256: Annotated[str, doc("Its digest.")]


class Adapter(Value, frozen=True, kw_only=True):
    """An adapter and what it consists of."""

    digest: Annotated[str, doc("Digest over its files: its name everywhere.")]
    uri: Annotated[str, doc("Where the trainer put it. Nobody opens it: readers fetch by digest, from their own store.")]
    format: Annotated[str, doc("Format of the files, such as peft.")]
    size_bytes: Annotated[int, doc("Size of all files together.")]
    files: Annotated[list[AdapterFile], doc("Its files.")]


TaughtBy = Annotated[
    str | None,
    doc(
        "Digest of the members that the version learnt from and watched: `members` of `headrace dataset --release`. Absent: the "
        "base, or somebody older wrote this."
    ),
]


class ModelVersion(Value, frozen=True, kw_only=True):
    """An adapter with its lineage."""

    version_id: VersionId
    bucket: BucketName
    artifact_type: ArtifactTypeName
    base: BaseName
    adapter: Annotated[Adapter, doc("What was learnt.")]
    batch_id: BatchId
    run_id: RunId
    method: Annotated[str, doc("Method of training, such as lora.")]
    hyperparameters: Hyperparameters
    rows: Annotated[int, doc("Rows that it was trained on.")]
    tokens: Annotated[int, doc("Tokens that it was trained on, repetitions counted.")]
    seconds: Seconds
    base_identity: Identified = None
    surroundings: Surrounded = None
    parent_adapter: Annotated[str | None, doc("Digest of the adapter that the run went on from; absent: the base.")] = None
    optimiser: Annotated[
        str | None, doc("Digest of the optimiser's state at its end, kept beside the adapter; absent: none is kept.")
    ] = None
    dataset_digest: TaughtBy = None


class Measure(Value, frozen=True, kw_only=True):
    """A metric with its 95 % interval over `n` rows."""

    value: Annotated[float, doc("The metric's value.")]
    low: Annotated[float, doc("Lower end of the interval.")]
    high: Annotated[float, doc("Upper end of the interval.")]
    n: Annotated[int, doc("Rows that it was measured on.")]


class Gain(Value, frozen=True, kw_only=True):
    """A difference with its interval."""

    value: Annotated[float, doc("The difference.")]
    low: Annotated[float, doc("Lower end of the interval.")]
    high: Annotated[float, doc("Upper end of the interval.")]


class Comparison(Value, frozen=True, kw_only=True):
    """Candidate against incumbent on the same rows: `loss_gain` > 0 means the candidate loses less; wins by a grader."""

    loss_gain: Annotated[Gain, doc("Loss of the incumbent minus loss of the candidate, in nats a token.")]
    n: Annotated[int, doc("Rows that both were compared on.")]
    wins: Annotated[int | None, doc("Rows on which the grader gave the candidate more. Absent without a grader.")] = None
    losses: Annotated[int | None, doc("Rows on which it gave the incumbent more.")] = None
    ties: Annotated[int | None, doc("Rows on which it gave both the same.")] = None
    p_value: Annotated[float | None, doc("One-sided sign test: chance of so many wins if both were equally good.")] = None


class Requirement(Value, frozen=True, kw_only=True):
    """A target for a metric of the candidate, and whether it is met."""

    name: Annotated[str, doc("Its name in the policy.")]
    metric: Annotated[str, doc("The metric: loss, perplexity, success, score or loss_gain.")]
    target: Annotated[float, doc("The value that is asked for.")]
    direction: Annotated[Literal["at_least", "at_most"], doc("On which side of the target the value has to be.")]
    satisfied: Annotated[bool, doc("Whether it is. A metric that was not measured is not.")]
    current: Annotated[float | None, doc("The value now; absent: not measured.")] = None


class GroupResult(Value, frozen=True, kw_only=True):
    """A prompt group in a comparison: means over its rows, better is positive."""

    group: Annotated[str, doc("Digest of the prompt group within its bucket.")]
    rows: Annotated[int, doc("Its rows.")]
    side: Annotated[Literal["test", "train", "validation"], doc("Its side of the split.")] = "test"
    samples: Annotated[int, doc("Answers of each side that were graded, a row; 0: none.")] = 0
    loss_gain: Annotated[
        float | None, doc("Loss of the other minus loss of this one, in nats a token; absent: no row says anything about it.")
    ] = None
    success_gain: Annotated[
        float | None, doc("Mean grade of this one minus that of the other, as a share of 1; absent: nothing was graded.")
    ] = None
    margin_gain: Annotated[
        float | None,
        doc(
            "By how much more this one tells the group's good answers from its bad ones than the other does, in nats a token; "
            "absent: it has not both, or grades are counted."
        ),
    ] = None
    selected: Annotated[bool, doc("Whether rows of it may be there because our own model failed on them.")] = False
    drawn: Annotated[
        int | None, doc("Rows that were drawn from interactions: where there are any, these alone were graded. Absent: none.")
    ] = None
    slices: Annotated[list[str] | None, doc("Protected kinds of rows that it belongs to; absent: none.")] = None


class SuiteResult(Value, frozen=True, kw_only=True):
    """A head against what was served on the tasks of a suite."""

    name: Annotated[str, doc("Name of the suite.")]
    sha256: Annotated[str, doc("Digest of what it asks.")]
    protected: Annotated[bool, doc("Whether a head that is worse on it may not be served by itself.")]
    tasks: Annotated[list[GroupResult], doc("Its tasks, each a group of one row, each once.")]
    left_out: Annotated[dict[str, int] | None, doc("Tasks that could not be asked or told nothing, by reason; absent: none.")] = (
        None
    )


class HeadResult(Value, frozen=True, kw_only=True):
    """A head against what was served, group by group."""

    version_id: VersionId
    groups: Annotated[list[GroupResult], doc("Groups of the test pool, each once.")]
    invalid: Annotated[str | None, doc("Why it can't be judged; absent: it can.")] = None
    suites: Annotated[list[SuiteResult] | None, doc("Suites that were asked; absent: none.")] = None


class SamplesReference(Value, frozen=True, kw_only=True):
    """Samples of an evaluation: a Parquet file in the store, as long as it is kept."""

    sha256: Annotated[str, doc("Digest of the file, by which it is found.")]
    rows: Annotated[int, doc("Its rows: one for each test row and head.")]
    batch_id: Annotated[str, doc("Batch whose test rows they are of.")]


class Evaluation(Value, frozen=True, kw_only=True):
    """A version compared with what was served."""

    evaluation_id: EvaluationId
    version_id: VersionId
    bucket: BucketName
    artifact_type: ArtifactTypeName
    base: BaseName
    batch_id: BatchId
    run_id: RunId
    adapter: Annotated[Adapter, doc("The candidate's adapter.")]
    candidate: Annotated[dict[str, Measure], doc("Metrics of the candidate.")]
    incumbent: Annotated[dict[str, Measure], doc("Metrics of what was served.")]
    comparison: Annotated[Comparison, doc("Both on the same rows.")]
    requirements: Annotated[list[Requirement], doc("The policy's requirements with their current values.")]
    policy_digests: PolicyDigests
    parent_adapter: Annotated[str | None, doc("Digest of the incumbent's adapter; absent: the base.")] = None
    parent_release_id: Annotated[str | None, doc("The release that it was compared with; absent: the base.")] = None
    base_identity: Identified = None
    surroundings: Surrounded = None
    left_out: LeftOut = None
    shortened: Shortened = None
    ungraded: Annotated[
        dict[str, int] | None,
        doc(
            "Answers, of all sides, that the grader gave no grade, by what it did: late, ended (by itself), raised (an error), "
            "out_of_range, forged (wrote what is none), not_sealed, lost. They count as 0. Absent: none."
        ),
    ] = None
    measure: Annotated[
        Literal["success", "margin", "loss"] | None, doc("What evidence is counted in; absent: an older trainer.")
    ] = None
    heads: Annotated[
        list[HeadResult] | None, doc("The version, and earlier heads that still wait, group by group; absent: an older trainer.")
    ] = None
    watched: Annotated[
        list[GroupResult] | None, doc("What was served against what was served before it; absent: no promotion is watched.")
    ] = None
    samples: Annotated[
        SamplesReference | None, doc("Both answers to each test row, with grades and losses; absent: none were kept.")
    ] = None
    dataset_digest: TaughtBy = None


class BatchRetryRequest(Value, frozen=True, kw_only=True):
    """Somebody wants a batch trained once more: its training failed, or (`without`) what was learnt was taken back."""

    bucket: RequestedBucket
    batch_id: Annotated[Key, doc("The batch.")]
    reason: Because = None
    requested_by: RequestedBy = None
    begins: Annotated[
        str | None,
        doc("Of a run without what was taken back: digest of the adapter at which it begins; absent: the base."),
    ] = None
    without: Annotated[
        list[str] | None,
        doc(
            "Ids of examples that were taken back: none of them is learnt, whether or not it is withdrawn by then. Present: the "
            "run begins at `begins`, and learns all batches behind that anew."
        ),
    ] = None


class PromoteRequest(Value, frozen=True, kw_only=True):
    """Somebody wants a version served."""

    bucket: RequestedBucket
    version_id: Annotated[Key, doc("The version, which must have been evaluated.")]
    reason: Because = None
    requested_by: RequestedBy = None


class RollbackRequest(Value, frozen=True, kw_only=True):
    """Somebody wants an earlier release back."""

    bucket: RequestedBucket
    release_id: Annotated[Key | None, doc("Which one. Absent: the release before; base: back to the base.")] = None
    reason: Because = None
    requested_by: RequestedBy = None


class RevokeRequest(Value, frozen=True, kw_only=True):
    """Somebody wants an adapter never to be served again."""

    bucket: RequestedBucket
    adapter: Annotated[Digest, doc("Digest of the adapter.")]
    reason: Because = None
    requested_by: RequestedBy = None


class SwitchRequest(Value, frozen=True, kw_only=True):
    """Somebody wants automatic releases of a bucket to stop, or to go on."""

    bucket: RequestedBucket
    reason: Because = None
    requested_by: RequestedBy = None


class EvidenceSeen(Value, frozen=True, kw_only=True):
    """A group that a look counted."""

    group: Annotated[str, doc("Digest of the prompt group within its bucket.")]
    first_seen: Annotated[int, doc("Sequence of the answer at which the group was first seen in the bucket.")]
    x: Annotated[float, doc("Its difference as the outcome of a bet, in [-1, 1].")]
    selected: Annotated[bool, doc("Whether feedback selected it, and it was counted apart.")] = False


class HeadEvidence(Value, frozen=True, kw_only=True):
    """What is known of a head after a look, and what was decided. Log capitals in nats; positions are sequences of the bucket."""

    version_id: VersionId
    adapter: Annotated[str, doc("Digest of its adapter.")]
    verdict: Annotated[
        Literal["promote", "declined", "invalid", "needs_decision", "pending"], doc("What the evidence says of it.")
    ]
    reason: Annotated[str, doc("Name of the rule that decided.")]
    waits: Annotated[bool, doc("Whether it goes on waiting for evidence.")]
    h: Annotated[int, doc("Its number among the heads since the last promotion by evidence.")]
    cut: Annotated[int, doc("Position at which it came.")]
    since: Annotated[int, doc("Position of the last decision that changed what is served: groups first seen later count.")]
    claim: Annotated[str, doc("What is claimed: per_release, strict or plain.")]
    measure: Annotated[str, doc("What is counted: success, margin or loss.")]
    alpha: Annotated[float, doc("The chance of error that it may take.")]
    needed: Annotated[float, doc("Log capital at which it is promoted.")]
    capital: Annotated[float, doc("Log capital of the bet that it is no better.")]
    useless: Annotated[float, doc("Log capital of the bet that its gain is worth a release.")]
    harm: Annotated[float, doc("Log capital of the bet that its loss is not worse.")]
    alarm: Annotated[float, doc("Log capital at which a head is declined as useless or harmful.")]
    looks: Annotated[int, doc("Looks so far.")]
    groups: Annotated[int, doc("Groups counted so far.")]
    discordant: Annotated[int, doc("Of these, with a difference.")]
    selected: Annotated[int, doc("Of these, with rows that our own model's failure may have selected.")]
    clipped_low: Annotated[int, doc("Of these, cut off at the low end.")]
    clipped_high: Annotated[int, doc("Of these, cut off at the high end.")]
    mean: Annotated[float, doc("Mean difference of the counted groups, cut off, in the measure's unit.")]
    scale: Annotated[float, doc("Difference at which it is cut off, in the measure's unit.")]
    bets: Annotated[list[float], doc("Log weights of the bets, fixed before its first look.")]
    old_groups: Annotated[int, doc("Groups that scale and bets were fixed by.")]
    old_digest: Annotated[str, doc("Digest of the names of these.")]
    seen: Annotated[list[EvidenceSeen], doc("What this look counted.")]
    apart: Annotated[
        int | None, doc("Groups that feedback selected: they are counted apart and decide nothing here. Absent: none are.")
    ] = None


def ends_chain(verdict: str, reason: str) -> bool:
    """Whether the learner's newest head, of which this was said, is nothing to go on from: it did harm, or was no head. One that
    only can't be judged yet is: its answers are still those of what is served, or all who rated what it learnt is its judge. Nor
    does one that has learnt what was taken back since: the trainer goes on from the last head that has not."""
    if verdict == "invalid":
        return not reason.startswith(("same_answers", "self_graded", "taken_back"))
    return reason.startswith("harm")


class HarmEvidence(Value, frozen=True, kw_only=True):
    """What is known of a promotion that is still watched."""

    version_id: VersionId
    looks: Annotated[int, doc("Looks so far.")]
    groups: Annotated[int, doc("Groups counted so far.")]
    harm: Annotated[float, doc("Log capital of the bet that its loss is not worse than that of what was served before.")]
    alarm: Annotated[float, doc("Log capital at which a roll-back is proposed.")]
    proposed: Annotated[bool, doc("Whether a roll-back is proposed.")] = False


class ReleaseDecision(Value, frozen=True, kw_only=True):
    """An answer of the release stage. On `releases`: what to serve now; `adapter` null means the base."""

    release_id: Annotated[str, doc("Id of this answer.")]
    sequence: Annotated[int, doc("Number of this answer in its bucket: 1, 2, 3 …")]
    bucket: BucketName
    artifact_type: ArtifactTypeName
    base: BaseName
    batch_ids: Annotated[list[str], doc("Batches that the run of its adapter was about.")]
    reason: Annotated[str, doc("Why, in words that begin with a name such as gate, stale or requested.")]
    policy_digests: PolicyDigests
    request_id: Annotated[str, doc("Id of the evaluation's or the command's event that this answers.")]
    adapter: Annotated[Adapter | None, doc("What to serve; null: back to the base. Of a declined one: what was asked for.")] = (
        None
    )
    version_id: Annotated[str | None, doc("Version of the adapter.")] = None
    parent_release_id: Annotated[str | None, doc("The release that was served before.")] = None
    evaluation_id: Annotated[str | None, doc("Evaluation of the version.")] = None
    requested_by: Annotated[str | None, doc("Who asked; absent: nobody, the gate decided.")] = None
    base_digest: Annotated[str | None, doc("Digest of the base that the adapter was judged on.")] = None
    evidence: Annotated[
        list[HeadEvidence] | None, doc("Every head of the look, the newest last; absent: nothing was looked at.")
    ] = None
    watch: Annotated[HarmEvidence | None, doc("The promotion that is still watched; absent: none is.")] = None
    dataset_digest: TaughtBy = None


class Tracking(Value, frozen=True, kw_only=True):
    """Which requirements the served release of a bucket meets; curate cuts no more while all are satisfied."""

    bucket: BucketName
    release_id: Annotated[str, doc("The release that is served.")]
    satisfied: Annotated[bool, doc("Whether there are requirements and all are met.")]
    requirements: Annotated[list[Requirement], doc("Each with its current value.")]


class RulesActivation(Value, frozen=True, kw_only=True):
    """The policy that holds for a stage from an offset of its input on."""

    stage: Annotated[str, doc("The stage.")]
    topic: Annotated[str, doc("Short name of its input topic.")]
    partition: Annotated[int, doc("Partition of the input.")]
    from_offset: Annotated[int, doc("Offset of the first input record that is decided by it.")]
    version: Annotated[int, doc("Version of the stage's rules.")]
    digest: Annotated[str, doc("Digest of the policy.")]
    body: Annotated[Any, doc("The policy, whole.")]


class PositionSkip(Value, frozen=True, kw_only=True):
    """A task goes on behind input that it has not read, because somebody said so."""

    stage: Annotated[str, doc("The stage.")]
    topic: Annotated[str, doc("Short name of its input topic.")]
    partition: Annotated[int, doc("Partition of the input.")]
    from_offset: Annotated[int, doc("Offset of the first input record that is left out.")]
    to_offset: Annotated[int, doc("Offset of the first one that is read again.")]
    removed: Annotated[int, doc("Offsets among them that the log no longer had.")]
    reason: Annotated[str, doc("Why, in the words of who asked for it.")]
    requested_by: Annotated[str | None, doc("Who asked for it.")] = None


class RecordError(Value, frozen=True, kw_only=True):
    """What is wrong with a record."""

    code: Annotated[str, doc("For machines: missing, wrong_type, out_of_range, bad_time, stage_error …")]
    message: Annotated[str, doc("For people: one line that names field and value.")]
    field: Annotated[str | None, doc("Path of the field, such as data.prompt; absent: the whole record.")] = None


class DeadLetter(Value, frozen=True, kw_only=True):
    """A record that could not be processed, whole, and why: the `data` of `headrace.record.rejected.v1`."""

    topic: Annotated[str, doc("Short name of the topic that it came on.")]
    partition: Annotated[int, doc("Partition.")]
    offset: Annotated[int, doc("Offset in it.")]
    timestamp: Annotated[int, doc("The record's append time, in ms since the epoch.")]
    headers: Annotated[list[tuple[str, str | None]], doc("Its headers, values in base64.")]
    error: Annotated[RecordError, doc("What is wrong with it.")]
    key_base64: Annotated[str | None, doc("Its key in base64; absent: none.")] = None
    value_base64: Annotated[str | None, doc("Its value in base64; absent: none.")] = None


class Redrive(Value, frozen=True, kw_only=True):
    """A dead letter's record was published once more: the `data` of `headrace.record.redriven.v1`. It stands behind the letter
    and is in one transaction with the record, so that no letter is redriven twice."""

    topic: Annotated[str, doc("Short name of the topic that the record had come on.")]
    partition: Annotated[int, doc("Its partition there.")]
    offset: Annotated[int, doc("Its offset in it.")]
    published: Annotated[Locator, doc("Where it lies now.")]
    edited: Annotated[
        list[str] | None, doc("Fields that were changed or filled in; `record` for all of it. Absent: the same bytes.")
    ] = None
    reason: Annotated[str, doc("Why, in the words of who asked for it.")]
    requested_by: RequestedBy = None


SilenceKind = Literal[
    "adapter_unseen",
    "served_other",
    "bucket_without_feedback",
    "feedback_unjoined",
    "agent_stopped",
    "rater_stopped",
    "lag_grows",
]
SilenceKindName = Annotated[
    SilenceKind,
    doc(
        "adapter_unseen: released, and no answer names it; served_other: answers name an adapter that was not served then; "
        "bucket_without_feedback; feedback_unjoined: feedback waits for an interaction or a link; agent_stopped, rater_stopped: "
        "silent for longer than ever; lag_grows: a task falls behind."
    ),
]
SilentOne = Annotated[Key, doc("Who is silent: an agent, a rater as kind:id, a bucket, bucket and release, a task.")]


class Silence(Value, frozen=True, kw_only=True):
    """Somebody who should speak does not, or says something else than expected: the `data` of `headrace.silence.raised.v1`."""

    kind: SilenceKindName
    subject: SilentOne
    since: Annotated[str, doc("From when on it is so, RFC 3339.")]
    expected: Annotated[str, doc("What was expected, in words, with the threshold.")]
    seen: Annotated[str, doc("What was seen, in words.")]
    policy_key: Annotated[str, doc("The key of `[silence]` with the threshold.")]
    bucket: Annotated[str | None, doc("The bucket that it concerns; absent: none.")] = None
    interaction_id: Annotated[str | None, doc("One interaction that shows it; absent: none does.")] = None


class SilenceEnd(Value, frozen=True, kw_only=True):
    """It is no longer so."""

    kind: SilenceKindName
    subject: SilentOne
    since: Annotated[str, doc("From when on it was so, RFC 3339.")]


class SilenceMute(Value, frozen=True, kw_only=True):
    """Somebody knows of a silence and does not want to be told until a time."""

    kind: SilenceKindName
    subject: SilentOne
    until: Annotated[str, doc("Until when, RFC 3339. A time that has passed ends a mute.")]
    reason: Annotated[str, doc("Why, for people.")]
    requested_by: RequestedBy = None


class TrafficSnapshot(Value, frozen=True, kw_only=True):
    """What the observer knows of who spoke when, so that another process goes on with it."""

    subject: Annotated[str, doc("Always `traffic`: what its key is.")]
    offsets: Annotated[dict[str, int], doc("Next offsets of what it was counted from, by topic/partition.")]
    body: Annotated[Any, doc("Who was seen when: the observer's own form.")]


class KeyIssue(Value, frozen=True, kw_only=True):
    """A key that the texts of one owner are sealed with. Of several keys of an owner the first one on the log is used."""

    key_id: Annotated[str, doc("Names this key alone; the record's key.")]
    owner: Annotated[
        str, doc("Whose texts it seals: interaction/ and an id, or feedback/ and a digest; of before: ref/ and a foreign id.")
    ]
    time: Annotated[str, doc("Event time of what it was made for, RFC 3339.")]
    secret_base64: Annotated[str, doc("The key: 32 bytes for AES-SIV, in base64.")]
    subject: Annotated[str | None, doc("Digest of the handle of whose data it is; absent: not known yet.")] = None
    under: Annotated[
        str | None,
        doc(
            "Of feedback that names a foreign id only: foreign/ and that id. It belongs to the "
            "interaction that the id means then, or else to the first that it comes to mean."
        ),
    ] = None


class KeyBelonging(Value, frozen=True, kw_only=True):
    """Whose the texts of an owner are: learnt after its key was made, or by a link."""

    key_id: Annotated[str, doc("Names this record alone; the record's key.")]
    owner: Annotated[str, doc("The owner; foreign/ and a foreign id: what it means from here on, unless a later link is known.")]
    time: Annotated[str, doc("Event time of what says so, RFC 3339.")]
    subject: Annotated[str | None, doc("Digest of the handle of whose data it is.")] = None
    of: Annotated[str | None, doc("Another owner that it belongs to: a foreign id to an interaction.")] = None


class KeyErasure(Value, frozen=True, kw_only=True):
    """Stands for ever in the place of a key that is no more: compaction removes the key. Who meets a text of this owner knows
    that it was erased, and that no key was lost."""

    key_id: Annotated[str, doc("The key, or what else was said of the owner, by the record's key.")]
    owner: Annotated[str, doc("The owner, whose texts nobody can open any more.")]
    subject: Annotated[str | None, doc("Digest of the handle of whose data it was; absent: not known.")] = None


class SubjectKeysErasure(Value, frozen=True, kw_only=True):
    """All keys of a subject that came before this record, and those made later for what happened up to `time`, are erased."""

    subject: Annotated[str, doc("Digest of the subject's handle.")]
    time: Annotated[str, doc("Event time of the erasure, RFC 3339.")]
