"""A model of what ranks are worth, fitted to measured losses, and the plans that are best by it.

| file | holds |
|---|---|
| `model` | `UtilityModel`: concave curves, their change with the text, couplings between modules |
| `features`, `forms` | the columns that losses are explained by, and which of them a form of the model uses |
| `least_squares` | ridge least squares with weights that must not be negative |
| `fit` | the fit, the choice of the form by held-out measurements, the ensemble |
| `plan` | the best ranks for a budget: greedy, exact for concave curves, local search where modules interact |
| `advisor` | a policy's own utility model, kept up to date with its buffer |
"""

from airlora.policy.utility.advisor import TEXT, Advisor
from airlora.policy.utility.features import rank_knots
from airlora.policy.utility.fit import Measurements, UtilityFit, fit_utility
from airlora.policy.utility.forms import FORMS, Form
from airlora.policy.utility.model import UtilityModel
from airlora.policy.utility.plan import improve_plan, plan_ranks

__all__ = [
    "FORMS",
    "TEXT",
    "Advisor",
    "Form",
    "Measurements",
    "UtilityFit",
    "UtilityModel",
    "fit_utility",
    "improve_plan",
    "plan_ranks",
    "rank_knots",
]
