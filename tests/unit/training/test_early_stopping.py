import pytest

from airlora.training import EarlyStopping


@pytest.mark.parametrize(("cost_weight", "threshold"), [(0.01, -0.5), (0.1, -0.5), (1.0, -1.0), (2.0, -2.0)])
def test_the_reward_threshold_is_that_of_the_paper(cost_weight: float, threshold: float) -> None:
    assert EarlyStopping(cost_weight).reward_threshold == threshold


def test_it_stops_at_the_fifth_evaluation_without_a_higher_score() -> None:
    stopping = EarlyStopping(cost_weight=0.1)
    assert [stopping.update(-0.4, score) for score in (0.8, 0.7, 0.8, 0.8, 0.8, 0.8)] == [False] * 5 + [True]


def test_a_higher_score_starts_the_count_again() -> None:
    stopping = EarlyStopping(cost_weight=0.1, patience=2)
    assert [stopping.update(-0.4, score) for score in (0.8, 0.8, 0.9, 0.9, 0.9)] == [False] * 4 + [True]


def test_a_reward_below_the_threshold_never_stops() -> None:
    stopping = EarlyStopping(cost_weight=0.1, patience=1)
    assert not any(stopping.update(-0.5, 0.5) for _ in range(9))
    assert stopping.update(-0.49, 0.5)


def test_it_resumes_from_its_state() -> None:
    one = EarlyStopping(cost_weight=0.1, patience=2)
    one.update(-0.1, 0.5)
    one.update(-0.1, 0.5)
    other = EarlyStopping(cost_weight=0.1, patience=2)
    other.load_state_dict(one.state_dict())
    assert other.update(-0.1, 0.5)
