"""The shop that questions are about: a DuckDB database of five tables, all of it from a seed. Knows no question and no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from headrace_demo.shop import words

PRODUCTS_PER_CATEGORY = 7
CUSTOMERS, ORDERS, ITEMS, SHIPMENTS = 300, 2500, 5000, 2000
_COLUMNS = {
    "customers": ("customer_id int", "customer_name text", "city text", "segment text"),
    "products": ("product_id int", "product_name text", "category text", "price int"),
    "orders": ("order_id int", "customer_id int", "status text", "channel text", "year int"),
    "items": ("item_id int", "order_id int", "product_id int", "quantity int"),
    "shipments": ("shipment_id int", "order_id int", "carrier text", "days int"),
}


@dataclass(frozen=True, slots=True)
class Shop:
    """Which words a seed's shop uses; the rest of its contents follows from the same seed."""

    seed: int
    cities: tuple[str, ...]
    people: tuple[str, ...]
    products: tuple[str, ...]


def shop_of(seed: int) -> Shop:
    """24 cities, 48 first names and 56 products, drawn by the seed."""
    draw = random.Random(f"shop:{seed}")
    return Shop(
        seed,
        tuple(draw.sample(words.CITIES, 24)),
        tuple(draw.sample(words.PEOPLE, 48)),
        tuple(word for group in words.PRODUCTS_OF.values() for word in draw.sample(group, PRODUCTS_PER_CATEGORY)),
    )


def rows_of(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table, in the order of its columns."""
    draw = random.Random(f"rows:{shop.seed}")
    prices = draw.sample(range(6, 120), len(shop.products))  # all different: "the most expensive" has one answer
    return {
        "customers": [
            (number, draw.choice(shop.people), draw.choice(shop.cities), draw.choice(words.SEGMENTS))
            for number in range(1, CUSTOMERS + 1)
        ],
        "products": [
            (number, name, words.CATEGORIES[(number - 1) // PRODUCTS_PER_CATEGORY], price)
            for number, (name, price) in enumerate(zip(shop.products, prices, strict=True), 1)
        ],
        "orders": [
            (
                number,
                draw.randint(1, CUSTOMERS),
                draw.choices(words.STATUSES, (3, 4, 5, 2, 1))[0],
                draw.choices(words.CHANNELS, (5, 4, 2, 3))[0],
                draw.choices(words.YEARS, (2, 3, 4, 5))[0],
            )
            for number in range(1, ORDERS + 1)
        ],
        "items": [
            (number, draw.randint(1, ORDERS), draw.randint(1, len(shop.products)), draw.randint(1, 9))
            for number in range(1, ITEMS + 1)
        ],
        "shipments": [
            (number, draw.randint(1, ORDERS), draw.choice(words.CARRIERS), draw.randint(1, 15))
            for number in range(1, SHIPMENTS + 1)
        ],
    }


def create(path: Path, seed: int) -> Path:
    """Builds the seed's database at `path` (replacing what is there only when it is complete) and returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with duckdb.connect(unfinished) as connection:
        fill(connection, rows_of(shop_of(seed)))
    unfinished.replace(path)
    return path


def fill(connection: duckdb.DuckDBPyConnection, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """Makes the five tables and puts `rows` into them."""
    for table, columns in _COLUMNS.items():
        connection.execute(f"create table {table} ({', '.join(columns)})")
        arrays: list[Sequence[Any]] = [list(column) for column in zip(*rows[table], strict=True)]
        connection.execute(f"insert into {table} select {', '.join(['unnest(?)'] * len(arrays))}", arrays)


def open_shop(path: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection that can reach nothing outside the database; one thread: the cores are for the models."""
    return duckdb.connect(
        path,
        read_only=True,
        config={"threads": 1, "memory_limit": "256MB", "enable_external_access": False, "lock_configuration": True},
    )
