"""Algorithm 1 of the paper: a policy acts in the environment and learns in stages from one buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airlora.env import RankAllocationEnv
from airlora.policy import Buffer, Decision, RankPolicy, Transition
from airlora.policy.base import is_learner

__all__ = ["Algorithm1", "StepRecord", "is_learner"]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Result of one step of the environment.

    Args:
        step: Number of the step, from 1.
        reward: Reward R_t of Eq. 10, without the trend of `env.reward_trend_steps`.
        info: Info dict of the environment's step.
        updates: Metrics of the learning stages by `stage/metric`. Empty if no stage ran after the step.
    """

    step: int
    reward: float
    info: Mapping[str, Any]
    updates: Mapping[str, float] = field(default_factory=dict)


class Algorithm1:
    """Loop of Algorithm 1. Any `RankPolicy` can act in it; only a `Learner` learns.

    | line of Algorithm 1 | implementation |
    |---|---|
    | 2 observe s_0 | `env.reset`, again after every T_env steps |
    | 4-11 a_out, DDIM, decode | `Learner.explore` |
    | 12-13 deploy, reward, store | `env.step`, `Buffer.add` |
    | 15-16 PPO stage | first of `Learner.stages`, every `rollout_steps` |
    | 17-21 DDIM stage | second of `Learner.stages`, same buffer, PPO fixed |

    The buffer stores as a~ the ranks after the projection onto the deadline, to which the reward belongs.

    Args:
        env: Decision problem.
        policy: Policy that acts.
        rollout_steps: Number of transitions between two learning stages.
        buffer_size: Capacity of the buffer in transitions, at least `rollout_steps`.
        seed: Seed of the environment.
    """

    def __init__(
        self, env: RankAllocationEnv, policy: RankPolicy, *, rollout_steps: int, buffer_size: int, seed: int
    ) -> None:
        self.env = env
        self.policy = policy
        self.num_steps = 0
        self._rollout_steps = rollout_steps
        self._buffer = Buffer(max(rollout_steps, buffer_size))
        self._rollout = 0
        self._vector, info = env.reset(seed=seed)
        self._observation = info["observation"]

    def step(self) -> StepRecord:
        """Take one step in the environment, and run the learning stages after every `rollout_steps` steps.

        Raises:
            TrainingError: A loss or reward is not finite.
        """
        observation, vector = self._observation, self._vector
        learner = self.policy if is_learner(self.policy) else None
        decision = learner.explore(observation) if learner else Decision(self.policy.decide(observation))
        next_vector, reward, terminated, truncated, info = self.env.step(decision.ranks)
        self.num_steps += 1
        updates: dict[str, float] = {}
        if learner:
            self._buffer.add(
                Transition(
                    observation=observation,
                    vector=vector,
                    ranks=info["ranks"],
                    reward=reward,
                    next_vector=next_vector,
                    terminated=terminated,
                    truncated=truncated,
                    loss=info["loss"],
                    a_out=decision.a_out,
                    log_prob=decision.log_prob,
                    value=decision.value,
                    x0=decision.x0,
                    chain=decision.chain,
                )
            )
            self._rollout += 1
            if self._rollout == self._rollout_steps:
                for name, run in learner.stages(self._buffer, self._rollout):
                    updates |= {f"{name}/{key}": value for key, value in run().items()}
                self._rollout = 0
        self._vector, self._observation = next_vector, info["observation"]
        if terminated or truncated:
            self._vector, start = self.env.reset()
            self._observation = start["observation"]
        return StepRecord(self.num_steps, info["plain_reward"], info, updates)

    def state_dict(self) -> dict[str, Any]:
        """Return buffer, environment and counters, without the policy."""
        return {
            "num_steps": self.num_steps,
            "rollout": self._rollout,
            "buffer": self._buffer.state_dict(),
            "env": self.env.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`. Results are bit-identical on the CPU."""
        self.num_steps, self._rollout = state["num_steps"], state["rollout"]
        self._buffer = Buffer.from_state_dict(state["buffer"])
        self.env.load_state_dict(state["env"])
        self._observation = self.env.observe()
        self._vector = self.env.observation_spec.to_vector(self._observation)
