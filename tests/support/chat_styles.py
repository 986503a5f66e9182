"""Chat templates in the manner of those that bases come with, each with a tiny tokenizer made on the spot.

Written here; what they have in common with others is what such templates do: headers, folded roles, refusals, calls of their own.
"""

# ruff: noqa: E501 (templates are one line where their white space counts)

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from support.tiny import CORPUS


class Style(NamedTuple):
    """`roles`: what stands before a text of a role; roles that are not in it are folded. `stops`: beside the tokenizer's own."""

    template: str | None
    roles: dict[str, str]
    special: tuple[str, ...]
    eos: str
    stops: tuple[str, ...] = ()
    spaced: bool = False  # a SentencePiece-like tokenizer, which puts a space before what stands alone
    plain: tuple[str, ...] = ()  # tokens of its own that are no special ones


_IM = ("<|im_start|>", "<|im_end|>")
_IM_ROLES = {role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")}
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _ASK

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) or
           (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

QWEN_THINKING = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content %}{%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.last %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}
"""

OPENING = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")

LLAMA = """{{- bos_token }}
{%- set today = strftime_now('%d %b %Y') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + today + '\\n\\n' + system + '<|eot_id|>' }}
{%- if tools %}
    {%- set first = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nAnswer by a call of one of these functions.\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- first + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (message.content | tojson) + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + (message.content | trim) + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

LLAMA_2 = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message.content.strip() + ' [/INST]' }}
    {%- else %}{{- ' ' + message.content.strip() + ' ' + eos_token }}{%- endif %}
{%- endfor %}
"""

MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}{%- set messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.first %}{{- '[AVAILABLE_TOOLS]' }}{{- tools | tojson }}{{- '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {%- if system is defined and (loop.last or message == messages[-1] or messages[loop.index0 + 1:] | length == 1) %}
            {{- '[INST]' + system + '\\n\\n' + message.content + '[/INST]' }}
        {%- else %}{{- '[INST]' + message.content + '[/INST]' }}{%- endif %}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{- raise_exception('ids of calls have nine characters') }}{%- endif %}
            {{- {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
            {%- if not loop.last %}{{- ', ' }}{%- endif %}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'assistant' %}{{- message.content + eos_token }}
    {%- elif message.role == 'tool' %}{{- '[TOOL_RESULTS]' + ({'content': message.content} | tojson) + '[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('roles are user, assistant and tool') }}{%- endif %}
{%- endfor %}
"""

GEMMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate') }}{%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""

PHI = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

R1 = """{{- bos_token }}
{%- for message in messages if message.role == 'system' %}{{- message.content }}{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '<|User|>' + message.content }}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {{- '<|Assistant|>' }}
        {%- for call in message.tool_calls %}
            {{- '<|tool_call_begin|>' + call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```<|tool_call_end|>' }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'assistant' %}{{- '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token }}
    {%- elif message.role == 'tool' %}{{- '<|tool_output|>' + message.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{%- endif %}
"""

REFUSING = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') or (not loop.first and m.role == loop.previtem.role) %}"
    "{{ raise_exception('no such turn') }}{% endif %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WALKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}<parameter={{ k }}>"
    "{{ v | tojson if v is mapping or v is sequence and v is not string else v }}</parameter>{% endfor %}</function>{% endfor %}"
    "<|im_end|>\n{% endfor %}" + _ASK
)

FALLING_THROUGH = (
    "{% for m in messages %}{% if m.role == 'system' %}<|system|>{{ m.content }}</s>{% elif m.role == 'user' %}<|user|>{{ m.content }}</s>"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>"
    "{% endfor %}</s>{% elif m.role == 'tool' %}<|tool|>{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

DATED = "Today is {{ strftime_now('%Y-%m-%d') }}.\n" + CHATML
_ANGLED = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}

STYLES = {
    "chatml": Style(CHATML, _IM_ROLES | {"tool": "<|im_start|>tool\n", "developer": "<|im_start|>developer\n"}, _IM, "<|im_end|>"),
    "qwen": Style(QWEN, _IM_ROLES, (*_IM, "<|endoftext|>"), "<|im_end|>", ("<|endoftext|>",), plain=("<tool_call>", "</tool_call>")),
    "qwen base": Style(QWEN, _IM_ROLES, (*_IM, "<|endoftext|>"), "<|endoftext|>", plain=("<tool_call>", "</tool_call>")),
    "qwen thinking": Style(QWEN_THINKING, _IM_ROLES, _IM, "<|im_end|>", plain=("<think>", "</think>")),
    "opening": Style(OPENING, _IM_ROLES | {"tool": "<|im_start|>tool\n"}, _IM, "<|im_end|>", plain=("<think>", "</think>")),
    "llama": Style(
        LLAMA, {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("system", "user", "assistant", "ipython")},
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"), "<|end_of_text|>",
        ("<|eot_id|>",),
    ),
    "llama 2": Style(LLAMA_2, {"user": "[INST] ", "assistant": "[/INST] "}, ("<s>", "</s>"), "</s>", spaced=True),
    "mistral": Style(
        MISTRAL, {"user": "[INST]", "assistant": "[/INST]", "tool": "[TOOL_RESULTS]"},
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
         "[/TOOL_RESULTS]"), "</s>", spaced=True,
    ),
    "gemma": Style(
        GEMMA, {"user": "<start_of_turn>user\n", "assistant": "<start_of_turn>model\n"},
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", ("<end_of_turn>",), spaced=True,
    ),
    "phi": Style(
        PHI, {role: f"<|{role}|>\n" for role in ("system", "user", "assistant")},
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), "<|endoftext|>", ("<|end|>",),
    ),
    "r1": Style(
        R1, {"user": "<|User|>", "assistant": "<|Assistant|>", "tool": "<|tool_output|>"},
        ("<|begin|>", "<|User|>", "<|Assistant|>", "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_output|>", "<|end|>"), "<|end|>",
        plain=("<think>", "</think>"),
    ),
    "refusing": Style(REFUSING, _ANGLED, ("<s>", "</s>"), "</s>"),
    "walking": Style(WALKING, _IM_ROLES | {"tool": "<|im_start|>tool\n"}, _IM, "<|im_end|>"),
    "falling through": Style(FALLING_THROUGH, _ANGLED, ("<s>", "</s>"), "</s>"),
    "dated": Style(DATED, _IM_ROLES, _IM, "<|im_end|>"),
    "none": Style(None, {role: f"{role}: " for role in ("system", "developer", "user", "assistant", "tool")}, ("<|end|>",), "<|end|>"),
    "none, spaced": Style(None, {role: f"{role}: " for role in ("system", "user", "assistant")}, ("<s>", "</s>"), "</s>", spaced=True),
}  # fmt: skip


@cache
def tokenizer_of(name: str) -> Any:
    """A transformers tokenizer of a style: bytes and a few merges."""
    style = STYLES[name]
    tokenizer = Tokenizer(models.BPE(byte_fallback=style.spaced, unk_token="<unk>" if style.spaced else None))
    special = [*style.special, *(["<unk>"] if style.spaced else [])]
    alphabet: list[str]
    if style.spaced:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = [chr(code) for code in range(0x21, 0x7F)] + ["▁"]
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 380, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if style.spaced:  # bytes are in the vocabulary, and no tokens of their own
        tokenizer = _without_byte_tokens(tokenizer, [*style.special, "<unk>"])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in style.plain])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=style.eos, bos_token=_bos(style), pad_token=style.special[0]
    )
    fast.chat_template = style.template
    return fast


def _bos(style: Style) -> str | None:
    return style.special[0] if style.special[0] in ("<s>", "<bos>", "<|begin|>", "<|begin_of_text|>") else None


def _without_byte_tokens(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    import json

    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json.dumps(made))


def stops_of(name: str) -> list[int]:
    """The tokenizer's own stop and those of its base's generation config."""
    tokenizer = tokenizer_of(name)
    return [tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(stop) for stop in STYLES[name].stops)]
