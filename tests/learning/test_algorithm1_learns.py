"""Algorithm 1 end to end: hierarchy and planner learn in an environment whose optimum is known.

Regret is 0 at the optimum of Eq. 9 for each link, 1 at the best constant rank for each link.
"""

import numpy as np

from airlora.channel import ChannelSettings, Link
from airlora.env import AnalyticObjective, EnvSettings, RankAllocationEnv
from airlora.policy import DiffusionSettings, RankPolicy, make_policy
from airlora.text import TextComplexity
from airlora.training import Algorithm1, problem_of

CHANNEL = ChannelSettings(snr_db=[-5.0, 5.0, 15.0], bandwidth_hz=[4e4], deadline_mode="price")
COST_WEIGHT = 0.3
OOV_RATE = 0.25


def make_env() -> RankAllocationEnv:
    return RankAllocationEnv(
        AnalyticObjective(num_layers=1, r_max=4, seed=4),
        channel=CHANNEL,
        env=EnvSettings(cost_weight=COST_WEIGHT, episode_steps=8),
    )


def regret(policy: RankPolicy, env: RankAllocationEnv) -> float:
    """Return the regret of the policy's mean objective over the three links."""
    objective = env.objective
    assert isinstance(objective, AnalyticObjective)
    own, best, constant = 0.0, 0.0, 0.0
    for snr_db in CHANNEL.snr_db:
        link = Link(snr_db, 4e4)
        price = COST_WEIGHT * 129 * 32 / link.capacity_bps(CHANNEL)

        def value(ranks: np.ndarray, price: float = price) -> float:
            return objective.loss(ranks, OOV_RATE) + price * float(ranks.sum())

        own += value(policy.decide(env.observe_link(link, TextComplexity(2.5, OOV_RATE))))
        best += value(objective.optimum(OOV_RATE, price, 24))
        constant += min(value(np.full(6, rank)) for rank in range(5))
    return (own - best) / (constant - best)


def learn(name: str, steps: int, seed: int = 0) -> tuple[float, float]:
    """Return the regret before and after `steps` decisions."""
    env = make_env()
    policy = make_policy(
        name,
        problem_of(env),
        DiffusionSettings(num_train_timesteps=200, num_inference_steps=10),
        seed=seed,
    )
    before = regret(policy, env)
    loop = Algorithm1(env, policy, rollout_steps=64, buffer_size=4096, seed=seed)
    for _ in range(steps):
        loop.step()
    return before, regret(policy, env)


def test_the_hierarchy_learns_from_the_environment() -> None:
    before, after = learn("airllm", 1536)
    assert after < 0.65 * before


def test_the_planner_is_nearly_optimal() -> None:
    assert learn("allocate", 512)[1] < 0.1
