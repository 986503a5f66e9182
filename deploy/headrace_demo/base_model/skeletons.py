"""Random schemas of three tables and 15 ways to ask about them in plain technical English, with the SQL. Pure, from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from headrace_demo.shop import words

TYPED_SHARE = 0.8
_NAMES = words.CITIES + words.PEOPLE + words.PRODUCTS + words.LABELS
_WORDS_OF = {
    "city": words.CITIES,
    "segment": words.SEGMENTS,
    "category": words.CATEGORIES,
    "status": words.STATUSES,
    "channel": words.CHANNELS,
    "carrier": words.CARRIERS,
    "name": words.PEOPLE + words.PRODUCTS,
}
_AGGREGATES = {
    "min": ("lowest", "minimum", "smallest", "shortest"),
    "max": ("highest", "maximum", "largest", "longest"),
    "avg": ("average", "mean"),
}


@dataclass(frozen=True, slots=True)
class Schema:
    """Three tables in a row: parent <- child <- leaf, each with two text columns and a number."""

    parent: str
    child: str
    leaf: str
    texts: tuple[str, ...]  # two per table
    numbers: tuple[str, ...]  # one per table


def random_schema(draw: random.Random) -> Schema:
    """A schema of three different nouns; words of the shop occur one by one, never two of its tables at once."""
    nouns = draw.sample(words.NOUNS, 3)
    if draw.random() < 0.5:
        nouns[draw.randrange(3)] = draw.choice(words.SHOP_NOUNS)
    texts = draw.sample(words.TEXT_COLUMNS, 6)
    for place in draw.sample(range(6), 3):
        texts[place] = draw.choice(words.SHOP_TEXT_COLUMNS)
    numbers = draw.sample(words.NUMBER_COLUMNS, 3)
    for place in draw.sample(range(3), 2):
        numbers[place] = draw.choice(words.SHOP_NUMBER_COLUMNS)
    return Schema(nouns[0], nouns[1], nouns[2], tuple(texts), tuple(numbers))


def _value(draw: random.Random, column: str) -> str:
    """Mostly a word that such a column holds, now and then any word: what is copied must be read, not guessed."""
    return draw.choice(_WORDS_OF.get(column, words.LABELS) if draw.random() < TYPED_SHARE else _NAMES)


def _number(draw: random.Random, column: str) -> str:
    return str(draw.choice(words.YEARS)) if column == "year" else str(draw.randint(2, 99))


def plain(draw: random.Random) -> tuple[str, str]:
    """One pair (question, SQL) about a fresh schema."""
    schema = random_schema(draw)
    return _PLAIN[draw.randrange(len(_PLAIN))](draw, schema)


def _one(draw: random.Random, options: tuple[str, ...], **slots: str) -> str:
    return draw.choice(options).format(**slots)


def _table(draw: random.Random, schema: Schema) -> tuple[str, str, str, str]:
    """(singular, first text column, second text column, number column) of any of the three tables."""
    place = draw.randrange(3)
    noun = (schema.parent, schema.child, schema.leaf)[place]
    return noun, schema.texts[2 * place], schema.texts[2 * place + 1], schema.numbers[place]


# --- one table


def _count_two(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, b, _ = _table(draw, schema)
    v, w = _value(draw, a), _value(draw, b)
    text = _one(
        draw,
        (
            "How many {n}s have {a} {v} and {b} {w}?",
            "Count {n}s with {a} {v} and {b} {w}.",
            "Number of {w} {b} {n}s with {a} {v}?",
            "In {a} {v}, how many {n}s are {b} {w}?",
        ),
        n=noun,
        a=a,
        b=b,
        v=v,
        w=w,
    )
    return text, f"select count(*) from {noun}s where {a} = '{v}' and {b} = '{w}'"


def _count_three(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, b, x = _table(draw, schema)
    v, w, n = _value(draw, a), _value(draw, b), _number(draw, x)
    text = _one(
        draw,
        (
            "How many {w} {b} {n}s of {x} {k} have {a} {v}?",
            "Count the {n}s with {a} {v} and {b} {w} in {x} {k}.",
            "For {x} {k}, number of {n}s with {a} {v} and {b} {w}?",
        ),
        n=noun,
        a=a,
        b=b,
        x=x,
        v=v,
        w=w,
        k=n,
    )
    return text, f"select count(*) from {noun}s where {a} = '{v}' and {b} = '{w}' and {x} = {n}"


def _lookup(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, _, x = _table(draw, schema)
    v, wanted = _value(draw, "name"), draw.choice((a, x))
    text = _one(
        draw,
        ("What is the {a} of {n} {v}?", "Which {a} has the {n} {v}?", "{a} of the {n} named {v}?", "{v} is a {n}, give its {a}."),
        n=noun,
        a=wanted,
        v=v,
    )
    return text, f"select {wanted} from {noun}s where {noun}_name = '{v}'"


def _list_less(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, _, x = _table(draw, schema)
    v, n = _value(draw, a), str(draw.randint(2, 99))
    sign, word = draw.choice(
        (("<", "below"), ("<", "less than"), ("<", "under"), (">", "above"), (">", "more than"), (">", "over"))
    )
    text = _one(
        draw,
        (
            "Which {v} {a} {n}s have {x} {word} {k}?",
            "List {n}s of {a} {v} with {x} {word} {k}.",
            "{n}s in {v} with {x} {word} {k}?",
        ),
        n=noun,
        a=a,
        x=x,
        v=v,
        k=n,
        word=word,
    )
    return text, f"select {noun}_name from {noun}s where {a} = '{v}' and {x} {sign} {n}"


def _count_more(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, _, x = _table(draw, schema)
    v, n = _value(draw, a), str(draw.randint(2, 99))
    text = _one(
        draw,
        (
            "How many {v} {a} {n}s have {x} over {k}?",
            "Count {n}s of {a} {v} with {x} more than {k}.",
            "Number of {n}s with {a} {v} and {x} above {k}?",
        ),
        n=noun,
        a=a,
        x=x,
        v=v,
        k=n,
    )
    return text, f"select count(*) from {noun}s where {a} = '{v}' and {x} > {n}"


# --- aggregates of one table


def _aggregate(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, _, x = _table(draw, schema)
    v, kind = _value(draw, a), draw.choice(tuple(_AGGREGATES))
    text = _one(
        draw,
        (
            "What is the {word} {x} of {n}s with {a} {v}?",
            "{word} {x} for {v} {a} {n}s?",
            "Give me the {word} {x} of {n}s whose {a} is {v}.",
        ),
        n=noun,
        a=a,
        x=x,
        v=v,
        word=draw.choice(_AGGREGATES[kind]),
    )
    return text, f"select {kind}({x}) from {noun}s where {a} = '{v}'"


def _group(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, b, x = _table(draw, schema)
    v = _value(draw, a)
    if draw.random() < 0.5:
        text = _one(
            draw,
            ("How many {n}s with {a} {v} per {b}?", "Count {n}s of {a} {v} by {b}.", "Split {n}s whose {a} is {v} by {b}."),
            n=noun,
            a=a,
            b=b,
            v=v,
        )
        return text, f"select {b}, count(*) from {noun}s where {a} = '{v}' group by {b}"
    n = _number(draw, x)
    text = _one(
        draw,
        ("How many {n}s with {a} {v} in {x} {k} per {b}?", "For {x} {k}, count {n}s of {a} {v} by {b}."),
        n=noun,
        a=a,
        b=b,
        x=x,
        v=v,
        k=n,
    )
    return text, f"select {b}, count(*) from {noun}s where {a} = '{v}' and {x} = {n} group by {b}"


def _top(draw: random.Random, schema: Schema) -> tuple[str, str]:
    noun, a, _, x = _table(draw, schema)
    v, n = _value(draw, a), str(draw.randint(2, 20))
    order, word = draw.choice(((" desc", "highest"), (" desc", "largest"), ("", "lowest"), ("", "smallest")))
    text = _one(
        draw,
        (
            "What are the {k} {v} {a} {n}s of {word} {x}?",
            "Top {k} {n}s with {a} {v} by {word} {x}?",
            "Name the {k} {n}s in {v} with the {word} {x}.",
        ),
        n=noun,
        a=a,
        x=x,
        v=v,
        k=n,
        word=word,
    )
    return text, f"select {noun}_name from {noun}s where {a} = '{v}' order by {x}{order} limit {n}"


# --- joins


def _join(draw: random.Random, schema: Schema) -> tuple[str, str, str, str, str, str]:
    """(from clause, counted noun, its text column, its number, the other noun, the other's text column)."""
    if draw.random() < 0.5:
        one, many, shift = schema.parent, schema.child, 0
    else:
        one, many, shift = schema.child, schema.leaf, 2
    clause = f"from {many}s join {one}s using ({one}_id)"
    return clause, many, schema.texts[shift + 2], schema.numbers[shift // 2 + 1], one, schema.texts[shift]


def _join_count(draw: random.Random, schema: Schema) -> tuple[str, str]:
    clause, many, b, x, one, a = _join(draw, schema)
    v, w = _value(draw, a), _value(draw, b)
    if draw.random() < 0.5:
        text = _one(
            draw,
            (
                "How many {w} {b} {m}s have {o} {a} {v}?",
                "Count {m}s of {o}s in {a} {v} with {b} {w}.",
                "Number of {m}s with {b} {w} from {o}s with {a} {v}?",
            ),
            m=many,
            o=one,
            a=a,
            b=b,
            v=v,
            w=w,
        )
        return text, f"select count(*) {clause} where {a} = '{v}' and {b} = '{w}'"
    n = _number(draw, x)
    text = _one(
        draw,
        (
            "How many {w} {b} {m}s in {x} {k} have {o} {a} {v}?",
            "In {x} {k}, count {m}s with {b} {w} of {o}s with {a} {v}.",
            "Number of {x} {k} {m}s by {o}s of {a} {v} with {b} {w}?",
        ),
        m=many,
        o=one,
        a=a,
        b=b,
        x=x,
        v=v,
        w=w,
        k=n,
    )
    return text, f"select count(*) {clause} where {a} = '{v}' and {b} = '{w}' and {x} = {n}"


def _join_names(draw: random.Random, schema: Schema) -> tuple[str, str]:
    _, many, b, _, one, a = _join(draw, schema)
    v, w = _value(draw, a), _value(draw, b)
    text = _one(
        draw,
        (
            "Which {o}s with {a} {v} have {m}s with {b} {w}?",
            "Names of {o}s in {v} {a} whose {m}s have {b} {w}?",
            "List {o}s of {a} {v} with {w} {b} {m}s.",
        ),
        m=many,
        o=one,
        a=a,
        b=b,
        v=v,
        w=w,
    )
    return text, f"select distinct {one}_name from {one}s join {many}s using ({one}_id) where {a} = '{v}' and {b} = '{w}'"


def _join_sum(draw: random.Random, schema: Schema) -> tuple[str, str]:
    clause, many, b, x, one, _ = _join(draw, schema)
    v = _value(draw, "name")
    if draw.random() < 0.5:
        text = _one(
            draw, ("What is the total {x} of {m}s for {o} {v}?", "Sum of {x} of {m}s of the {o} {v}?"), m=many, o=one, x=x, v=v
        )
        return text, f"select sum({x}) {clause} where {one}_name = '{v}'"
    text = _one(
        draw,
        ("What is the total {x} of {m}s for {o} {v} per {b}?", "Split the {x} of {m}s of the {o} {v} by {b}."),
        m=many,
        o=one,
        b=b,
        x=x,
        v=v,
    )
    return text, f"select {b}, sum({x}) {clause} where {one}_name = '{v}' group by {b}"


def _join_best(draw: random.Random, schema: Schema) -> tuple[str, str]:
    _, many, _, _, one, a = _join(draw, schema)
    v, n = _value(draw, a), str(draw.randint(2, 20))
    text = _one(
        draw,
        (
            "Which {k} {o}s with {a} {v} have the most {m}s?",
            "Top {k} {o}s of {a} {v} by number of {m}s?",
            "Name the {k} {o}s in {v} {a} with most {m}s.",
        ),
        m=many,
        o=one,
        a=a,
        v=v,
        k=n,
    )
    return text, (
        f"select {one}_name from {one}s join {many}s using ({one}_id) where {a} = '{v}'"
        f" group by {one}_name order by count(*) desc, {one}_name limit {n}"
    )


def _join_having(draw: random.Random, schema: Schema) -> tuple[str, str]:
    _, many, b, _, one, a = _join(draw, schema)
    w, n = _value(draw, b), str(draw.randint(2, 99))
    text = _one(
        draw,
        ("Which {a} of {o}s has more than {k} {w} {b} {m}s?", "List each {o} {a} with over {k} {m}s of {b} {w}."),
        m=many,
        o=one,
        a=a,
        b=b,
        w=w,
        k=n,
    )
    return text, f"select {a} from {one}s join {many}s using ({one}_id) where {b} = '{w}' group by {a} having count(*) > {n}"


def _three(draw: random.Random, schema: Schema) -> tuple[str, str]:
    a, b, x = schema.texts[4], schema.texts[0], schema.numbers[1]
    v, w, n = _value(draw, a), _value(draw, b), _number(draw, schema.numbers[1])
    leaf, child, parent = schema.leaf, schema.child, schema.parent
    clause = f"from {leaf}s join {child}s using ({child}_id) join {parent}s using ({parent}_id)"
    y, kind = schema.numbers[2], draw.choice(("sum", "avg", "max", "count"))
    word = {"sum": "total", "avg": "average", "max": "highest", "count": "number of"}[kind]
    what = f"{leaf}s" if kind == "count" else f"{y} of {leaf}s"
    picked = "count(*)" if kind == "count" else f"{kind}({y})"
    text = _one(
        draw,
        (
            "What is the {word} {what} with {a} {v} for {p}s with {b} {w} in {x} {k}?",
            "In {x} {k}, {word} {what} of {a} {v} and {p} {b} {w}?",
        ),
        word=word,
        what=what,
        p=parent,
        a=a,
        b=b,
        v=v,
        w=w,
        x=x,
        k=n,
    )
    return text, f"select {picked} {clause} where {a} = '{v}' and {b} = '{w}' and {x} = {n}"


def _product(draw: random.Random, schema: Schema) -> tuple[str, str]:
    clause, many, _, x, one, a = _join(draw, schema)
    y, v = schema.numbers[0], _value(draw, a)
    text = _one(
        draw,
        ("What is the total {x} times {y} of {m}s with {o} {a} {v}?", "Sum of {x} times {y} over {m}s of {o} {a} {v}?"),
        m=many,
        o=one,
        a=a,
        x=x,
        y=y,
        v=v,
    )
    return text, f"select sum({x} * {y}) {clause} where {a} = '{v}'"


_PLAIN = (
    _count_two,
    _count_three,
    _lookup,
    _list_less,
    _count_more,
    _aggregate,
    _group,
    _top,
    _join_count,
    _join_names,
    _join_sum,
    _join_best,
    _join_having,
    _three,
    _product,
)
