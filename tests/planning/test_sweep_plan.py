"""What a sweep tries, from the body of a request, and when its members end."""

from __future__ import annotations

import json

import pytest

from sonolora.core.errors import InputError
from sonolora.modes import find_mode
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.sweep_plan import Member, SweepPlan, check_settings, read_sweep

T2A = find_mode("t2a")
BODY = {"training_data_url": "clips.zip", "number_of_steps": 400}


def plan_of(count, *, keep_all=False):
    return SweepPlan(tuple(Member(1e-4 * (1 + index), 8) for index in range(count)), keep_all)


def test_text_and_lists_make_every_pair():
    expected = [Member(rate, rank) for rank in (16, 32) for rate in (1e-4, 2e-4)]
    given = {"learning_rate": "1e-4, 2e-4", "rank": "16,32"}, {"learning_rate": [1e-4, 2e-4], "rank": [16, 32]}
    for axes in given:
        plan, request = read_sweep(T2A, {**BODY, **axes, "validation": [{"prompt": "rain"}]})
        assert list(plan.members) == expected
        assert (request.learning_rate, request.rank) == (1e-4, 32), "memory is counted with the highest rank"
        assert not request.validation
    assert SweepPlan.of(json.loads(json.dumps(plan.as_json()))) == plan


@pytest.mark.parametrize(
    ("axes", "field", "words"),
    [
        ({}, "learning_rate", "two members or more"),
        ({"rank": "16,16"}, "rank", "one value, given several times"),
        ({"rank": "16,"}, "rank", "not a list of values"),
        ({"rank": []}, "rank", "not a list of values"),
        ({"learning_rate": "1e-4,fast"}, "learning_rate", "number"),
        ({"learning_rate": [1e-4 + 1e-6 * index for index in range(65)]}, "learning_rate", "at most 64"),
    ],
)
def test_what_is_no_sweep_is_refused(axes, field, words):
    with pytest.raises(InputError, match=words) as error:
        read_sweep(T2A, {**BODY, **axes})
    assert error.value.items[0].loc[-1] == field


def test_the_better_half_goes_on_until_one_is_left():
    assert plan_of(8).rungs(400) == {100: 4, 200: 2, 300: 1}
    assert plan_of(6).rungs(400) == {100: 3, 200: 2, 300: 1}
    assert plan_of(2).rungs(400) == {200: 1}
    assert [plan_of(8).left_after(step, 400) for step in (0, 99, 100, 299, 300, 400)] == [8, 8, 4, 2, 1, 1]
    assert plan_of(8).member_steps(400) == 100 * (8 + 4 + 2 + 1)
    assert plan_of(8, keep_all=True).rungs(400) == {}
    assert plan_of(8, keep_all=True).member_steps(400) == 3200


def test_settings_for_one_lora_are_refused():
    check_settings(RunSettings(device="cpu", held_out=3))
    with pytest.raises(InputError, match="held_out: 0 holds out no clips"):
        check_settings(RunSettings(device="cpu", held_out=0))
    with pytest.raises(InputError, match="--batch-size"):
        check_settings(RunSettings(device="cpu", batch_size=2))
