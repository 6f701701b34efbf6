"""Policy "ppo": the coarse policy alone, whose vector is decoded into ranks (PPO in Table III)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.coarse import CoarsePolicy
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.settings import PPOSettings
from airlora.policy.specs import PolicySpec
from airlora.policy.utility.planner import UtilityPlanner

__all__ = ["PPOPolicy"]


class PPOPolicy:
    """PPO over one continuous number per module. Eq. 18 decodes these numbers into ranks.

    A utility model is fitted to the measured losses. It chooses the components to drop from a pattern that does not fit
    the deadline.

    Args:
        problem: Decision problem of the policy.
        settings: Settings of PPO. `latent_size` must be None, because nothing widens the vector.
        seed: Seed of weights and draws.
        device: PyTorch device of the networks.

    Raises:
        PolicyError: `settings.latent_size` is set.
    """

    name: ClassVar[str] = "ppo"

    def __init__(self, problem: PolicyProblem, settings: PPOSettings, *, seed: int, device: str = "cpu") -> None:
        if settings.latent_size is not None:
            raise PolicyError.of("ppo.latent_size", settings.latent_size, "none for the policy 'ppo'; 'airllm' has one")
        self.problem = problem
        self._seed = seed
        self._advisor = UtilityPlanner.for_projection(problem, seed=seed)
        self._coarse = CoarsePolicy(
            problem.spec.size,
            problem.num_modules,
            initial_mean=float(ranks_to_unit(settings.initial_rank_fraction * problem.r_max, problem.r_max)),
            settings=settings,
            seed=seed,
            device=device,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings and seed."""
        return {"settings": self._coarse.settings.model_dump(), "seed": self._seed}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:
        """Return an untrained policy with these settings and this seed."""
        return cls(problem, PPOSettings(**arguments["settings"]), seed=arguments["seed"], device=device)

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that the mean of the Gaussian decodes into."""
        wanted = unit_to_ranks(self._coarse.mean(self.problem.spec.to_vector(observation)), self.problem.r_max)
        return self._advisor.keep_deadline(wanted, observation)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks that a draw from the Gaussian decodes into."""
        a_out, log_prob, value = self._coarse.sample(self.problem.spec.to_vector(observation))
        ranks = self._advisor.keep_deadline(unit_to_ranks(a_out, self.problem.r_max), observation)
        return Decision(ranks, a_out=a_out, log_prob=log_prob, value=value)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the stage "ppo" on the newest `rollout` transitions, and "utility" where deadlines are kept."""
        return [
            ("ppo", lambda: self._coarse.update(buffer.newest(rollout, self._coarse.device))),
            *self._advisor.stages(buffer, rollout),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of networks, optimiser, utility model and generators."""
        return {"coarse": self._coarse.state_dict(), "advisor": self._advisor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`."""
        self._coarse.load_state_dict(state["coarse"])
        self._advisor.load_state_dict(state["advisor"])


SPECS = (
    PolicySpec(
        "ppo", PPOPolicy, "PPO alone", sections={"settings": PPOSettings}, order=40, colour="#E69F00", marker="P"
    ),
)
