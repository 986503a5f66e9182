"""What people may set about intake. Knows no fold."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from headrace_processors.intake.scrub.own import RULES_LIMIT, OwnRule
from headrace_streams.policy import Policy

Kind = Literal["email", "phone", "ip", "iban", "card", "national_id", "secret"]


VERSION_4: dict[str, Any] = {"sketches": False}  # what rule version 4 did without this key
VERSION_3: dict[str, Any] = VERSION_4 | {"sessions": False, "seal": "none"}  # likewise rule version 3 and those before


# Each credited interaction gets the whole text, and each may be another person's.
NOT_BOTH = "a text on a session is about several people, and no key could be erased for one of them alone"


class IntakePolicy(Policy):
    """What is scrubbed before anything is kept."""

    scrub: tuple[Kind, ...] = Field(
        ("email", "phone", "ip", "iban", "card", "national_id", "secret"),
        description="kinds of private text that become placeholders",
    )
    rules: tuple[OwnRule, ...] = Field(
        (),
        max_length=RULES_LIMIT,
        description="kinds of private text of your own",
    )
    presidio: str | None = Field(
        None,
        pattern=r"^[0-9][0-9A-Za-z.+-]{0,30}$",
        description="version of presidio-analyzer whose pattern recognisers look too: the installed one (extra `presidio`)",
    )

    seal: Literal["none", "subjects"] = Field(
        "none",
        description="whose texts are sealed on the log: subjects, those of interactions with a `data_subject` and all feedback "
        "with texts, so that `headrace forget` takes away their keys; or none",
    )
    sessions: bool | None = Field(
        None,
        description="whether the stage attribute hears of sessions; absent: where `[attribute]` of the same file credits",
    )

    sketches: bool | None = Field(
        None,
        description="whether it is told what derivations compare of interactions, by sketches; absent: where "
        "`[attribute.derive]` of the same file derives",
    )

    @model_validator(mode="after")
    def _sessions_are_plain(self) -> Self:
        if self.sessions and self.seal != "none":
            raise ValueError(f"sessions: {NOT_BOTH}, and seal is {self.seal!r}: leave one off")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [rule.name for rule in self.rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"rules: two are called {twice!r}")
        return self
