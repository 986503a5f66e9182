"""Garbage where a fold keeps its state: it is refused when it is loaded, or is a state that every record can meet."""

from __future__ import annotations

import itertools
import random

import pytest

from fuzz.in_memory import FoldUnderFire, folds
from support import hostile
from support.inputs_of import inputs_of

MADE = 300


@pytest.mark.parametrize("fold", [fold for fold in folds() if fold.stage.name != "intake"], ids=lambda fold: fold.label)
def test_hostile_state_is_refused_or_stops_nothing(fold: FoldUnderFire) -> None:
    for value in inputs_of(fold.topic):
        fold.runner.run(fold.record(value))
    known = tuple(fold.runner.dumped().values())
    keys = list(fold.runner.state)
    assert known, "there is nothing to make garbage of"
    refused = 0
    chance = random.Random(1)
    for garbage in itertools.islice(hostile.mutations(known, 1), MADE):
        key = chance.choice(keys)
        assert fold.runner.fold is not None
        try:
            fold.runner.state[key] = fold.runner.fold.load(key, garbage)
        except Exception:  # whatever it is: the task is refused, with the command that makes the state anew
            refused += 1
            continue
        for value in inputs_of(fold.topic):
            fold.runner.run(fold.record(value))
    assert 0 < refused <= MADE
