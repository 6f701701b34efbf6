"""Policy "ppo": the coarse policy alone, its vector read as ranks (Table III's PPO)."""

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
from airlora.policy.utility.advisor import Advisor

__all__ = ["PPOPolicy"]


class PPOPolicy:
    """PPO over one continuous number per module; Eq. 18 makes ranks of them.

    A utility model, fitted to what was measured, says what to drop from a pattern that does not fit the deadline.

    Args:
        problem: What is decided about.
        settings: See `PPOSettings`; `latent_size` must be none, because nothing would widen the vector.
        seed: Of weights and draws.
        device: Where the networks live.

    Raises:
        PolicyError: `settings.latent_size` is set.
    """

    name: ClassVar[str] = "ppo"

    def __init__(self, problem: PolicyProblem, settings: PPOSettings, *, seed: int, device: str = "cpu") -> None:
        if settings.latent_size is not None:
            raise PolicyError.of("ppo.latent_size", settings.latent_size, "none for the policy 'ppo'; 'airllm' has one")
        self.problem = problem
        self._seed = seed
        self._advisor = Advisor.for_projection(problem, seed=seed)
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
        """Return an untrained policy with these `arguments`."""
        return cls(problem, PPOSettings(**arguments["settings"]), seed=arguments["seed"], device=device)

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that the Gaussian's mean stands for."""
        wanted = unit_to_ranks(self._coarse.mean(self.problem.spec.to_vector(observation)), self.problem.r_max)
        return self._advisor.keep_deadline(wanted, observation)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks that a draw stands for."""
        a_out, log_prob, value = self._coarse.sample(self.problem.spec.to_vector(observation))
        ranks = self._advisor.keep_deadline(unit_to_ranks(a_out, self.problem.r_max), observation)
        return Decision(ranks, a_out=a_out, log_prob=log_prob, value=value)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return "ppo" on the newest `rollout` transitions, and "utility" where deadlines are kept."""
        return [
            ("ppo", lambda: self._coarse.update(buffer.newest(rollout, self._coarse.device))),
            *self._advisor.stages(buffer, rollout),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser, utility model and generators."""
        return {"coarse": self._coarse.state_dict(), "advisor": self._advisor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._coarse.load_state_dict(state["coarse"])
        self._advisor.load_state_dict(state["advisor"])
