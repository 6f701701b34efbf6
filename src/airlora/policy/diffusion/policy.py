from __future__ import annotations

import torch

from airlora.policy.base import Decision
from airlora.policy.diffusion.advantage import contextual_advantage
from airlora.policy.diffusion.fine import FinePolicy
from airlora.policy.diffusion.losses import DiffusionBatch
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks

COUNT = 1


class DiffusionPolicy:
    name = "ddim"

    def __init__(self, problem, settings, *, seed, warmup_updates=200, frac=0.25, std=0.3, device="cpu"):
        self.problem = problem
        self._fine = FinePolicy(problem.num_modules, problem.spec.size, settings=settings, seed=seed, device=device)
        mean = float(ranks_to_unit(frac * problem.r_max, problem.r_max))

        def draw(g):
            n = 256
            x0 = (mean + std * torch.randn(n, problem.num_modules, generator=g)).clamp(-1, 1)
            cond = torch.rand(n, problem.spec.size, generator=g) * 2 - 1
            return x0, cond

        self._fine.warm_up(draw, warmup_updates)

    def _cond(self, o):
        return torch.from_numpy(self.problem.spec.to_vector(o))[None]

    def decide(self, o):
        return unit_to_ranks(self._fine.mean_sample(self._cond(o), COUNT).numpy(), self.problem.r_max)

    def explore(self, o):
        x0 = self._fine.explore(self._cond(o)).numpy()
        return Decision(unit_to_ranks(x0, self.problem.r_max), x0=x0)

    def stages(self, buffer, rollout):
        def run():
            b = buffer.newest()
            adv = contextual_advantage(b.vectors, b.rewards)
            x0 = torch.from_numpy(ranks_to_unit(b.ranks.numpy(), self.problem.r_max))
            return self._fine.update(DiffusionBatch(x0, b.vectors, b.rewards, adv))

        return [("diffusion", run)]
