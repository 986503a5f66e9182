"""Graders of every bad kind. Each is well-behaved for the output "good"."""

import ctypes
import os
import time
from typing import Any


def same(prompt: Any, output: str, example: dict[str, Any], loud: bool = False) -> float:
    if loud:
        print("grading", output)
    return 100.0 if output == example["content"]["target"] else 0.0


def says_sum(prompt: Any, output: str, example: dict[str, Any]) -> float:
    """Knows what is right without being told, as tests do; refuses an example that tells it."""
    assert not example["content"]["target"] or example["train"], "a prompt that was drawn shows an answer"
    return 100.0 if output.startswith("the sum is") else 0.0


def always(prompt: Any, output: str, example: dict[str, Any], grade: float = 100.0) -> float:
    return grade


def loops(prompt: Any, output: str, example: Any) -> float:
    while output != "good":
        pass
    return 50.0


def sleeps_in_c(prompt: Any, output: str, example: Any) -> float:
    if output != "good":
        time.sleep(3600)
    return 50.0


def eats(prompt: Any, output: str, example: Any) -> float:
    if output != "good":
        held = []
        while True:
            held.append(bytearray(20_000_000))
    return 50.0


def crashes(prompt: Any, output: str, example: Any) -> float:
    if output != "good":
        ctypes.string_at(0)
    return 50.0


def leaves(prompt: Any, output: str, example: Any) -> float:
    if output != "good":
        os._exit(3)
    return 50.0


def raises(prompt: Any, output: str, example: Any) -> float:
    if output != "good":
        raise ValueError("no such table")
    return 50.0


def lies(prompt: Any, output: str, example: Any) -> float:
    return 50.0 if output == "good" else 120.0


def is_nan(prompt: Any, output: str, example: Any) -> float:
    return 50.0 if output == "good" else float("nan")
