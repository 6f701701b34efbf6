from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from airlora.env import EnvSettings, RankAllocationEnv
from airlora.observation import IntArray, Observation
from airlora.policy import Buffer, ConstantPolicy, Decision
from airlora.training import Algorithm1, is_learner, problem_of


class Recorder:
    """A learner that always chooses full rank and records the arguments of its stages."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, float]] = []

    def decide(self, observation: Observation) -> IntArray:
        return np.full(12, 8, dtype=np.int64)

    def explore(self, observation: Observation) -> Decision:
        return Decision(self.decide(observation), a_out=np.zeros(12, np.float32), log_prob=-1.0, value=0.5)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[tuple[str, Callable[[], dict[str, float]]]]:
        def stage(name: str) -> dict[str, float]:
            self.calls.append((name, len(buffer), rollout, buffer[len(buffer) - 1].reward))
            return {"loss": float(len(self.calls))}

        return [("ppo", lambda: stage("ppo")), ("diffusion", lambda: stage("diffusion"))]


def run(policy: Any, **arguments: Any) -> Algorithm1:
    env = RankAllocationEnv(env=EnvSettings(episode_steps=3))
    return Algorithm1(env, policy, **({"rollout_steps": 4, "buffer_size": 6, "seed": 1} | arguments))


def test_stages_alternate_in_order_on_one_bounded_buffer() -> None:
    policy = Recorder()
    algorithm = run(policy)
    records = [algorithm.step() for _ in range(8)]
    assert [call[:3] for call in policy.calls] == [
        ("ppo", 4, 4),
        ("diffusion", 4, 4),
        ("ppo", 6, 4),
        ("diffusion", 6, 4),
    ]
    assert [bool(record.updates) for record in records] == [False, False, False, True] * 2
    assert records[3].updates == {"ppo/loss": 1.0, "diffusion/loss": 2.0}


def test_the_buffer_stores_the_projected_ranks() -> None:
    algorithm = run(Recorder(), rollout_steps=100, buffer_size=100)
    records = [algorithm.step() for _ in range(5)]
    for index, record in enumerate(records):
        row = algorithm._buffer[index]
        np.testing.assert_array_equal(row.ranks, record.info["ranks"])
        assert row.reward == record.reward
        assert row.loss == record.info["loss"]
        assert record.info["cost"] <= 1.0
    # The wanted 96 components do not fit at every SNR: what counts is the projection.
    assert any((row.ranks < 8).any() for row in (algorithm._buffer[i] for i in range(5)))


def test_the_last_transition_of_an_episode_has_the_episodes_own_next_state() -> None:
    algorithm = run(Recorder(), rollout_steps=100, buffer_size=100)
    for _ in range(4):
        algorithm.step()
    rows = [algorithm._buffer[i] for i in range(4)]
    assert [row.truncated for row in rows] == [False, False, True, False]
    np.testing.assert_array_equal(rows[0].next_vector, rows[1].vector)
    assert not np.array_equal(rows[2].next_vector, rows[3].vector)
    np.testing.assert_allclose(rows[3].vector[4:], -0.75)


def test_a_policy_that_does_not_learn_only_acts() -> None:
    env = RankAllocationEnv()
    policy = ConstantPolicy(problem_of(env), rank=1)
    assert not is_learner(policy)
    assert is_learner(Recorder())  # type: ignore[arg-type]
    record = run(policy).step()
    assert record.updates == {}
    np.testing.assert_array_equal(record.info["ranks"], np.ones(12))


def test_a_loop_resumes_in_the_middle_of_a_rollout_and_of_an_episode() -> None:
    one = run(Recorder())
    for _ in range(5):
        one.step()
    other = run(Recorder(), seed=99)
    other.load_state_dict(one.state_dict())
    for _ in range(6):
        first, second = one.step(), other.step()
        assert first.reward == second.reward
        assert first.step == second.step
        assert bool(first.updates) == bool(second.updates)
        np.testing.assert_array_equal(first.info["ranks"], second.info["ranks"])


@pytest.mark.parametrize("steps", [1, 7])
def test_steps_are_counted(steps: int) -> None:
    algorithm = run(Recorder())
    assert [algorithm.step().step for _ in range(steps)] == list(range(1, steps + 1))


def test_the_learner_sees_rewards_without_the_trend_and_reports_show_those_of_eq_10() -> None:
    env = RankAllocationEnv(env=EnvSettings(reward_trend_steps=2))
    algorithm = Algorithm1(env, Recorder(), rollout_steps=100, buffer_size=100, seed=1)
    records = [algorithm.step() for _ in range(4)]
    for index, record in enumerate(records):
        assert record.reward == record.info["plain_reward"]
        assert record.reward == pytest.approx(-record.info["loss"] - 0.1 * record.info["cost"])
        assert algorithm._buffer[index].reward > record.reward
