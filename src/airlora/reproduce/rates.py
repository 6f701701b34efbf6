"""Learning rates of a reproduction: every family of methods tries as many, and takes the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from airlora.errors import TrainingError
from airlora.reproduce.plan import RATE_KEYS, REFERENCE_SNR_DB, Plan
from airlora.reproduce.trial import Trial, TrialResult

__all__ = ["RATE_FACTORS", "choose_rates", "rate_trials"]

RATE_FACTORS = (1 / 3, 1.0, 3.0)
"""Factors of the scale's learning rate that every method tries."""

RATE_STEPS = 200
"""Fine-tuning steps of a trial that tunes a learning rate."""


def rate_trials(plan: Plan) -> dict[tuple[str, float], Trial]:
    """Return the trials that tune the learning rates, by family of methods and factor; empty if the scale tunes none.

    Every family trains for `RATE_STEPS` steps with the first seed, and is measured on training samples that were held
    out. Changing ranks are random ones, and the constant rank is an eighth of r_max. PEFT's methods get the parameters
    that the reference link carries before the deadline.
    """
    if not plan.scale.tunes_rates:
        return {}
    steps = min(RATE_STEPS, plan.steps)
    r_max = plan.settings().adapter.r_max
    ranks: dict[str, dict[str, Any]] = {
        "changing ranks": {"policy.name": "random"},
        "constant rank": {"policy.name": "constant", "policy.constant_rank": max(1, r_max // 8)},
        "full rank": {"policy.name": "constant", "policy.constant_rank": r_max},
    }
    found = {}
    for family, key in RATE_KEYS.items():
        for factor in RATE_FACTORS:
            changes: dict[str, Any] = {key: plan.rate(family, factor), "finetune.steps": steps}
            if family in ranks:
                options = plan.options(changes | ranks[family] | {"env.objective": "live"}, learns=False)
            else:
                method = {"method": family, "snr_db": REFERENCE_SNR_DB, "budget": "link"}
                options = plan.options(changes, learns=False) | method
            found[family, factor] = Trial("rate", options, plan.seeds[0], steps, plan.scale.seconds[0])
    return found


def choose_rates(
    plan: Plan, results: Mapping[str, TrialResult], *, required: Collection[str | None] = tuple(RATE_KEYS)
) -> Plan:
    """Return the plan with the factor of lowest loss on held-out training samples for every family of methods.

    Args:
        plan: Plan of the trials.
        results: Results of `rate_trials` by the key of the trial. A family that lacks one keeps the scale's rate.
        required: Families that must not diverge at every rate. Others keep the scale's rate then.

    Raises:
        TrainingError: All learning rates of a required family diverged.
    """
    losses: dict[str, dict[float, float]] = {}
    errors: dict[str, str] = {}
    tuning = rate_trials(plan)
    unfinished = {family for (family, _), trial in tuning.items() if trial.key not in results}
    for (family, factor), trial in tuning.items():
        if family in unfinished:
            continue
        result = results[trial.key]
        if result["loss"] is None:
            errors[family] = result["error"]
        else:
            losses.setdefault(family, {})[factor] = result["loss"]
    for family, error in errors.items():
        if family not in losses and family in required:
            rates = ", ".join(f"{plan.rate(family, factor):g}" for factor in RATE_FACTORS)
            raise TrainingError(f"{RATE_KEYS[family]} of {family}: training diverged at each of {rates} ({error})")
    return replace(plan, rates={family: min(own, key=own.__getitem__) for family, own in losses.items()})
