# mypy: ignore-errors
"""The one job that all peers do: an interaction is kept under its id, a feedback on it becomes a JSON line with the tanh of its
score and the interaction's texts. Knows bytes; needs msgspec only, in whatever environment.
"""

import math
import os

import msgspec

NAME, BOOTSTRAP, INPUT, OUTPUT, FOLDER = (
    os.environ.get(f"PEER_{name}", "") for name in ("NAME", "BOOTSTRAP", "INPUT", "OUTPUT", "FOLDER")
)


class Data(msgspec.Struct):
    interaction_id: str
    artifact_type: str = ""
    prompt: str = ""
    output: str = ""
    score: float = 0.0


class Event(msgspec.Struct):
    type: str
    data: Data


class Case(msgspec.Struct, array_like=True):
    artifact_type: str
    prompt: str
    output: str


class Example(msgspec.Struct):
    id: str
    artifact_type: str
    reward: float
    prompt: str
    output: str


_EVENT, _CASE, _ENCODER = msgspec.json.Decoder(Event), msgspec.json.Decoder(Case), msgspec.json.Encoder()


def step(case, value):
    """(the case from here on as bytes, None where it stays as it was; what to write, or None)."""
    event = _EVENT.decode(value)
    data = event.data
    if event.type == "headrace.interaction.recorded.v1":
        return _ENCODER.encode(Case(data.artifact_type, data.prompt, data.output)), None
    if case is None:
        return None, None
    known = _CASE.decode(case)
    reward = math.tanh((data.score - 50) / 50)
    return None, _ENCODER.encode(Example(data.interaction_id, known.artifact_type, reward, known.prompt, known.output))
