"""Intake as its first rule version decided, for logs that it wrote: two kinds of private text. Stateless.

Handles (text_fields.py) were never touched, names were not looked at, and a record had no bound but its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from headrace_processors.intake.routing import dead, misplaced, routed
from headrace_processors.intake.version_1.scrub import FirstScrubber
from headrace_processors.intake.version_1.text_fields import text_fields
from headrace_schemas.codec import Decoded, DecodeError, decode_input, encode_tree
from headrace_schemas.inputs import COMMENT_LIMIT
from headrace_streams.policy import Policy
from headrace_streams.runtime.stage import Record, StatelessFold, Step


class FirstIntakePolicy(Policy):
    """What could be set about intake."""

    scrub: tuple[Literal["email", "secret"], ...] = ("email", "secret")


class FirstIntakeFold(StatelessFold):
    """`headrace_streams.runtime.stage.Fold` under one policy."""

    def __init__(self, policy: FirstIntakePolicy) -> None:
        self._scrubber = FirstScrubber(policy.scrub)

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        try:
            decoded = decode_input(record.value, record.headers, append_time_ms=record.timestamp)
        except DecodeError as error:
            return dead(record, error.code, error.field, error.message)
        return misplaced(record, decoded.event) or Step(routed(decoded.event, self._scrubbed(decoded)), {}, {"signals": 1})

    def _scrubbed(self, decoded: Decoded) -> bytes:
        """The event as it is passed on. Always written anew from what was looked at: of a name that occurs twice in an object
        only the last value is, so the bytes as they came could hold more."""
        tree = decoded.tree()
        fields = text_fields(tree)
        rules = self._scrubber.suspects("\n".join([field.text for field in fields]))
        if rules:
            for holder, key, text in fields:
                clean = self._scrubber.clean(text, rules)
                # a placeholder may be longer than what it stands for, and a comment must stay a valid one
                holder[key] = clean[:COMMENT_LIMIT] if key == "comment" and holder is tree["data"] else clean
        return encode_tree(tree)


def build(body: Mapping[str, Any], digest: str) -> FirstIntakeFold:
    """The fold under a policy body. It names no policy in what it writes, so `digest` is not used."""
    return FirstIntakeFold(FirstIntakePolicy.model_validate(body))
