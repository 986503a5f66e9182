"""Which events stand in which topic. Topics by their short names; what a topic is (key, retention) is not known here."""

from __future__ import annotations

from headrace_schemas import events
from headrace_schemas.events import Envelope

CHANNELS: dict[str, tuple[type[Envelope], ...]] = {
    "interactions": (
        events.InteractionRecorded,
        events.InteractionLinked,
        events.InteractionRetracted,
        events.SubjectErased,
    ),
    "feedback": (events.FeedbackRecorded, events.FeedbackRetracted),
    "refs": (events.InteractionLinked, events.FeedbackRecorded),
    "signals": (
        events.InteractionRecorded,
        events.InteractionRetracted,
        events.SubjectErased,
        events.FeedbackRecorded,
        events.FeedbackRetracted,
    ),
    "examples": (events.ExampleRewarded, events.ExampleWithdrawn, events.ClockTicked, events.RequirementsTracked),
    "rejections": (events.ExampleRejected, events.SignalRejected, events.ExampleSuperseded),
    "batches": (events.BatchReady,),
    "runs": (events.TrainingStarted, events.TrainingProgressed, events.TrainingCompleted, events.TrainingFailed),
    "versions": (events.ModelVersionCreated,),
    "outcomes": (
        events.EvaluationCompleted,
        events.PromoteRequested,
        events.RollbackRequested,
        events.RevokeRequested,
        events.PauseRequested,
        events.ResumeRequested,
    ),
    "releases": (events.ReleasePromoted, events.ReleaseRolledBack, events.ReleaseRevoked),
    "releases.history": (
        events.ReleasePromoted,
        events.ReleaseDeclined,
        events.ReleaseRolledBack,
        events.ReleaseRevoked,
        events.ReleasePaused,
        events.ReleaseResumed,
    ),
    "rules": (events.RulesActivated,),
    "dead-letters": (events.RecordRejected,),
}
