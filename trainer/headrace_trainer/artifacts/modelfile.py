"""The Modelfile with which Ollama serves a GGUF file as the base was asked in training. Knows a chat template, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace_trainer.artifacts.gguf_file import begins_with_bos
from headrace_trainer.artifacts.merge import NotExportable

_SYSTEM, _USER, _ANSWER = "Qsys7Q", "Qusr7Q", "Qans7Q"


def modelfile(file: str, tokenizer: Any, stops: Sequence[str]) -> str:
    """`file`: the GGUF file, relative to it; `stops`: texts that end an answer. NotExportable for a template that writes texts in
    another order, or other than they are."""
    lines = [f"FROM ./{file}", f'TEMPLATE """{template_of(tokenizer)}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join([*lines, "PARAMETER temperature 0", ""])


def template_of(tokenizer: Any) -> str:
    """What the chat template writes around system, user and answer, in Ollama's language; found by marked messages."""
    if not tokenizer.chat_template:
        from headrace_schemas.inputs import Message
        from headrace_schemas.plain_chat import plain_prompt

        before, _, after = plain_prompt([Message(role="user", content=_USER)], []).partition(_USER)
        return f"{before}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}"
    begin = str(tokenizer.bos_token) if begins_with_bos(tokenizer) else ""
    user = {"role": "user", "content": _USER}
    plain, asked = _cut(tokenizer, [user], begin, _USER)
    whole = _rendered(tokenizer, [user, {"role": "assistant", "content": _ANSWER}], asks=False)
    tail = whole.rpartition(_ANSWER)[2] if _ANSWER in whole else ""
    try:
        opened, between, _ = _cut(tokenizer, [{"role": "system", "content": _SYSTEM}, user], begin, _SYSTEM, _USER)
    except NotExportable:  # a template that knows no system message
        return f"{plain}{{{{ .Prompt }}}}{asked}{{{{ .Response }}}}{tail}"
    system = f"{{{{ if .System }}}}{opened}{{{{ .System }}}}{between}{{{{ else }}}}{plain}{{{{ end }}}}"
    return f"{system}{{{{ .Prompt }}}}{asked}{{{{ .Response }}}}{tail}"


def _cut(tokenizer: Any, messages: list[dict[str, str]], begin: str, *marks: str) -> list[str]:
    """What stands before, between and after the marks."""
    text = _rendered(tokenizer, messages, asks=True).removeprefix(begin)
    parts = []
    for mark in marks:
        if text.count(mark) != 1:
            raise NotExportable("chat template: it does not write each text once; write the Modelfile by hand")
        before, _, text = text.partition(mark)
        parts.append(before)
    if any('"""' in part or "{{" in part for part in [*parts, text]):
        raise NotExportable("chat template: it writes what a Modelfile cannot quote; write the Modelfile by hand")
    return [*parts, text]


def _rendered(tokenizer: Any, messages: list[dict[str, str]], *, asks: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
    except Exception as error:  # a template is somebody's program
        raise NotExportable(f"chat template: {type(error).__name__}: {error}") from error
