"""Hypothesis strategies for every event type, read off the structs themselves: a field that is added is covered at once.

`events(InteractionRecorded)` gives valid events of a type, `events()` of any; `values(Struct)` gives any struct. The rules
between fields (headrace_schemas.constraints) are met by construction.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from headrace_schemas import inputs
from headrace_schemas.events import EVENT_TYPES, Envelope, FeedbackRecorded, InteractionRecorded
from headrace_schemas.times import rfc3339

_NO_SURROGATES: tuple[Literal["Cs"]] = ("Cs",)
TEXTS = st.text(st.characters(exclude_categories=_NO_SURROGATES), max_size=12)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
FLOATS = st.floats(-1e6, 1e6, allow_nan=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=5)
TIMES = st.integers(946_684_800_000, 4_102_444_800_000).map(rfc3339)  # 2000 to 2100

_PATTERNS = {
    inputs.NO_CONTROL: WORDS,
    r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)": st.sampled_from(["code", "sql", "tests", "0.x_y-z"]),
    r"^[a-z_]{1,40}$(?!\n)": st.sampled_from(["success", "rating", "explicit_negative", "something_else"]),
    r"^sha256:[0-9a-f]{64}$(?!\n)": st.integers(0, 2**256 - 1).map(lambda n: f"sha256:{n:064x}"),
}


def events(*types: type[Envelope]) -> st.SearchStrategy[Any]:
    """Valid events of the given types, or of any."""
    return st.one_of([values(cls) for cls in types or tuple(EVENT_TYPES.values())])


def values(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Valid instances of a struct."""
    return _of(inspect.type_info(cls))


def _struct(info: inspect.StructType) -> st.SearchStrategy[Any]:
    cls = info.cls
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in info.fields:
        strategy = TIMES if issubclass(cls, Envelope) and field.name == "time" else _of(field.type)
        (required if field.required else optional)[field.name] = strategy
    built: st.SearchStrategy[Any] = st.fixed_dictionaries(required, optional=optional).map(lambda fields: cls(**fields))
    if cls is InteractionRecorded or cls is FeedbackRecorded:
        return built
    if cls is inputs.Interaction:
        return st.tuples(built, WORDS, st.sampled_from(["keep", "text"])).map(_interaction)
    if cls is inputs.Feedback:
        return st.tuples(built, WORDS, st.booleans(), st.floats(0, 1)).map(_feedback)
    return built


def _interaction(drawn: tuple[inputs.Interaction, str, str]) -> inputs.Interaction:
    data, word, choice = drawn
    prompt = data.prompt
    if choice == "text" or not prompt or not any(isinstance(m, str) or m.content or m.tool_calls for m in prompt):
        prompt = word
    return msgspec.structs.replace(data, prompt=prompt, output=_by_assistant(data.output))


def _feedback(drawn: tuple[inputs.Feedback, str, bool, float]) -> inputs.Feedback:
    data, word, foreign, share = drawn
    low, high = (min(data.scale), max(data.scale) + 1) if data.scale else (0.0, 100.0)
    kind = data.kind
    if share > 0.5 and (data.over or data.corrected_output is not None):
        kind = "preference" if data.over else "user_correction"
    ref = (data.ref or inputs.Ref(system=word, id=word)) if foreign else None
    return msgspec.structs.replace(
        data,
        kind=kind,
        ref=ref,
        interaction_id=None if foreign else (data.interaction_id or word),
        scale=(low, high) if data.scale else None,
        score=None if data.score is None else min(high, low + share * (high - low)),
        corrected_output=None if data.corrected_output is None else _by_assistant(data.corrected_output),
    )


def _by_assistant(output: inputs.Output) -> inputs.Output:
    return output if isinstance(output, str) else msgspec.structs.replace(output, role="assistant")


def _of(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.StructType():
            return _struct(info)
        case inspect.UnionType():
            return st.one_of([_of(kind) for kind in info.types])
        case inspect.Metadata():
            return _of(info.type)
        case inspect.StrType():
            return _PATTERNS[info.pattern] if info.pattern else TEXTS
        case inspect.IntType():
            return st.integers(-(2**63) if info.ge is None else info.ge, 2**63 - 1 if info.le is None else info.le)
        case inspect.FloatType():
            return st.floats(-1e6 if info.ge is None else info.ge, 1e6 if info.le is None else info.le)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.ListType():
            return st.lists(_of(info.item_type), max_size=2)
        case inspect.TupleType():
            return st.tuples(*map(_of, info.item_types))
        case inspect.DictType():
            return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=2)
        case inspect.AnyType():
            return JSON
    raise TypeError(f"no strategy for {info}")
