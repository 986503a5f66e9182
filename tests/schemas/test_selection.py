"""A manifest and a run's pins say which members are learnt from, watched and tested on; withdrawn ones are in no list."""

from msgspec.structs import replace

from headrace_schemas.selection import dataset_members, run_members, training_members, validation_members, without_withdrawn
from support import training_data


def test_a_negative_the_test_split_and_a_weight_of_zero_are_not_learnt_from() -> None:
    members = [
        training_data.recorded(1).member,
        training_data.recorded(2, role="negative").member,
        training_data.recorded(3, "validation").member,
        training_data.recorded(4, "test").member,
        training_data.recorded(5, weight=0.0).member,
    ]
    assert training_members(members) == members[:1]
    assert validation_members(members) == members[2:3]


def test_a_run_uses_nothing_that_was_withdrawn_since_the_cut() -> None:
    members = [training_data.recorded(number).member for number in range(3)]
    tests = [training_data.recorded(7, "test").member]
    batch = training_data.batch(members, tests)
    used = without_withdrawn(batch, [members[1].example_id, tests[0].example_id])
    assert (used.members, used.test_pool, used.batch_id) == ([members[0], members[2]], [], batch.batch_id)
    assert without_withdrawn(batch, None) == batch


def test_a_data_set_of_a_run_is_what_it_learnt_from_and_watched_in_the_order_of_its_manifest() -> None:
    watched = training_data.recorded(1, "validation").member
    learnt = [training_data.recorded(number).member for number in (0, 2, 3)]
    weightless = training_data.recorded(4, weight=0.0).member
    tests = [training_data.recorded(5, "test").member, training_data.recorded(6, "test").member]
    earlier = training_data.recorded(9).member
    prompts = [training_data.drawn(number).member for number in (7, 8)]
    batch = replace(training_data.batch([learnt[0], watched, *learnt[1:], weightless], tests), prompts=prompts)
    gone = [learnt[2].example_id, tests[1].example_id, prompts[0].example_id]
    start = training_data.start(batch, rehearsal=[earlier], withdrawn=gone)
    used = run_members(batch, start)
    assert used == (learnt[:2], [earlier], [watched], tests[:1], prompts[1:])
    assert used.all() == [*learnt[:2], earlier, watched, tests[0], prompts[1]]
    assert dataset_members(batch, start) == [learnt[0], watched, learnt[1], earlier]


def test_rows_of_the_validation_pool_are_watched_beside_members_of_that_side() -> None:
    member, *pool = [training_data.recorded(number, "validation").member for number in range(3)]
    learnt = training_data.recorded(5).member
    batch = replace(training_data.batch([member, learnt]), validation_pool=pool)
    start = training_data.start(batch, withdrawn=[pool[1].example_id])
    assert run_members(batch, start).validation == [member, pool[0]]
    assert dataset_members(batch, start) == [member, learnt, pool[0]]
    assert without_withdrawn(batch, None) == batch


def test_a_run_that_avoids_learns_from_negatives_that_weigh_something_and_its_data_set_is_these() -> None:
    good = training_data.recorded(0).member
    bad, weightless = (
        training_data.recorded(number, role="negative", weight=weight).member for number, weight in ((1, 0.7), (2, 0.0))
    )
    seen = training_data.recorded(3, "validation", role="negative").member
    tested = training_data.recorded(4, "test", role="negative").member
    earlier = training_data.recorded(9, role="negative").member
    batch = training_data.batch([good, bad, weightless, seen, tested])
    start = training_data.start(batch, rehearsal=[earlier], avoids=True)
    used = run_members(batch, start)
    assert (used.training, used.rehearsal, used.validation) == ([good, bad], [earlier], [seen])
    assert dataset_members(batch, start) == [good, bad, seen, earlier]
    without = training_data.start(batch)
    assert dataset_members(batch, without) == run_members(batch, without).training == [good]
