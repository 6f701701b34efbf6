"""What a rank policy is: a function from observation to ranks, whatever made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from airlora.errors import PolicyError
from airlora.observation import FloatArray, IntArray, Observation, ObservationSpec
from airlora.policy.buffer import Buffer

__all__ = ["Decision", "Learner", "PolicyProblem", "RankPolicy", "Stage"]

Stage = tuple[str, Callable[[], dict[str, float]]]
"""A stage of learning: its name, and the call that runs it and returns its metrics."""


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """What is decided about: the modules, what a rank of each costs, and the state's scaling.

    Args:
        module_names: The adapted modules, in order; no name twice.
        params_per_rank: Numbers in one component of each module, d_in + d_out + 1, >= 1.
        spec: How an observation becomes a vector; it knows the number of modules and r_max.
        cost_weight: lambda of Eq. 9 and 10, >= 0.
        keeps_deadline: Whether patterns beyond the link's budget are cut before they are used.

    Raises:
        PolicyError: The lengths differ, a name comes twice, or a number is out of range.
    """

    module_names: tuple[str, ...]
    params_per_rank: tuple[int, ...]
    spec: ObservationSpec
    cost_weight: float = 0.0
    keeps_deadline: bool = False

    def __post_init__(self) -> None:
        if len(self.module_names) != self.spec.num_modules:
            raise PolicyError.of("number of module_names", len(self.module_names), f"{self.spec.num_modules}")
        if len(set(self.module_names)) != len(self.module_names):
            raise PolicyError.of("module_names", self.module_names, "every name once")
        if len(self.params_per_rank) != len(self.module_names):
            raise PolicyError.of("number of params_per_rank", len(self.params_per_rank), f"{len(self.module_names)}")
        if min(self.params_per_rank) < 1:
            raise PolicyError.of("params_per_rank", min(self.params_per_rank), "whole numbers, 1 or more")
        if not 0.0 <= self.cost_weight < float("inf"):
            raise PolicyError.of("cost_weight", self.cost_weight, "a number, 0 or more")

    @property
    def num_modules(self) -> int:
        """Number of adapted modules, 6L in the paper."""
        return self.spec.num_modules

    @property
    def r_max(self) -> int:
        """Largest rank."""
        return self.spec.r_max

    def num_params(self, ranks: IntArray) -> int:
        """Return how many numbers these ranks send: sum of r_m (d_in + d_out + 1)."""
        return int(np.dot(ranks, self.params_per_rank))

    def verify_same(self, other: PolicyProblem) -> None:
        """Raise `PolicyError` unless a policy made for this problem can be used for `other`.

        The modules, what a rank costs and r_max must agree.  The price `cost_weight`, the state's scaling and whether
        the deadline is kept may differ: a policy keeps those that it was made with.
        """
        if self.module_names != other.module_names:
            differing = sorted(set(self.module_names) ^ set(other.module_names))
            example = f", such as {differing[0]!r}" if differing else ", in another order"
            counts = f"{self.num_modules} modules against {other.num_modules}"
            raise PolicyError(f"the policy was made for another model: {counts}{example}")
        if self.params_per_rank != other.params_per_rank:
            raise PolicyError("the policy was made for another model: same module names, other shapes")
        if self.r_max != other.r_max:
            raise PolicyError(
                f"the policy was made for r_max = {self.r_max}: it cannot decide for r_max = {other.r_max}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as plain values for JSON."""
        return {
            "module_names": list(self.module_names),
            "params_per_rank": list(self.params_per_rank),
            "spec": self.spec.to_dict(),
            "cost_weight": self.cost_weight,
            "keeps_deadline": self.keeps_deadline,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PolicyProblem:
        """Return the problem written by `to_dict`."""
        return cls(
            module_names=tuple(value["module_names"]),
            params_per_rank=tuple(value["params_per_rank"]),
            spec=ObservationSpec.from_dict(value["spec"]),
            cost_weight=value["cost_weight"],
            keeps_deadline=value["keeps_deadline"],
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a learner decided while exploring, and what it must remember to learn from it.

    Args:
        ranks: a~, int64 [num_modules], each 0 to r_max.
        a_out: The coarse vector of PPO in unit coordinates, float32 [num_modules or latent_size]; none without PPO.
        log_prob: ln pi(a_out | s); none without PPO.
        value: V(s); none without a critic.
        x0: The diffusion sample that Eq. 18 made the ranks of, float32 [num_modules]; none without diffusion.
        chain: The whole way to it, float32 [K + 1, num_modules]; only for losses that need it.
    """

    ranks: IntArray
    a_out: FloatArray | None = None
    log_prob: float | None = None
    value: float | None = None
    x0: FloatArray | None = None
    chain: FloatArray | None = None


class RankPolicy(Protocol):
    """Anything that decides ranks.

    A class behind it is made of a `PolicyProblem` and its `arguments`, plain values that a file can hold, and is
    brought to where it was by `load_state_dict`.  A decision is a function of the observation and of the policy's own
    state (which for some policies includes a generator); nothing global takes part.
    """

    name: ClassVar[str]

    @property
    def problem(self) -> PolicyProblem:
        """What it decides about."""
        ...

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values that `from_arguments` makes the same class from."""
        ...

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> RankPolicy:
        """Return a policy with these `arguments`, in its initial state."""
        ...

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks, int64 [num_modules], each 0 to r_max."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what it has learnt and where its generators stand, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; bit-equal on the CPU."""
        ...


class Learner(RankPolicy, Protocol):
    """A policy that learns in stages from a buffer (Algorithm 1)."""

    def explore(self, observation: Observation) -> Decision:
        """Return a decision drawn from the policy, with what is needed to learn from it."""
        ...

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the stages to run now, in order.

        Args:
            buffer: Everything remembered, oldest first.
            rollout: How many of the newest transitions came since the last stages; they were drawn from the policy as
                it is now.

        Raises:
            TrainingError: When a stage is run and its loss is not finite.
        """
        ...
