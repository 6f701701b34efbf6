import dataclasses
import json

import numpy as np
import pytest

from airlora.errors import PolicyError
from airlora.observation import ObservationSpec
from airlora.policy import PolicyProblem

SPEC = ObservationSpec(num_modules=2, r_max=4, snr_db_range=(0.0, 20.0))
PROBLEM = PolicyProblem(("a", "b"), (10, 30), SPEC, cost_weight=0.1)


def test_a_problem_is_restored_from_json() -> None:
    assert PolicyProblem.from_dict(json.loads(json.dumps(PROBLEM.to_dict()))) == PROBLEM


def test_num_params_sums_the_sizes_of_components() -> None:
    assert PROBLEM.num_params(np.asarray([2, 1])) == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module_names": ("a", "c")}, "another model: 2 modules against 2, such as 'b'"),
        ({"module_names": ("b", "a")}, "in another order"),
        ({"params_per_rank": (10, 31)}, "other shapes"),
        ({"spec": ObservationSpec(num_modules=2, r_max=8)}, "r_max = 4: it cannot decide for r_max = 8"),
    ],
)
def test_a_problem_with_other_modules_or_r_max_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        PROBLEM.verify_same(dataclasses.replace(PROBLEM, **changes))


def test_another_cost_weight_and_scaling_are_accepted() -> None:
    other_spec = ObservationSpec(num_modules=2, r_max=4, snr_db_range=(-5.0, 5.0))
    PROBLEM.verify_same(dataclasses.replace(PROBLEM, cost_weight=1.0, spec=other_spec))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module_names": ("a",)}, "number of module_names = 1: allowed is 2"),
        ({"module_names": ("a", "a")}, "every name once"),
        ({"params_per_rank": (10,)}, "number of params_per_rank = 1"),
        ({"params_per_rank": (10, 0)}, "params_per_rank = 0"),
        ({"cost_weight": -1.0}, "cost_weight = -1.0"),
        ({"cost_weight": float("nan")}, "cost_weight = nan"),
    ],
)
def test_inconsistent_problems_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        dataclasses.replace(PROBLEM, **changes)
