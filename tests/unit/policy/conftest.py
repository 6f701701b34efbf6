"""A small decision problem for the tests of policies."""

from collections.abc import Callable

import numpy as np
import pytest

from airlora.observation import Observation, ObservationSpec
from airlora.policy import Buffer, Learner, PolicyProblem, Transition

COSTS = (10, 10, 30, 30)


@pytest.fixture
def problem() -> PolicyProblem:
    return PolicyProblem(("a", "b", "c", "d"), COSTS, ObservationSpec(num_modules=4, r_max=4), cost_weight=0.1)


@pytest.fixture
def observe() -> Callable[..., Observation]:
    def make(snr_db: float = 5.0, rank: int = 1, budget_params: int = 100) -> Observation:
        return Observation(snr_db, 1e6, 2.0, 0.2, np.full(4, rank, np.int64), budget_params)

    return make


@pytest.fixture
def explored(observe: Callable[..., Observation]) -> Callable[[Learner, int], Buffer]:
    """Let a learner explore and return the buffer. The reward is the sum of ranks."""

    def run(learner: Learner, count: int) -> Buffer:
        buffer, spec = Buffer(1000), learner.problem.spec
        for step in range(count):
            observation = observe(snr_db=float(5 * (step % 3)))
            vector = spec.to_vector(observation)
            decision = learner.explore(observation)
            reward = float(decision.ranks.sum()) / 16
            buffer.add(
                Transition(
                    observation=observation,
                    vector=vector,
                    ranks=decision.ranks,
                    reward=reward,
                    next_vector=vector,
                    terminated=False,
                    truncated=step % 8 == 7,
                    loss=-reward,
                    a_out=decision.a_out,
                    log_prob=decision.log_prob,
                    value=decision.value,
                    x0=decision.x0,
                    chain=decision.chain,
                )
            )
        return buffer

    return run
