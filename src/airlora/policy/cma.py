"""Policy "cmaes": black-box search by CMA-ES, one search per range of link budgets."""

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
from airlora.policy.specs import PolicySpec
from airlora.policy.utility.planner import UtilityPlanner

__all__ = ["CmaPolicy", "link_bin"]


def link_bin(budget_params: int) -> int:
    r"""Return the bin of a link: the logarithm of its budget in steps of half an octave.

    $$b = \mathrm{round}(2 \log_2 \max(1, B))$$

    Notation: B budget_params; b the result.

    SNR and bandwidth enter the reward through the budget alone (Eq. 7 and 8), so that links with the same budget are
    the same problem. Under fading no two budgets are equal, but few bins occur.

    Args:
        budget_params: Parameters that the link carries before its deadline, >= 0.

    Examples:
        >>> [link_bin(budget) for budget in (0, 1, 1000, 1100, 2000)]
        [0, 0, 20, 20, 22]
    """
    return round(2.0 * math.log2(max(1, budget_params)))


class CmaPolicy:
    """Separable CMA-ES over one number per module, with a search of its own for each `link_bin`.

    A search draws all vectors of a generation at once. Decisions take these vectors in turn and start again from the
    first if the next learning stage comes later. The rewards of one vector are averaged. A search therefore advances by
    at most one generation per stage, and short rollouts (`policy.rollout_steps`) use few decisions best.

    A decision decodes the mean of the search with the nearest bin. Before the first link it is `initial_rank_fraction`
    of r_max in every module. A utility model is fitted to the measured losses. It chooses the components to drop from a
    pattern that does not fit the deadline.

    Args:
        problem: Decision problem with two modules or more.
        settings: Settings of the search.
        seed: Seed of the draws. Every search has its own stream, whatever the order of the links.

    Raises:
        PolicyError: There is only one module.

    Source: Ros and Hansen 2008, "A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity". Some
    hundred decisions suffice to learn the variances, but not a full covariance.
    """

    name: ClassVar[str] = "cmaes"

    def __init__(self, problem: PolicyProblem, settings: CmaSettings, *, seed: int) -> None:
        if problem.num_modules < 2:
            raise PolicyError.of("number of modules", problem.num_modules, "2 or more for the policy 'cmaes'")
        self.problem = problem
        self.settings = settings
        self._seed = seed
        self._start = float(ranks_to_unit(settings.initial_rank_fraction * problem.r_max, problem.r_max))
        self._advisor = UtilityPlanner.for_projection(problem, seed=seed)
        self._searches: dict[int, _Search] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings and seed."""
        return {"settings": self.settings.model_dump(), "seed": self._seed}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these settings before its first link."""
        return cls(problem, CmaSettings(**arguments["settings"]), seed=arguments["seed"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks of the mean of the nearest bin. Of two bins at equal distance the smaller budget counts."""
        mean = np.full(self.problem.num_modules, self._start)
        if self._searches:
            wanted = link_bin(observation.budget_params)
            mean = self._searches[min(self._searches, key=lambda known: (abs(known - wanted), known))].mean
        return self._advisor.keep_deadline(unit_to_ranks(mean, self.problem.r_max), observation)

    def explore(self, observation: Observation) -> Decision:
        """Return the next vector of the generation of the link's search, as `x0`, and its ranks."""
        key = link_bin(observation.budget_params)
        if key not in self._searches:
            self._searches[key] = self._new_search(key)
        vector = self._searches[key].take()
        ranks = self._advisor.keep_deadline(unit_to_ranks(vector, self.problem.r_max), observation)
        return Decision(ranks, x0=vector)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the stage "cmaes" on the newest `rollout` rewards, and "utility" where deadlines are kept."""
        return [("cmaes", lambda: self._learn(buffer, rollout)), *self._advisor.stages(buffer, rollout)]

    def state_dict(self) -> dict[str, Any]:
        """Return the rewards of every search, which determine its draws, and the state of the utility model."""
        return {
            "runs": {key: search.state_dict() for key, search in self._searches.items()},
            "advisor": self._advisor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict` by replaying every search.

        Raises:
            PolicyError: A replayed search has another mean than the saved one: the library cmaes has changed.
        """
        searches = {}
        for key, saved in state["runs"].items():
            searches[key] = self._new_search(key)
            searches[key].replay(saved)
        self._searches = searches
        self._advisor.load_state_dict(state["advisor"])

    def _new_search(self, key: int) -> _Search:
        seed = int(np.random.SeedSequence([self._seed, key]).generate_state(1)[0])
        return _Search(np.full(self.problem.num_modules, self._start), self.settings, seed)

    def _learn(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        for row in buffer.newest_rows(rollout):
            search = self._searches.get(link_bin(row.observation.budget_params))
            if search is None or row.x0 is None or not search.credit(row.x0, row.reward):
                raise PolicyError("the rollout holds a decision that 'cmaes' did not make since its last stage")
        advanced = sum(search.advance() for search in self._searches.values())
        return {
            "num_links": float(len(self._searches)),
            "num_generations": float(sum(search.num_generations for search in self._searches.values())),
            "num_advanced": float(advanced),
        }


class _Search:
    """One CMA-ES search: it draws a generation, hands out its vectors and collects their rewards.

    The library's object cannot be saved without pickle. A search therefore keeps all rewards: replaying them through
    the library's public methods brings a new object to the same state.
    """

    _vectors: FloatArray
    _sums: npt.NDArray[np.float64]
    _counts: IntArray
    _next: int

    def __init__(self, mean: npt.NDArray[np.float64], settings: CmaSettings, seed: int) -> None:
        # Draws outside the range of ranks are clipped and not resampled: in many dimensions almost all are outside.
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
        """Mean of the distribution, in unit coordinates, float [num_modules]."""
        mean: npt.NDArray[np.float64] = self._search.mean
        return mean.copy()

    @property
    def num_generations(self) -> int:
        """Number of complete generations."""
        return len(self._told)

    def take(self) -> FloatArray:
        """Return the next vector of this generation, float32 [num_modules]."""
        vector: FloatArray = self._vectors[self._next].copy()
        self._next = (self._next + 1) % len(self._vectors)
        return vector

    def credit(self, vector: FloatArray, reward: float) -> bool:
        """Add a reward of a vector; return whether the vector belongs to this generation."""
        same = (self._vectors == vector).all(axis=1)
        self._sums[same] += reward
        self._counts[same] += 1
        return bool(same.any())

    def advance(self) -> bool:
        """Start the next generation if every vector has a reward; return whether it did."""
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
        # The buffer keeps single precision, and rewards must be reported for the vectors that were tried.
        self._vectors = np.stack([self._search.ask() for _ in range(self._search.population_size)]).astype(np.float32)
        self._sums = np.zeros(len(self._vectors))
        self._counts = np.zeros(len(self._vectors), dtype=np.int64)
        self._next = 0


SPECS = (
    PolicySpec(
        "cmaes",
        CmaPolicy,
        "black-box search by CMA-ES, one per range of budgets",
        sections={"settings": CmaSettings},
        overrides={"policy.rollout_steps": 16},
        benchmarks=("synthetic",),
        order=60,
        colour="#117733",
    ),
)
