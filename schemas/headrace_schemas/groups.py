"""Which task an interaction is a try at, where its publisher gave no prompt group. Pure; knows no split and no state.

The same task asked again must be the same group, or a version is tested on what it learnt: of digests over the whole prompt, 83 %
of the tested tasks had also been trained on where retries showed the error, 98 % with retrieved texts in the prompt, 100 % with
today's date, 88 % with changes of case and punctuation.
"""

from __future__ import annotations

import re
import unicodedata

from headrace_schemas.chat import text_of
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Context, Text
from headrace_schemas.text import normalise, render

SOME = 20  # characters from which on a context that a question repeats is taken out of it
WORK = 1 << 26  # characters of a question that are looked at for all its contexts: 0.03 s
_NUMBER = "0"
_NAMES = """
january february march april may june july august september october november december
jan feb mar apr jun jul aug sep sept oct nov dec
monday tuesday wednesday thursday friday saturday sunday
mon tue tues wed thu thur thurs fri sat sun
"""
_DATES = frozenset([_NUMBER, "0st", "0nd", "0rd", "0th", "0t0", "0t0z", "0z", *_NAMES.split()])
_CLOCK = frozenset(["am", "pm", "utc", "gmt"])  # behind a number
_FIGURES = re.compile("0{2,}")


class _Characters(dict[int, str | int]):
    """What becomes of each character: figures are 0; letters and their marks stay; all else is a blank. Filled as it is asked."""

    def __missing__(self, code: int) -> str | int:
        kind = unicodedata.category(chr(code))
        self[code] = made = _NUMBER if kind == "Nd" else code if kind[0] in "LMN" else " "
        return made


_CHARACTERS = _Characters()


def session_group(session_id: str) -> str:
    """Where there is a session, whatever is asked in it. (What a child has from its parent, its publisher says.)"""
    return derive_id("prompt_group", "session", session_id)


def question_group(prompt: Text, context: Context = None) -> str:
    """Of the last message of the user, without the context where that stands in it, as `masked`."""
    question = question_of(prompt)
    asked = without(question, context)
    return derive_id("prompt_group", "question", masked(asked) or masked(question) or normalise(question))


def question_of(prompt: Text) -> str:
    """The text of the last message of the user; of a prompt without one, all of it."""
    if isinstance(prompt, str):
        return prompt
    return next((text_of(message) for message in reversed(prompt) if message.role == "user"), None) or render(prompt)


def without(question: str, context: Context) -> str:
    """A question without what was retrieved for it, as far as that is looked for."""
    work = WORK
    for text in [context] if isinstance(context, str) else [item.content for item in context or ()]:
        if SOME <= len(text) <= len(question):
            work -= len(question)
            if work < 0:
                break
            question = question.replace(text, " ")
    return question


def masked(text: str) -> str:
    """Words in one case with a blank between, whatever stood there; numbers, dates and times of day as 0, several in a row as
    one. Months and days are known by their English names."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold().translate(_CHARACTERS)
    found = (_FIGURES.sub(_NUMBER, text) if "00" in text else text).split()
    if _DATES.isdisjoint(found):  # as most texts are
        return " ".join(found)
    words: list[str] = []
    number = False
    for word in found:
        if word in _DATES:
            if not number:
                words.append(_NUMBER)
            number = True
        elif not (number and word in _CLOCK):
            words.append(word)
            number = False
    return " ".join(words)
