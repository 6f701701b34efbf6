"""The protocols of rank policies, and the decision problem that they are made for.

| protocol | members | needed for |
|---|---|---|
| `RankPolicy` | `decide` | every use of a policy |
| `Learner` | `explore`, `stages` | learning by Algorithm 1 |
| `SavablePolicy` | `problem`, `arguments`, `from_arguments`, `state_dict`, `load_state_dict` | `policy.pt` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeGuard, cast

import numpy as np

from airlora.errors import PolicyError
from airlora.observation import FloatArray, IntArray, Observation, ObservationSpec
from airlora.policy.buffer import Buffer

__all__ = [
    "Decision",
    "Learner",
    "PolicyProblem",
    "RankPolicy",
    "SavablePolicy",
    "SavedByArguments",
    "Stage",
    "is_learner",
    "is_savable",
    "missing_for_saving",
    "policy_name",
]

Stage = tuple[str, Callable[[], dict[str, float]]]
"""A stage of learning: its name, and a function that runs it and returns its metrics."""


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """The decision problem: adapted modules, the size of their components, and the scaling of the state.

    Args:
        module_names: Names of the adapted modules, in order and distinct.
        params_per_rank: Parameters in one component of each module, d_in + d_out + 1, >= 1.
        spec: Mapping from an observation to a vector. It also holds the number of modules and r_max.
        cost_weight: lambda of Eq. 9 and 10, >= 0.
        keeps_deadline: Whether the environment reduces rank patterns that exceed the link's budget before it uses them.

    Raises:
        PolicyError: The lengths differ, a name is repeated, or a number is out of range.
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
        """Largest rank of a module."""
        return self.spec.r_max

    def num_params(self, ranks: IntArray) -> int:
        """Return the number of parameters that these ranks send: the sum of r_m (d_in + d_out + 1)."""
        return int(np.dot(ranks, self.params_per_rank))

    def verify_same(self, other: PolicyProblem) -> None:
        """Raise `PolicyError` unless a policy made for this problem can decide for `other`.

        Module names, `params_per_rank` and r_max must agree. `cost_weight`, the scaling of the state and
        `keeps_deadline` may differ: the policy keeps the values that it was made with.
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
    """The ranks that a learner explores, and the quantities that its learning stages need later.

    Args:
        ranks: a~, int64 [num_modules], each 0 to r_max.
        a_out: Coarse vector of PPO in unit coordinates, float32 [num_modules or latent_size]. None without PPO.
        log_prob: ln pi(a_out | s), nats. None without PPO.
        value: V(s). None without a critic.
        x0: Diffusion sample before Eq. 18, float32 [num_modules]. None without diffusion.
        chain: All K + 1 samples of the denoising chain, float32 [K + 1, num_modules]. None unless the loss needs them.
    """

    ranks: IntArray
    a_out: FloatArray | None = None
    log_prob: float | None = None
    value: float | None = None
    x0: FloatArray | None = None
    chain: FloatArray | None = None


class RankPolicy(Protocol):
    """A function from observation to ranks.

    A decision depends on the observation and on the policy's own state. Some policies own a random generator; no
    policy draws from a global one.
    """

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks, int64 [num_modules], each 0 to r_max."""
        ...


class Learner(RankPolicy, Protocol):
    """A policy that learns in stages from a buffer (Algorithm 1)."""

    def explore(self, observation: Observation) -> Decision:
        """Return ranks to try, and the quantities that the learning stages need later."""
        ...

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the learning stages to run now, in order.

        Args:
            buffer: All remembered transitions, oldest first.
            rollout: Number of transitions since the last stages. The present policy drew exactly these.

        Raises:
            TrainingError: The loss of a stage is not finite. Raised when the stage runs.
        """
        ...


class SavablePolicy(RankPolicy, Protocol):
    """A policy that `save_policy` writes to a file and `load_policy` reads.

    `from_arguments` makes the policy in its initial state; `load_state_dict` then restores what it learnt.
    """

    @property
    def problem(self) -> PolicyProblem:
        """The problem that the policy was made for."""
        ...

    @property
    def arguments(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries from which `from_arguments` makes an equal policy."""
        ...

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> SavablePolicy:
        """Return a policy in its initial state.

        Args:
            problem: Decision problem of the policy.
            arguments: Value of the property `arguments` of the saved policy.
            device: PyTorch device of the policy's networks.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything learnt and the states of all generators, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`; later decisions are bit-equal on the CPU."""
        ...


class SavedByArguments:
    """Base class of policies that are saved by the arguments of their constructor.

    A subclass has the attributes `problem` and `arguments`, the other arguments of its constructor by name. A subclass
    with a state overrides `state_dict` and `load_state_dict`.
    """

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these constructor arguments."""
        return cast("Self", cast("Any", cls)(problem, **arguments))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


def is_learner(policy: RankPolicy | type[RankPolicy]) -> TypeGuard[Learner]:
    """Whether a policy, or every policy of a class, is a `Learner`."""
    return hasattr(policy, "explore") and hasattr(policy, "stages")


def missing_for_saving(policy: RankPolicy) -> tuple[str, ...]:
    """Return the members of `SavablePolicy` that a policy lacks."""
    members = ("problem", "arguments", "from_arguments", "state_dict", "load_state_dict")
    return tuple(name for name in members if not hasattr(policy, name))


def is_savable(policy: RankPolicy) -> TypeGuard[SavablePolicy]:
    """Return whether a policy is a `SavablePolicy`."""
    return not missing_for_saving(policy)


def policy_name(policy: RankPolicy | type[RankPolicy]) -> str:
    """Return the attribute `name` of a policy or a class, or the name of the class if there is none."""
    cls = policy if isinstance(policy, type) else type(policy)
    return str(getattr(policy, "name", cls.__name__))
