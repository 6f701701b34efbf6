import math

import pytest

from airlora.env import allocation_cost, deadline_penalty, reward
from airlora.errors import TrainingError


def test_eq_9_and_eq_10_by_hand() -> None:
    assert allocation_cost(loss=0.7, cost=0.3, cost_weight=0.1) == pytest.approx(0.73)
    assert reward(loss=0.7, cost=0.3, cost_weight=0.1) == pytest.approx(-0.73)


def test_with_weight_zero_the_reward_is_the_negative_loss() -> None:
    assert reward(0.7, 123.0, 0.0) == -0.7


def test_the_penalty_begins_at_the_deadline() -> None:
    assert deadline_penalty(1.0, 5.0) == 0.0
    assert deadline_penalty(1.2, 5.0) == pytest.approx(1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(TrainingError, match="loss = .*: allowed is a finite number"):
        reward(value, 0.0, 0.1)
    with pytest.raises(TrainingError, match="cost = .*: allowed is a finite number"):
        reward(0.0, value, 0.1)
