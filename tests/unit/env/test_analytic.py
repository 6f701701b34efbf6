import itertools

import numpy as np
import pytest

from airlora.env import AnalyticObjective
from airlora.errors import RankPatternError


def brute_force(objective: AnalyticObjective, oov_rate: float, price: float, most: int) -> float:
    counts = itertools.product(range(objective.r_max + 1), repeat=len(objective.shapes))
    return min(
        objective.loss(np.asarray(ranks), oov_rate) + price * sum(ranks) for ranks in counts if sum(ranks) <= most
    )


@pytest.mark.parametrize(("price", "most"), [(0.0, 5), (0.01, 12), (0.02, 12), (0.0, 0), (1.0, 12)])
def test_the_optimum_equals_exhaustive_search(price: float, most: int) -> None:
    objective = AnalyticObjective(num_layers=1, r_max=2, seed=3)
    ranks = objective.optimum(0.2, price, most)
    assert ranks.sum() <= most
    found = objective.loss(ranks, 0.2) + price * ranks.sum()
    assert found == pytest.approx(brute_force(objective, 0.2, price, most))


def test_gains_are_differences_of_the_loss_and_decrease() -> None:
    objective = AnalyticObjective()
    gains = objective.gains(0.3)
    zero, one = np.zeros(12, np.int64), np.eye(12, dtype=np.int64)[4]
    assert gains[4, 0] == pytest.approx(objective.loss(zero, 0.3) - objective.loss(one, 0.3))
    assert gains[4, 1] == pytest.approx(objective.loss(one, 0.3) - objective.loss(2 * one, 0.3))
    assert (np.diff(gains, axis=1) <= 0).all()
    assert (gains >= 0).all()


def test_a_higher_oov_rate_raises_every_gain() -> None:
    objective = AnalyticObjective()
    assert (objective.gains(0.5) > objective.gains(0.1)).all()


def test_measure_moves_to_the_next_text_and_a_restored_objective_continues() -> None:
    objective = AnalyticObjective()
    objective.reset(np.random.default_rng(1))
    objective.measure(np.zeros(12, np.int64))
    state = objective.state_dict()
    first = [objective.complexity(), objective.measure(np.ones(12, np.int64)), objective.complexity()]
    other = AnalyticObjective()
    other.load_state_dict(state)
    assert [other.complexity(), other.measure(np.ones(12, np.int64)), other.complexity()] == first
    assert first[0] != first[2]


def test_ranks_above_the_size_of_the_modules_are_refused() -> None:
    with pytest.raises(RankPatternError, match="r_max = 65: allowed is 1 to 64"):
        AnalyticObjective(r_max=65)
