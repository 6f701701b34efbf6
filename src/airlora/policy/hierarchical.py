"""Policy "airllm": PPO proposes, diffusion refines (IV, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from airlora.config import DiffusionSettings, PPOSettings
from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.coarse import CoarsePolicy
from airlora.policy.diffusion.advantage import contextual_advantage
from airlora.policy.diffusion.fine import WARMUP_UPDATES, FinePolicy
from airlora.policy.diffusion.losses import DiffusionBatch
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.seeding import child_seeds

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
        device: Where the networks live.
        warmup_updates: See `FinePolicy`.

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
        device: str = "cpu",
        warmup_updates: int = WARMUP_UPDATES,
    ) -> None:
        if diffusion.condition not in CONDITIONS:
            allowed = f"{' or '.join(CONDITIONS)} for the policy 'airllm'; 'ddim' is conditioned on the state"
            raise PolicyError.of("diffusion.condition", diffusion.condition, allowed)
        self.problem = problem
        self._seed = seed
        self._sees_state = diffusion.condition == "a_out_and_state"
        coarse_size = ppo.latent_size or problem.num_modules
        coarse_seed, fine_seed = child_seeds(seed, 2)
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
            warmup_updates=warmup_updates,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings, seed and length of the warm-up."""
        return {
            "ppo": self._coarse.settings.model_dump(),
            "diffusion": self._fine.settings.model_dump(),
            "seed": self._seed,
            "warmup_updates": self._fine.warmup_updates,
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
            warmup_updates=arguments["warmup_updates"],
        )

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks of the mean sample, given the mean of a_out."""
        vector = self.problem.spec.to_vector(observation)
        condition = self._condition(torch.from_numpy(vector), torch.from_numpy(self._coarse.mean(vector)))
        return unit_to_ranks(self._fine.decide(condition).numpy(), self.problem.r_max)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks of one noisy sample, given a draw of a_out."""
        vector = self.problem.spec.to_vector(observation)
        a_out, log_prob, value = self._coarse.sample(vector)
        condition = self._condition(torch.from_numpy(vector), torch.from_numpy(a_out))
        x0 = self._fine.explore(condition).numpy()
        return Decision(unit_to_ranks(x0, self.problem.r_max), a_out, log_prob, value, x0)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return "ppo" on the newest `rollout` transitions, then "diffusion" on the newest `buffer_size`."""
        return [
            ("ppo", lambda: self._coarse.update(buffer.newest(rollout, self._coarse.device))),
            ("diffusion", lambda: self._refine(buffer, rollout)),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimisers and generators of both."""
        return {"coarse": self._coarse.state_dict(), "fine": self._fine.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._coarse.load_state_dict(state["coarse"])
        self._fine.load_state_dict(state["fine"])

    def _condition(self, vector: Tensor, a_out: Tensor) -> Tensor:
        """Return what the diffusion is told, [..., C]."""
        clipped = a_out.clamp(-1.0, 1.0)
        return torch.cat([clipped, vector], dim=-1) if self._sees_state else clipped

    def _refine(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        count = min(len(buffer), max(rollout, self._fine.settings.buffer_size))
        batch = buffer.newest(count, self._fine.device)
        if batch.a_outs is None:
            raise PolicyError("the buffer has no a_out: it was not filled by the policy 'airllm'")
        executed = torch.from_numpy(ranks_to_unit(batch.ranks.cpu().numpy(), self.problem.r_max))
        values = self._coarse.value(batch.vectors)
        return self._fine.update(
            DiffusionBatch(
                x0=executed.to(self._fine.device),
                condition=self._condition(batch.vectors, batch.a_outs),
                reward=batch.rewards,
                advantage=contextual_advantage(batch.vectors, batch.rewards, values),
            ),
            rehearse=True,
        )

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
