"""What model libraries return becomes the contract's form, from dictionaries and from the libraries' own objects."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, get_args, get_type_hints

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas import inputs
from headrace_schemas import provider_messages as provider
from headrace_schemas.errors import DecodeError
from headrace_schemas.provider_messages import Response, finish_reason_of, prompt_of, response_of, tools_of, usage_of

PIXELS = b"\x89PNG not really"
BASE64 = base64.b64encode(PIXELS).decode()
DIGEST = f"sha256:{hashlib.sha256(PIXELS).hexdigest()}"
PICTURE = {"type": "ref", "media_type": "image/png", "uri": DIGEST, "sha256": DIGEST}
TEXT = {"type": "text", "text": "hi"}

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "logprobs": None,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [
                    {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "hour": 0}'}},
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}},
                ],
            },
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c0", "name": "weather", "arguments": {"city": "Oslo", "hour": 0}},
        {"id": "c1", "name": "weather", "arguments": '{"city": '},
    ],
}
MESSAGE: dict[str, Any] = {
    "id": "msg-1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "well", "signature": "s"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "t0", "name": "weather", "input": {"city": "Oslo", "hour": None}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 7},
}
LOOKED = {
    "role": "assistant",
    "content": [{"type": "text", "text": "I look."}],
    "tool_calls": [{"id": "t0", "name": "weather", "arguments": {"city": "Oslo", "hour": None}}],
}
RESPONSE: dict[str, Any] = {
    "id": "resp-1",
    "object": "response",
    "created_at": 1,
    "model": "gpt",
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {"id": "r-1", "type": "reasoning", "summary": []},
        {
            "id": "m-1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"id": "f-1", "type": "function_call", "call_id": "t0", "name": "weather", "arguments": '{"city":"Oslo","hour":null}'},
    ],
}


def without_none(message: Any) -> Any:
    return {name: value for name, value in message.items() if value is not None}


def completion(value: Any) -> Any:
    return openai.types.chat.ChatCompletion.model_validate(value)


def test_the_roles_are_the_contracts() -> None:
    assert get_args(get_type_hints(inputs.Message)["role"]) == provider.ROLES
    reasons = {finish_reason_of(word) for word in (*provider.FINISH_REASONS, *get_args(inputs.FinishReason))}
    assert reasons <= set(get_args(inputs.FinishReason))


@pytest.mark.parametrize("made", [lambda value: value, completion], ids=["plain", "object"])
def test_a_chat_completion_is_an_output_with_its_end_and_its_tokens(made: Any) -> None:
    output, reason, usage = response_of(made(COMPLETION))
    assert without_none(output) == without_none({**CALLED, "content": None})
    assert reason == "tool_calls"
    assert (usage["input_tokens"], usage["output_tokens"]) == (5, 7)
    choice = made(COMPLETION)["choices"][0] if isinstance(made(COMPLETION), dict) else made(COMPLETION).choices[0]
    assert response_of(choice)[1:] == ("tool_calls", None)
    message = choice["message"] if isinstance(choice, dict) else choice.message
    assert without_none(response_of(message).output) == without_none(CALLED)
    assert response_of(message)[1:] == (None, None)


@pytest.mark.parametrize("made", [lambda value: value, anthropic.types.Message.model_validate], ids=["plain", "object"])
def test_an_anthropic_message_is_an_output_with_its_end_and_its_tokens(made: Any) -> None:
    output, reason, usage = response_of(made(MESSAGE))
    assert output == LOOKED
    assert reason == "tool_calls"
    assert (usage["input_tokens"], usage["output_tokens"]) == (5, 7)
    content = made(MESSAGE)["content"] if isinstance(made(MESSAGE), dict) else made(MESSAGE).content
    assert response_of(content) == Response(LOOKED)
    assert prompt_of([{"role": "assistant", "content": content}]) == [LOOKED]
    assert prompt_of([made(MESSAGE)]) == [LOOKED]


@pytest.mark.parametrize("made", [lambda value: value, openai.types.responses.Response.model_validate], ids=["plain", "object"])
def test_a_response_of_the_responses_api_is_one_message(made: Any) -> None:
    output, reason, _ = response_of(made(RESPONSE))
    assert output["tool_calls"] == LOOKED["tool_calls"]
    assert (output["role"], output["content"]) == ("assistant", [{"type": "text", "text": "I look."}])
    assert reason == "tool_calls"
    cut = {**RESPONSE, "output": RESPONSE["output"][:2], "status": "incomplete"}
    assert response_of(made({**cut, "incomplete_details": {"reason": "max_output_tokens"}})).finish_reason == "length"
    assert response_of(made({**cut, "status": "completed"})).finish_reason == "stop"


def test_items_of_the_responses_api_are_a_prompt() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        *RESPONSE["output"],
        {"type": "function_call_output", "call_id": "t0", "output": "rain"},
    ]
    user, assistant, tool = prompt_of(items)
    assert user == {"role": "user", "content": [{"type": "text", "text": "weather?"}]}
    assert assistant == LOOKED
    assert tool == {"role": "tool", "content": "rain", "tool_call_id": "t0"}


def test_results_of_tools_become_messages_of_their_own_before_what_the_user_says() -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "t0", "content": [TEXT]},
        {"type": "tool_result", "tool_use_id": "t1", "content": "rain", "is_error": True},
        {"type": "text", "text": "and now?"},
    ]
    results = [
        {"role": "tool", "content": [TEXT], "tool_call_id": "t0"},
        {"role": "tool", "content": "rain", "tool_call_id": "t1"},
    ]
    said = {"role": "user", "content": [{"type": "text", "text": "and now?"}]}
    assert prompt_of([{"role": "user", "content": blocks}]) == [*results, said]
    assert prompt_of([{"role": "user", "content": blocks[:2]}]) == results


def test_a_request_is_a_prompt_with_its_system_prompt_first() -> None:
    user = {"role": "user", "content": "hi"}
    assert prompt_of({"model": "m", "system": "Be brief.", "messages": [user]}) == [
        {"role": "system", "content": "Be brief."},
        user,
    ]
    assert prompt_of({"system": [TEXT], "messages": [user]}) == [{"role": "system", "content": [TEXT]}, user]
    assert prompt_of({"messages": [user]}) == [user]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}", "detail": "low"}}, PICTURE),
        ({"type": "input_image", "image_url": f"data:image/png;base64,{BASE64}"}, PICTURE),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}}, PICTURE),
        (
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
            {"type": "ref", "media_type": "image/*", "uri": "https://x.example/a.png"},
        ),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
            {"type": "ref", "media_type": "image/*", "uri": "https://x.example/a.png"},
        ),
        ({"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}, {**PICTURE, "media_type": "audio/wav"}),
        (
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{BASE64}", "filename": "a.pdf"}},
            {**PICTURE, "media_type": "application/pdf"},
        ),
        ({"type": "input_file", "file_data": BASE64}, {**PICTURE, "media_type": "application/octet-stream"}),
        (
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "ref", "media_type": "application/octet-stream", "uri": "provider-file:file-1"},
        ),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": BASE64}},
            {**PICTURE, "media_type": "application/pdf"},
        ),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}}, TEXT),
        ({"type": "document", "source": {"type": "content", "content": [TEXT]}}, TEXT),
        ({"type": "search_result", "source": "s", "title": "t", "content": [TEXT]}, TEXT),
        ({"type": "refusal", "refusal": "hi"}, TEXT),
        ({"type": "image_url", "image_url": {"url": "data:text/plain,h%69"}},
         {"type": "ref", "media_type": "text/plain", "uri": f"sha256:{hashlib.sha256(b'hi').hexdigest()}",
          "sha256": f"sha256:{hashlib.sha256(b'hi').hexdigest()}"}),
    ],
)  # fmt: skip
def test_what_is_no_text_is_carried_by_reference(part: dict[str, Any], expected: dict[str, Any]) -> None:
    [message] = prompt_of([{"role": "user", "content": [part]}])
    assert message == {"role": "user", "content": [expected]}


def test_a_picture_of_megabytes_leaves_no_bytes_behind() -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(3_000_000)).decode()
    [message] = prompt_of([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert len(json.dumps(message)) < 300


def test_a_refusal_is_what_the_model_said() -> None:
    assert response_of({"role": "assistant", "refusal": "No."}).output == {"role": "assistant", "content": "No."}


def test_speech_is_its_transcript_and_a_reference() -> None:
    audio = {"id": "a", "data": BASE64, "transcript": "hi", "expires_at": 1}
    output = response_of({"role": "assistant", "content": None, "audio": audio}).output
    assert output == {"role": "assistant", "content": [TEXT, {**PICTURE, "media_type": "audio/*"}]}


def test_what_the_provider_did_by_itself_is_left_out() -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "redacted_thinking", "data": "x"},
        TEXT,
    ]
    assert response_of(blocks).output == {"role": "assistant", "content": [TEXT]}
    assert response_of(blocks[:3]).output == {"role": "assistant", "content": None}
    assert response_of([]).output == {"role": "assistant", "content": []}


def test_the_older_function_calls_are_tool_calls() -> None:
    messages = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x":1}'}},
        {"role": "function", "name": "f", "content": "2"},
    ]
    assert prompt_of(messages) == [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "f", "name": "f", "arguments": {"x": 1}}]},
        {"role": "tool", "content": "2", "tool_call_id": "f"},
    ]
    assert finish_reason_of("function_call") == "tool_calls"


def test_a_call_of_a_custom_tool_has_its_text_as_arguments() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "sh", "input": '{"a":1}'}}
    output = response_of({"role": "assistant", "content": None, "tool_calls": [call]}).output
    assert output["tool_calls"] == [{"id": "c", "name": "sh", "arguments": '{"a":1}'}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        ("", ""),
        ("[1]", "[1]"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 123456789012345678901234567890}', '{"a": 123456789012345678901234567890}'),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        ('{"a": ' * 60 + "1" + "}" * 60, '{"a": ' * 60 + "1" + "}" * 60),
    ],
)
def test_arguments_become_an_object_where_an_event_can_hold_it(text: str, expected: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    output = response_of({"role": "assistant", "content": None, "tool_calls": [call]}).output
    assert output["tool_calls"][0]["arguments"] == expected


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}},
            {"name": "f", "description": "d", "parameters": {"type": "object"}},
        ),
        (
            {"name": "f", "description": "d", "input_schema": {"type": "object"}},
            {"name": "f", "description": "d", "parameters": {"type": "object"}},
        ),
        ({"type": "custom", "custom": {"name": "sh"}}, {"name": "sh"}),
        ({"type": "web_search"}, {"type": "web_search", "name": "web_search"}),
        ({"type": "web_search_20250305", "name": "web_search"}, {"type": "web_search_20250305", "name": "web_search"}),
        (
            {"type": "function", "name": "f", "parameters": {}, "strict": True},
            {"type": "function", "name": "f", "parameters": {}, "strict": True},
        ),
    ],
)
def test_tools(tool: dict[str, Any], expected: dict[str, Any]) -> None:
    assert tools_of([tool]) == [expected]


def test_usage() -> None:
    assert usage_of({"prompt_tokens": 5, "completion_tokens": 7}) == {"input_tokens": 5, "output_tokens": 7}
    assert usage_of({"input_tokens": 5, "cache_read_input_tokens": 9}) == {"input_tokens": 5, "cache_read_input_tokens": 9}
    assert usage_of(completion(COMPLETION).usage)["input_tokens"] == 5


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("read", "value", "field"),
    [
        (response_of, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"arguments": "{}"}}]},
         "data.output.tool_calls[0].function.name"),
        (response_of, {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]},
         "data.output.tool_calls[0].id"),
        (response_of, {"role": "assistant", "content": [TEXT, {"type": "tool_use", "id": "t", "input": {}}]},
         "data.output.content[1].name"),
        (response_of, {"role": "assistant", "content": [{"type": "hologram"}]}, "data.output.content[0].type"),
        (response_of, {"role": "robot", "content": "x"}, "data.output.role"),
        (response_of, {"choices": []}, "data.output.choices"),
        (response_of, {"choices": [{"message": USER}] * 2}, "data.output.choices"),
        (response_of, {"object": "response", "status": "completed"}, "data.output.output"),
        (response_of, ["x"], "data.output"),
        (response_of, {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "t"}, TEXT]}, "data.output"),
        (prompt_of, [USER, {"role": "model", "content": "x"}], "data.prompt[1].role"),
        (prompt_of, [USER, {"role": "user", "content": [{"type": "video"}]}], "data.prompt[1].content[0].type"),
        (prompt_of, [USER, TEXT], "data.prompt[1].role"),
        (prompt_of, [{"type": "function_call", "call_id": "c"}], "data.prompt[0].name"),
        (prompt_of, [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}],
         "data.prompt[0].content[0].tool_use_id"),
        (prompt_of, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}]}],
         "data.prompt[0].content[0].image_url"),
        (prompt_of, [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": BASE64}}]}],
         "data.prompt[0].content[0].source.media_type"),
        (prompt_of, [{"role": "user", "content": [{"type": "image"}]}], "data.prompt[0].content[0].source"),
        (prompt_of, [{"role": "user", "content": [{"type": "file", "file": {}}]}], "data.prompt[0].content[0].file"),
        (tools_of, [{"type": "function", "function": {"description": "d"}}], "data.tools[0].function.name"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_one_line_that_names_field_and_value(read: Any, value: Any, field: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read(value)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")
    assert "\n" not in caught.value.message
    assert "it is " in caught.value.message


NORMAL_PART = st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}) | st.fixed_dictionaries(
    {"type": st.just("ref"), "media_type": st.text(), "uri": st.sampled_from(["https://x", "data:,x"])}
)
NORMAL_CALL = st.fixed_dictionaries(
    {"id": st.text(), "name": st.text()},
    optional={"arguments": st.sampled_from(['{"a":1}', {"a": None}, None]), "own": st.none()},
)
NORMAL_MESSAGE = st.fixed_dictionaries(
    {"own": st.integers(), "role": st.sampled_from(provider.ROLES)},
    optional={
        "content": st.none() | st.text() | st.lists(NORMAL_PART, max_size=3),
        "tool_calls": st.none() | st.lists(NORMAL_CALL, max_size=2),
        "tool_call_id": st.text(),
        "name": st.text(),
    },
)


@given(NORMAL_MESSAGE, st.lists(NORMAL_MESSAGE, max_size=3))
def test_what_is_in_the_contracts_form_stays_byte_for_byte(output: Any, prompt: Any) -> None:
    """Order of fields and fields of a publisher's own included."""
    assert json.dumps(response_of(output).output) == json.dumps(output)
    assert json.dumps(prompt_of(prompt)) == json.dumps(prompt)
    assert response_of(output)[1:] == (None, None)


@given(st.text() | st.none() | st.integers() | st.lists(st.integers() | st.text() | st.none(), min_size=1))
def test_what_is_nothing_of_a_provider_is_left_to_the_decoder(value: Any) -> None:
    assert prompt_of(value) == value
    assert tools_of(value) == value
    assert usage_of(value) == value
    if not isinstance(value, list):
        assert response_of(value) == Response(value)
