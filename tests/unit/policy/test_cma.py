from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from airlora.errors import PolicyError, SettingsError
from airlora.observation import IntArray, Observation, ObservationSpec
from airlora.policy import Buffer, CmaPolicy, CmaSettings, Decision, PolicyProblem, Transition, link_bin

R_MAX = 7
TARGETS = {200: np.asarray([1, 0, 2, 0, 1, 0]), 3000: np.asarray([6, 2, 7, 1, 4, 5])}
PROBLEM = PolicyProblem(tuple("abcdef"), (10, 10, 10, 10, 30, 30), ObservationSpec(num_modules=6, r_max=R_MAX))


def observe(budget: int, snr_db: float = 5.0) -> Observation:
    return Observation(snr_db, 1e6, 2.0, 0.2, np.zeros(6, np.int64), budget)


def reward(budget: int, ranks: IntArray) -> float:
    """Separable and of known best: 0 at the target, -1 where every rank is r_max away from it."""
    return -float(np.square((ranks - TARGETS[budget]) / R_MAX).mean())


def transition(budget: int, decision: Decision) -> Transition:
    observation = observe(budget)
    vector = PROBLEM.spec.to_vector(observation)
    value = reward(budget, decision.ranks)
    return Transition(observation, vector, decision.ranks, value, vector, False, False, -value, x0=decision.x0)


def learn(policy: CmaPolicy, steps: int, rollout: int, budgets: tuple[int, ...] = tuple(TARGETS)) -> list[IntArray]:
    """Let it explore the budgets in turn, with a stage after every rollout; return what it tried."""
    buffer, tried = Buffer(10_000), []
    for step in range(1, steps + 1):
        budget = budgets[step % len(budgets)]
        decision = policy.explore(observe(budget))
        tried.append(decision.ranks)
        buffer.add(transition(budget, decision))
        if step % rollout == 0:
            for _, stage in policy.stages(buffer, rollout):
                stage()
    return tried


def make(seed: int = 0, **settings: Any) -> CmaPolicy:
    return CmaPolicy(PROBLEM, CmaSettings(**settings), seed=seed)


def test_finds_the_best_ranks_of_every_link() -> None:
    policy = make()
    before = [reward(budget, policy.decide(observe(budget))) for budget in TARGETS]
    learn(policy, 1200, rollout=18)
    after = [reward(budget, policy.decide(observe(budget))) for budget in TARGETS]
    # One rank off in every module is -1/49.
    assert all(value < -2 / 49 for value in before)
    assert all(value > -0.5 / 49 for value in after)
    # Two links with other optima are two searches.
    assert (policy.decide(observe(200)) != policy.decide(observe(3000))).any()


def test_before_any_link_ranks_are_a_quarter_of_the_largest() -> None:
    assert make().decide(observe(100)).tolist() == [2] * 6
    assert make(initial_rank_fraction=1.0).decide(observe(100)).tolist() == [R_MAX] * 6


def test_an_unknown_link_is_decided_as_the_nearest_known() -> None:
    policy = make()
    learn(policy, 300, rollout=18)
    few, many = policy.decide(observe(200)), policy.decide(observe(3000))
    assert (few != many).any()
    for budget, expected in ((0, few), (300, few), (2000, many), (10**9, many)):
        np.testing.assert_array_equal(policy.decide(observe(budget)), expected)


def test_links_of_one_budget_are_one_and_bins_are_half_an_octave() -> None:
    assert link_bin(0) == link_bin(1) == 0
    assert [link_bin(2**k) for k in range(5)] == [0, 2, 4, 6, 8]
    edge = 2**0.25
    assert link_bin(int(1024 * edge) - 1) == 20
    assert link_bin(int(1024 * edge) + 2) == 21
    policy = make()
    one, other = policy.explore(observe(200, snr_db=-5.0)), policy.explore(observe(205, snr_db=15.0))
    assert one.x0 is not None
    assert other.x0 is not None
    assert (one.x0 != other.x0).any()
    assert len(policy.state_dict()["runs"]) == 1


def test_a_links_search_does_not_depend_on_the_other_links() -> None:
    alone, beside = make(), make()
    learn(alone, 100, rollout=10, budgets=(200,))
    learn(beside, 200, rollout=20, budgets=(200, 3000))
    np.testing.assert_array_equal(alone.decide(observe(200)), beside.decide(observe(200)))


def test_ranks_are_those_of_the_vector_and_within_range() -> None:
    policy = make(initial_std=2.0)
    for _ in range(20):
        decision = policy.explore(observe(200))
        assert decision.x0 is not None
        assert decision.x0.dtype == np.float32
        assert np.abs(decision.x0).max() <= 1.0
        assert ((decision.ranks >= 0) & (decision.ranks <= R_MAX)).all()


def test_a_generation_is_handed_out_in_turn_and_again() -> None:
    policy = make(population_size=3)
    vectors = [policy.explore(observe(200)).x0 for _ in range(6)]
    for first, again in zip(vectors[:3], vectors[3:], strict=True):
        np.testing.assert_array_equal(first, again)
    assert len({vector.tobytes() for vector in vectors if vector is not None}) == 3


def stage(policy: CmaPolicy, rows: list[Transition]) -> dict[str, float]:
    buffer = Buffer(100)
    for row in rows:
        buffer.add(row)
    ((name, run),) = policy.stages(buffer, len(rows))
    assert name == "cmaes"
    return run()


def test_nothing_is_told_before_the_generation_is_complete() -> None:
    policy = make(population_size=4)
    asked = [policy.explore(observe(200)) for _ in range(4)]
    start = policy.state_dict()["runs"][link_bin(200)]["mean"]
    metrics = stage(policy, [transition(200, decision) for decision in asked[:3]])
    assert metrics == {"num_links": 1.0, "num_generations": 0.0, "num_advanced": 0.0}
    torch.testing.assert_close(policy.state_dict()["runs"][link_bin(200)]["mean"], start, rtol=0, atol=0)
    metrics = stage(policy, [transition(200, asked[3])])
    assert metrics == {"num_links": 1.0, "num_generations": 1.0, "num_advanced": 1.0}
    assert (policy.state_dict()["runs"][link_bin(200)]["mean"] != start).any()


def test_repeated_vectors_count_by_their_mean_reward() -> None:
    once, twice = make(population_size=4), make(population_size=4)
    rows = [transition(200, once.explore(observe(200))) for _ in range(4)]
    stage(once, rows)
    more = [transition(200, twice.explore(observe(200))) for _ in range(8)]
    stage(twice, more)
    np.testing.assert_array_equal(once.explore(observe(200)).x0, twice.explore(observe(200)).x0)


@pytest.mark.parametrize("steps", [0, 5, 54, 63, 120])
def test_a_resumed_search_is_that_which_was_never_left(steps: int, tmp_path: Any) -> None:
    whole = make(seed=3)
    learn(whole, steps, rollout=6)
    torch.save(whole.state_dict(), tmp_path / "state")
    resumed = CmaPolicy.from_arguments(PROBLEM, whole.arguments)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    # The rollout that was under way is lost to both alike.
    for one, other in zip(learn(whole, 60, rollout=12), learn(resumed, 60, rollout=12), strict=True):
        np.testing.assert_array_equal(one, other)
    for key, run in whole.state_dict()["runs"].items():
        for name, value in resumed.state_dict()["runs"][key].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(run[name])), name


def test_another_seed_is_another_search() -> None:
    one, other = (make(seed=seed).explore(observe(200)).x0 for seed in (0, 1))
    assert (one != other).any()


def test_refuses_a_state_that_the_library_does_not_come_to() -> None:
    policy = make()
    learn(policy, 60, rollout=6)
    state = policy.state_dict()
    state["runs"][link_bin(200)]["mean"] += 0.01
    with pytest.raises(PolicyError, match="another version of the library cmaes"):
        make().load_state_dict(state)


def test_refuses_decisions_of_others() -> None:
    policy = make()
    row = transition(200, policy.explore(observe(200)))
    stage(policy, [row])
    stranger = Decision(row.ranks, x0=np.full(6, 0.123, np.float32))
    for rows in (
        [transition(200, stranger)],
        [transition(3000, Decision(row.ranks, x0=row.x0))],
        [transition(200, Decision(row.ranks))],
    ):
        with pytest.raises(PolicyError, match="a decision that 'cmaes' did not make"):
            stage(policy, rows)


def test_refuses_a_single_module() -> None:
    problem = PolicyProblem(("a",), (10,), ObservationSpec(num_modules=1, r_max=4))
    with pytest.raises(PolicyError, match="number of modules = 1: allowed is 2 or more"):
        CmaPolicy(problem, CmaSettings(), seed=0)


@pytest.mark.parametrize(
    ("key", "value"), [("population_size", 1), ("initial_std", 0.0), ("initial_rank_fraction", 1.5)]
)
def test_refuses_settings_out_of_range(key: str, value: float) -> None:
    from airlora.training import load_settings

    with pytest.raises(SettingsError, match=f"cma.{key} = {value}"):
        load_settings(overrides={f"cma.{key}": value})


def test_the_population_grows_with_the_modules() -> None:
    # 4 + 3 ln 6 = 9.4
    policy = make()
    policy.explore(observe(200))
    assert len(policy.state_dict()["runs"][link_bin(200)]["sums"]) == 9


def test_works_with_the_fixture_that_all_learners_share(
    problem: PolicyProblem, explored: Callable[..., Buffer]
) -> None:
    policy = CmaPolicy(problem, CmaSettings(), seed=0)
    for _ in range(40):
        for _, run in policy.stages(explored(policy, 16), 16):
            run()
    # The fixture rewards rank sums.
    assert policy.decide(observe(100)).sum() >= 14
