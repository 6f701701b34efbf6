from __future__ import annotations

import torch

from airlora.policy.base import Decision
from airlora.policy.coarse import CoarsePolicy
from airlora.policy.diffusion.advantage import contextual_advantage
from airlora.policy.diffusion.fine import FinePolicy
from airlora.policy.diffusion.losses import DiffusionBatch
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks

COUNT = 8
USE_V = True
ANCHOR = 0


class HierarchicalPolicy:
    name = "airllm"

    def __init__(self, problem, ppo, diffusion, *, seed, warmup_updates=500, device="cpu"):
        self.problem = problem
        M = problem.num_modules
        self._coarse = CoarsePolicy(
            problem.spec.size,
            M,
            initial_mean=float(ranks_to_unit(ppo.initial_rank_fraction * problem.r_max, problem.r_max)),
            settings=ppo,
            seed=seed,
            device=device,
        )
        self.cond = diffusion.condition
        C = {"a_out": M, "state": problem.spec.size, "a_out_and_state": M + problem.spec.size}[self.cond]
        self._fine = FinePolicy(M, C, settings=diffusion, seed=seed + 1, device=device)

        def draw(g, n=256):
            a = (torch.rand(n, M, generator=g) * 2 - 1) * 1.2
            s = torch.rand(n, problem.spec.size, generator=g) * 2 - 1
            return a.clamp(-1, 1), self._cond(s, a)

        self._draw = draw
        self._fine.warm_up(draw, warmup_updates)

    def _cond(self, s, a):
        a = a.clamp(-1, 1)
        if self.cond == "a_out":
            return a
        if self.cond == "state":
            return s
        return torch.cat([a, s], -1)

    def decide(self, o):
        v = self.problem.spec.to_vector(o)
        a = self._coarse.mean(v)
        return unit_to_ranks(
            self._fine.mean_sample(self._cond(torch.from_numpy(v)[None], torch.from_numpy(a)[None]), COUNT).numpy(),
            self.problem.r_max,
        )

    def explore(self, o):
        v = self.problem.spec.to_vector(o)
        a, lp, val = self._coarse.sample(v)
        x0 = self._fine.explore(self._cond(torch.from_numpy(v)[None], torch.from_numpy(a)[None])).numpy()
        return Decision(unit_to_ranks(x0, self.problem.r_max), a, lp, val, x0)

    def stages(self, buffer, rollout):
        def run():
            b = buffer.newest()
            adv = contextual_advantage(b.vectors, b.rewards, self._coarse.value(b.vectors) if USE_V else None)
            x0 = torch.from_numpy(ranks_to_unit(b.ranks.numpy(), self.problem.r_max))
            return self._fine.update(
                DiffusionBatch(x0, self._cond(b.vectors, b.a_outs), b.rewards, adv), self._draw if ANCHOR else None
            )

        return [("ppo", lambda: self._coarse.update(buffer.newest(rollout))), ("diffusion", run)]
