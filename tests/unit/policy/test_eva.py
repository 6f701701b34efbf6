import numpy as np
import pytest

from airlora.errors import PolicyError
from airlora.observation import Observation, ObservationSpec
from airlora.policy import EvaPolicy, GreedyPolicy, PolicyProblem

PROBLEM = PolicyProblem(("a", "b", "c"), (10, 10, 40), ObservationSpec(num_modules=3, r_max=3))
RATIO = np.asarray([[0.50, 0.20, 0.10], [0.40, 0.35, 0.0], [0.60, 0.30, 0.05]])


def observe(budget: int) -> Observation:
    return Observation(5.0, 1e6, 2.0, 0.2, np.zeros(3, np.int64), budget)


@pytest.mark.parametrize(
    ("budget", "ranks"),
    [
        (0, [0, 0, 0]),
        (9, [0, 0, 0]),
        # c is best but does not fit; a, b and b follow, as many as fit.
        (35, [1, 2, 0]),
        (40, [0, 0, 1]),
        (50, [1, 0, 1]),
        # .60 c, .50 a, .40 b, .35 b, .30 c
        (70, [1, 2, 1]),
        (110, [1, 2, 2]),
        # What explains nothing is not sent.
        (10_000, [3, 2, 3]),
    ],
)
def test_components_are_taken_by_explained_variance_whatever_their_size(budget: int, ranks: list[int]) -> None:
    assert EvaPolicy(PROBLEM, RATIO).decide(observe(budget)).tolist() == ranks


def test_greedy_divides_by_the_size_of_components_and_eva_does_not() -> None:
    assert GreedyPolicy(PROBLEM, RATIO).decide(observe(40)).tolist() == [2, 2, 0]
    assert EvaPolicy(PROBLEM, RATIO).decide(observe(40)).tolist() == [0, 0, 1]


def test_a_policy_is_restored_from_its_arguments() -> None:
    policy = EvaPolicy(PROBLEM, RATIO)
    again = EvaPolicy.from_arguments(PROBLEM, policy.arguments)
    again.load_state_dict(policy.state_dict())
    for budget in range(0, 200, 10):
        np.testing.assert_array_equal(again.decide(observe(budget)), policy.decide(observe(budget)))


@pytest.mark.parametrize("ratio", [np.ones((3, 2)), -np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_invalid_ratios_are_refused(ratio: np.ndarray) -> None:
    with pytest.raises(PolicyError, match="importance"):
        EvaPolicy(PROBLEM, ratio)
