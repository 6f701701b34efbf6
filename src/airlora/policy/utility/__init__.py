"""Utility model: the predicted loss reduction of rank patterns, fitted to measured losses, and plans that maximise it.

| module | contents |
|---|---|
| `model` | `UtilityModel`: concave curves, their dependence on the text, couplings between modules |
| `features`, `forms` | regression columns of the fit, and the columns that each form of the model uses |
| `least_squares` | ridge regression with non-negative weights |
| `fit` | fit of the model, choice of its form by held-out measurements, ensemble |
| `plan` | best ranks within a budget, by greedy filling and local search |
| `planner` | `UtilityPlanner`: utility model of a policy, refitted as its buffer grows |
"""

from airlora.policy.utility.features import rank_knots
from airlora.policy.utility.fit import Measurements, UtilityFit, fit_utility
from airlora.policy.utility.forms import FORMS, Form
from airlora.policy.utility.model import UtilityModel
from airlora.policy.utility.plan import improve_plan, plan_ranks
from airlora.policy.utility.planner import TEXT_SLICE, UtilityPlanner

__all__ = [
    "FORMS",
    "TEXT_SLICE",
    "Form",
    "Measurements",
    "UtilityFit",
    "UtilityModel",
    "UtilityPlanner",
    "fit_utility",
    "improve_plan",
    "plan_ranks",
    "rank_knots",
]
