"""Policy "airllm": PPO proposes, diffusion refines (IV, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Batch, Buffer
from airlora.policy.coarse import CoarsePolicy
from airlora.policy.diffusion.fine import FinePolicy
from airlora.policy.diffusion.learning import loss_context
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.seeding import child_seeds
from airlora.policy.settings import AllocateSettings, DiffusionSettings, PPOSettings
from airlora.policy.utility.advisor import Advisor

__all__ = ["HierarchicalPolicy"]

CONDITIONS = ("a_out", "a_out_and_state")


class HierarchicalPolicy:
    r"""The paper's policy.

    $$a^{out} \sim \pi_\theta(\cdot | s), \qquad x_0 \sim f_\psi(\cdot | a^{out}), \qquad
      \tilde a = \mathrm{clip}(\lfloor x_0 \rfloor, 0, r_{max})$$

    | stage | credit | fixed |
    |---|---|---|
    | "ppo" | ln pi(a_out | s) and the reward of a~: the diffusion is part of the environment | psi |
    | "diffusion" | x_0 = a~ as executed, its condition a_out, its reward | theta |

    Two choices the paper leaves open.  The diffusion starts as the identity, x_0 = a_out, and rehearses it in every
    stage: PPO can steer from the first step and goes on being followed where it has not been yet.  Without that the
    diffusion learns its own samples by heart, whatever the condition, and PPO loses its grip, the sooner the more
    modules there are.  a_out is clipped to [-1, 1] before it conditions, since beyond lie no ranks.

    Args:
        problem: What is decided about.
        ppo: See `PPOSettings`.  With `latent_size`, a_out is stretched over the modules to start from: neighbouring
            modules share an entry at first, and the diffusion learns to tell them apart.
        diffusion: See `DiffusionSettings`; its `condition` is `a_out` (Eq. 15) or `a_out_and_state`.
        seed: Of everything random in it.
        allocate: Of the utility model that says what to drop from a pattern that does not fit the deadline.
        device: Where the networks live.

    Raises:
        PolicyError: The condition leaves a_out out, or a part that the settings name does not exist.
    """

    name: ClassVar[str] = "airllm"

    def __init__(
        self,
        problem: PolicyProblem,
        ppo: PPOSettings,
        diffusion: DiffusionSettings,
        *,
        seed: int,
        allocate: AllocateSettings | None = None,
        device: str = "cpu",
    ) -> None:
        if diffusion.condition not in CONDITIONS:
            allowed = f"{' or '.join(CONDITIONS)} for the policy 'airllm'; 'ddim' is conditioned on the state"
            raise PolicyError.of("diffusion.condition", diffusion.condition, allowed)
        self.problem = problem
        self._seed = seed
        self._sees_state = diffusion.condition == "a_out_and_state"
        coarse_size = ppo.latent_size or problem.num_modules
        coarse_seed, fine_seed, advisor_seed = child_seeds(seed, 3)
        self._coarse = CoarsePolicy(
            problem.spec.size,
            coarse_size,
            initial_mean=float(ranks_to_unit(ppo.initial_rank_fraction * problem.r_max, problem.r_max)),
            settings=ppo,
            seed=coarse_seed,
            device=device,
        )
        self._fine = FinePolicy(
            problem.num_modules,
            coarse_size + problem.spec.size * self._sees_state,
            self._draw_start,
            settings=diffusion,
            seed=fine_seed,
            device=device,
        )
        self._allocate = allocate or AllocateSettings()
        self._advisor = (
            Advisor(problem, self._allocate, seed=advisor_seed)
            if self._fine.loss.uses_utility
            else Advisor.for_projection(problem, seed=advisor_seed)
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings and seed."""
        return {
            "ppo": self._coarse.settings.model_dump(),
            "diffusion": self._fine.settings.model_dump(),
            "seed": self._seed,
            "allocate": self._allocate.model_dump(),
        }

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:
        """Return an untrained policy with these `arguments`."""
        return cls(
            problem,
            PPOSettings(**arguments["ppo"]),
            DiffusionSettings(**arguments["diffusion"]),
            seed=arguments["seed"],
            device=device,
            allocate=AllocateSettings(**arguments["allocate"]),
        )

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks of the mean sample, given the mean of a_out."""
        x0 = self._fine.decide(self._encode([observation])[0]).numpy()
        wanted = unit_to_ranks(x0, self.problem.r_max)
        return self._advisor.keep_deadline(wanted, observation, fill=self._fine.settings.fill)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks of one noisy sample, given a draw of a_out."""
        vector = self.problem.spec.to_vector(observation)
        a_out, log_prob, value = self._coarse.sample(vector)
        condition = self._condition(torch.from_numpy(vector), torch.from_numpy(a_out))
        x0, chain = self._fine.explore(condition)
        ranks = self._advisor.keep_deadline(unit_to_ranks(x0.numpy(), self.problem.r_max), observation)
        return Decision(ranks, a_out, log_prob, value, x0.numpy(), None if chain is None else chain.numpy())

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return "ppo" on the newest `rollout` transitions, "utility", and "diffusion" on the newest `buffer_size`."""
        return [
            ("ppo", lambda: self._coarse.update(buffer.newest(rollout, self._coarse.device))),
            *self._advisor.stages(buffer, rollout, always=self._fine.loss.uses_utility),
            ("diffusion", lambda: self._refine(buffer, rollout)),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimisers and generators of both, and the utility model."""
        return {
            "coarse": self._coarse.state_dict(),
            "fine": self._fine.state_dict(),
            "advisor": self._advisor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._coarse.load_state_dict(state["coarse"])
        self._fine.load_state_dict(state["fine"])
        self._advisor.load_state_dict(state["advisor"])

    def _condition(self, vector: Tensor, a_out: Tensor) -> Tensor:
        """Return what the diffusion is told, [..., C]."""
        clipped = a_out.clamp(-1.0, 1.0)
        return torch.cat([clipped, vector], dim=-1) if self._sees_state else clipped

    def _encode(self, observations: Sequence[Observation]) -> Tensor:
        """Return what the diffusion is told with the mean of a_out, float [N, C]."""
        vectors = [self.problem.spec.to_vector(observation) for observation in observations]
        a_outs = [torch.from_numpy(self._coarse.mean(vector)) for vector in vectors]
        return self._condition(torch.from_numpy(np.stack(vectors)), torch.stack(a_outs))

    def _refine(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        context = loss_context(
            buffer,
            rollout,
            buffer_size=self._fine.settings.buffer_size,
            advisor=self._advisor,
            conditions=self._conditions_of,
            encode=self._encode,
            values=self._coarse.value,
            device=self._fine.device,
        )
        return self._fine.update(context, rehearse=True)

    def _conditions_of(self, batch: Batch, observations: Sequence[Observation]) -> Tensor:  # noqa: ARG002
        if batch.a_outs is None:
            raise PolicyError("the buffer has no a_out: it was not filled by the policy 'airllm'")
        return self._condition(batch.vectors, batch.a_outs)

    def _draw_start(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # A little wider than [-1, 1], so that the clipped ends are met as often as PPO will meet them.
        a_out = (2.4 * torch.rand(count, self._coarse.action_size, generator=generator) - 1.2).clamp(-1.0, 1.0)
        states = 2.0 * torch.rand(count, self.problem.spec.size, generator=generator) - 1.0
        return _stretch(a_out, self.problem.num_modules), self._condition(states, a_out)


def _stretch(a_out: Tensor, num_modules: int) -> Tensor:
    """Return a_out, [N, latent_size], interpolated to [N, num_modules]; itself if it has that length."""
    if a_out.shape[-1] == num_modules:
        return a_out
    stretched = torch.nn.functional.interpolate(a_out[:, None], size=num_modules, mode="linear", align_corners=True)
    return stretched[:, 0]
