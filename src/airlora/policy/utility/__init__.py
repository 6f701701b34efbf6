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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
