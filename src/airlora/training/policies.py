"""Make a run's policy from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from airlora.env import RankAllocationEnv
from airlora.errors import PolicyError
from airlora.packing import measure_explained_variance, measure_importance
from airlora.policy import PolicyInputs, PolicyProblem, RankPolicy, find_policy
from airlora.policy.base import is_learner, missing_for_saving
from airlora.policy.specs import Measurement
from airlora.ranks import params_per_rank
from airlora.settings.fields import Section
from airlora.tasks import pick_device
from airlora.training.context import RunContext
from airlora.training.settings import Settings

__all__ = ["build_policy", "make_from_settings", "policy_needs_trained_adapter", "problem_of", "verify_policy"]

MEASUREMENTS: Mapping[Measurement, Callable[[RunContext, Settings], npt.NDArray[np.float64]]] = {
    "importance": lambda bench, settings: measure_importance(
        bench.adapted, bench.calibration, bench.device, settings.finetune.batch_size
    ),
    "explained_variance": lambda bench, settings: measure_explained_variance(
        bench.adapted, bench.calibration, bench.device, settings.finetune.eval_batch_size
    ),
}
"""Functions that measure what a policy's spec asks for, on the calibration samples."""


def problem_of(env: RankAllocationEnv) -> PolicyProblem:
    """Return the decision problem of a policy in that environment."""
    return PolicyProblem(
        module_names=env.names,
        params_per_rank=params_per_rank(env.shapes),
        spec=env.observation_spec,
        cost_weight=env.settings.cost_weight,
        keeps_deadline=env.channel.deadline_mode == "project",
    )


def policy_needs_trained_adapter(settings: Settings) -> bool:
    """Whether the policy uses the importance of the trained adapter, and so cannot decide during fine-tuning."""
    return "importance" in _needed(settings)


def build_policy(settings: Settings, env: RankAllocationEnv, context: RunContext) -> RankPolicy:
    """Return the policy of the settings in its initial state.

    The measurements that its spec names are made first, on the calibration samples.

    Raises:
        SettingsError: The policy is unknown, or its own settings are not allowed.
            Or `policy.device` is not available.
        PolicyError: Other settings of the policy are not allowed, or it learns and cannot be saved.
    """
    measured = {name: MEASUREMENTS[name](context, settings) for name in _needed(settings)}
    return _verified(make_from_settings(settings, problem_of(env), **measured), settings)


def verify_policy(settings: Settings, env: RankAllocationEnv) -> None:
    """Raise the errors of `build_policy` before the adapter is trained that the policy needs."""
    if find_policy(settings.policy.name).needs is None:
        _verified(make_from_settings(settings, problem_of(env)), settings)


def make_from_settings(settings: Settings, problem: PolicyProblem, **measured: Any) -> RankPolicy:
    """Return the policy of the settings in its initial state; raises as `build_policy`.

    Args:
        settings: Settings of the run.
        problem: Decision problem of the policy.
        measured: Measurements by name, float [num_modules, r_max].
    """
    spec = find_policy(settings.policy.name)
    values = [value for _, value in settings] + [spec.read_settings(settings.policy.settings)]
    sections = tuple(value for value in values if isinstance(value, Section))
    device = pick_device(settings.policy.device, "policy.device")
    return spec.make(problem, PolicyInputs(settings.seed, sections, device=str(device), **measured))


def _needed(settings: Settings) -> set[Measurement]:
    spec = find_policy(settings.policy.name)
    needed: set[Measurement] = set() if spec.needs is None else {spec.needs}
    if spec.may_start_from_importance and settings.allocate.prior and settings.env.objective == "frozen":
        needed.add("importance")
    return needed


def _verified(policy: RankPolicy, settings: Settings) -> RankPolicy:
    missing = missing_for_saving(policy)
    if is_learner(policy) and missing:
        raise PolicyError(
            f"policy {settings.policy.name!r}: learns but cannot be saved, since it lacks {', '.join(missing)}; what a "
            "run has learnt is kept in checkpoints and in policy.pt"
        )
    return policy
