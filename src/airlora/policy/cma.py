"""Policy "cmaes": a search that knows nothing of the loss but its values, one for each kind of link."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from cmaes import SepCMA

from airlora.errors import PolicyError
from airlora.observation import FloatArray, IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.settings import CmaSettings
from airlora.policy.utility.advisor import Advisor

__all__ = ["CmaPolicy", "link_bin"]


def link_bin(budget_params: int) -> int:
    r"""Return which links count as one: the budget's logarithm in steps of half an octave.

    $$b = \mathrm{round}(2 \log_2 \max(1, B))$$

    SNR and bandwidth enter the reward through the budget alone (Eq. 7 and 8), so that two links of one budget are one
    problem; and where SNRs fade, no two links are ever equal, but few bins are met.

    Notation: B budget_params; b the result.

    Args:
        budget_params: Numbers that the link carries before its deadline, >= 0.

    Examples:
        >>> [link_bin(budget) for budget in (0, 1, 1000, 1100, 2000)]
        [0, 0, 20, 20, 22]
    """
    return round(2.0 * math.log2(max(1, budget_params)))


class CmaPolicy:
    """Separable CMA-ES over one number per module, a run of its own for each `link_bin`.

    A run's generation is drawn at once and its vectors are handed out in turn, again from the first if there are more
    decisions than vectors before the next stage: rewards of one vector are averaged, and every vector is judged under
    the distribution that it was drawn from.  So a run advances by one generation per stage at most; short rollouts
    (`policy.rollout_steps`) make the most of few decisions.

    Decisions are the mean of the run whose bin is nearest; before any link was seen, `initial_rank_fraction` of r_max
    in every module.  A utility model, fitted to what was measured, says what to drop from a pattern that does not fit
    the deadline.

    Args:
        problem: What is decided about; two modules or more.
        settings: See `CmaSettings`.
        seed: Of the draws; every run has its own stream, whatever order the links come in.

    Raises:
        PolicyError: There is only one module.

    Source: Ros and Hansen 2008, "A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity"; the
    variances alone are learnt from some hundred decisions, a whole covariance is not.
    """

    name: ClassVar[str] = "cmaes"

    def __init__(self, problem: PolicyProblem, settings: CmaSettings, *, seed: int) -> None:
        if problem.num_modules < 2:
            raise PolicyError.of("number of modules", problem.num_modules, "2 or more for the policy 'cmaes'")
        self.problem = problem
        self.settings = settings
        self._seed = seed
        self._start = float(ranks_to_unit(settings.initial_rank_fraction * problem.r_max, problem.r_max))
        self._advisor = Advisor.for_projection(problem, seed=seed)
        self._runs: dict[int, _Run] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings and seed."""
        return {"settings": self.settings.model_dump(), "seed": self._seed}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`, no link seen yet."""
        return cls(problem, CmaSettings(**arguments["settings"]), seed=arguments["seed"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks of the mean found for the nearest bin; of two as near, the one of the smaller budget."""
        mean = np.full(self.problem.num_modules, self._start)
        if self._runs:
            wanted = link_bin(observation.budget_params)
            mean = self._runs[min(self._runs, key=lambda known: (abs(known - wanted), known))].mean
        return self._advisor.keep_deadline(unit_to_ranks(mean, self.problem.r_max), observation)

    def explore(self, observation: Observation) -> Decision:
        """Return the next vector of the link's generation, as `x0`, and its ranks."""
        key = link_bin(observation.budget_params)
        if key not in self._runs:
            self._runs[key] = self._new_run(key)
        vector = self._runs[key].take()
        ranks = self._advisor.keep_deadline(unit_to_ranks(vector, self.problem.r_max), observation)
        return Decision(ranks, x0=vector)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return "cmaes", which credits the newest `rollout` rewards, and "utility" where deadlines are kept."""
        return [("cmaes", lambda: self._learn(buffer, rollout)), *self._advisor.stages(buffer, rollout)]

    def state_dict(self) -> dict[str, Any]:
        """Return every run's rewards, from which follows what it drew, and the utility model."""
        return {
            "runs": {key: run.state_dict() for key, run in self._runs.items()},
            "advisor": self._advisor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, by living through it again.

        Raises:
            PolicyError: The search that is installed comes to another mean than the one that was saved.
        """
        runs = {}
        for key, saved in state["runs"].items():
            runs[key] = self._new_run(key)
            runs[key].replay(saved)
        self._runs = runs
        self._advisor.load_state_dict(state["advisor"])

    def _new_run(self, key: int) -> _Run:
        seed = int(np.random.SeedSequence([self._seed, key]).generate_state(1)[0])
        return _Run(np.full(self.problem.num_modules, self._start), self.settings, seed)

    def _learn(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        for row in buffer.newest_rows(rollout):
            run = self._runs.get(link_bin(row.observation.budget_params))
            if run is None or row.x0 is None or not run.credit(row.x0, row.reward):
                raise PolicyError("the rollout holds a decision that 'cmaes' did not make since its last stage")
        advanced = sum(run.advance() for run in self._runs.values())
        return {
            "num_links": float(len(self._runs)),
            "num_generations": float(sum(run.num_generations for run in self._runs.values())),
            "num_advanced": float(advanced),
        }


class _Run:
    """One CMA-ES: a generation drawn, handed out and judged, then the next.

    The library's object cannot be saved without pickle, so a run keeps the rewards that it was told: drawing and
    telling them again brings an equal object to the same place, by the library's public methods alone.
    """

    _vectors: FloatArray
    _sums: npt.NDArray[np.float64]
    _counts: IntArray
    _next: int

    def __init__(self, mean: npt.NDArray[np.float64], settings: CmaSettings, seed: int) -> None:
        # A draw outside the ranks' range is clipped, not drawn again: in many dimensions hardly any would be inside.
        self._search = SepCMA(
            mean=mean,
            sigma=settings.initial_std,
            bounds=np.tile([-1.0, 1.0], (len(mean), 1)),
            n_max_resampling=0,
            seed=seed,
            population_size=settings.population_size,
        )
        self._told: list[npt.NDArray[np.float64]] = []
        self._draw()

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Where the search stands, in unit coordinates."""
        mean: npt.NDArray[np.float64] = self._search.mean
        return mean.copy()

    @property
    def num_generations(self) -> int:
        """Complete ones."""
        return len(self._told)

    def take(self) -> FloatArray:
        """Return the next vector of this generation, float32 [num_modules]."""
        vector: FloatArray = self._vectors[self._next].copy()
        self._next = (self._next + 1) % len(self._vectors)
        return vector

    def credit(self, vector: FloatArray, reward: float) -> bool:
        """Count a reward for that vector; return whether it is one of this generation."""
        same = (self._vectors == vector).all(axis=1)
        self._sums[same] += reward
        self._counts[same] += 1
        return bool(same.any())

    def advance(self) -> bool:
        """Go on to the next generation if every vector has a reward; return whether it did."""
        if not self._counts.all():
            return False
        self._tell(self._sums / self._counts)
        return True

    def state_dict(self) -> dict[str, Any]:
        told = np.asarray(self._told, dtype=np.float64).reshape(len(self._told), len(self._vectors))
        return {
            "told": torch.from_numpy(told.copy()),
            "sums": torch.from_numpy(self._sums.copy()),
            "counts": torch.from_numpy(self._counts.copy()),
            "next": self._next,
            "mean": torch.from_numpy(self.mean),
        }

    def replay(self, state: Mapping[str, Any]) -> None:
        for rewards in state["told"].numpy():
            self._tell(rewards)
        if not np.allclose(self.mean, state["mean"].numpy(), atol=1e-6):
            raise PolicyError("the policy 'cmaes' was saved with another version of the library cmaes: learn it again")
        self._sums, self._counts = state["sums"].numpy().copy(), state["counts"].numpy().copy()
        self._next = state["next"]

    def _tell(self, rewards: npt.NDArray[np.float64]) -> None:
        solutions = zip(self._vectors.astype(np.float64), (-rewards).tolist(), strict=True)
        self._search.tell(list(solutions))
        self._told.append(rewards.copy())
        self._draw()

    def _draw(self) -> None:
        # Single precision is what the buffer keeps: what is told must be what was tried.
        self._vectors = np.stack([self._search.ask() for _ in range(self._search.population_size)]).astype(np.float32)
        self._sums = np.zeros(len(self._vectors))
        self._counts = np.zeros(len(self._vectors), dtype=np.int64)
        self._next = 0
