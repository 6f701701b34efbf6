from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airlora.allocation import fit_to_budget
from airlora.errors import PolicyError
from airlora.observation import Observation, ObservationSpec
from airlora.policy import AllocateSettings, Buffer, PolicyProblem, Transition, UtilityPlanner

COSTS = (10, 10, 30, 30)
PROBLEM = PolicyProblem(("a", "b", "c", "d"), COSTS, ObservationSpec(num_modules=4, r_max=4), cost_weight=0.5)
GAINS = np.asarray([[8, 4, 2, 1], [1, 1, 0, 0], [9, 3, 1, 0], [0, 0, 0, 0]]) / 10
BUDGETS = (0, 9, 10, 45, 90, 160, 320, 10_000)


def observe(budget: int, oov_rate: float = 0.2) -> Observation:
    return Observation(5.0, 1e6, 2.0, oov_rate, np.zeros(4, np.int64), budget)


def make(**settings: Any) -> UtilityPlanner:
    return UtilityPlanner(PROBLEM, AllocateSettings(**settings), seed=1)


def add(buffer: Buffer, planner: UtilityPlanner, count: int, budget: int = 160) -> None:
    """Measure explored patterns at two texts with different loss levels."""
    for step in range(count):
        observation = observe(budget, oov_rate=(0.1, 0.4)[step % 2])
        ranks = planner.explore(observation)
        loss = 3.0 - sum(GAINS[m, :r].sum() for m, r in enumerate(ranks)) + observation.oov_rate
        vector = PROBLEM.spec.to_vector(observation)
        buffer.add(Transition(observation, vector, ranks, -loss, vector, False, False, float(loss)))


def fitted(count: int = 150, **settings: Any) -> UtilityPlanner:
    planner, buffer = make(**settings), Buffer(1000)
    add(buffer, planner, count)
    planner.update(buffer, count)
    return planner


def test_the_model_is_fitted_again_when_measurements_grow_by_the_factor() -> None:
    planner, buffer = make(refit_growth=1.5), Buffer(1000)
    fits = []
    for _ in range(20):
        add(buffer, planner, 10)
        metrics = planner.update(buffer, 10)
        if metrics:
            fits.append(int(metrics["num_measurements"]))
            assert set(metrics) == {"residual_std", "num_measurements", "useful_modules", "form"}
    # Each fit is at the first multiple of ten that is at least 1.5 times the previous one.
    assert fits == [10, 20, 30, 50, 80, 120, 180]


def test_growth_counts_all_measurements_not_the_size_of_the_buffer() -> None:
    planner, buffer = make(refit_growth=2), Buffer(20)
    for _ in range(8):
        add(buffer, planner, 10)
        planner.update(buffer, 10)
    assert planner.num_fitted == 80


def test_a_growth_of_1_fits_at_every_update() -> None:
    planner, buffer = make(refit_growth=1), Buffer(100)
    for _ in range(3):
        add(buffer, planner, 10)
        assert planner.update(buffer, 10)


def test_the_cache_of_plans_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlora.policy.utility.planner.MAX_PLANS", 3)
    planner = fitted()
    first = [planner.plan(observe(budget)) for budget in (40, 80, 120, 160, 200)]
    assert len(planner._plans) == 3
    again = [planner.plan(observe(budget)) for budget in (40, 80, 120, 160, 200)]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("forms", [["cubic"], ["separable", "cubic"]])
def test_an_unknown_form_is_rejected_by_the_constructor(forms: list[str]) -> None:
    with pytest.raises(PolicyError, match="cubic.*allowed is one of stiff"):
        make(forms=forms)


def test_an_empty_buffer_is_rejected() -> None:
    with pytest.raises(PolicyError, match="transitions to learn from"):
        make().update(Buffer(10), 0)


def test_before_the_first_fit_parameters_have_no_price_and_equal_gains() -> None:
    planner = make()
    assert not planner.is_fitted
    assert planner.price(100) == 0.0
    assert planner.plan(observe(10_000)).tolist() == [4, 4, 4, 4]
    fitted_planner = fitted(20)
    assert fitted_planner.is_fitted
    assert fitted_planner.price(100) == pytest.approx(0.5 / 100)
    assert fitted_planner.price(0) == pytest.approx(0.5)


@pytest.mark.parametrize("count", [0, 150])
def test_plans_and_explored_patterns_fit_the_budget(count: int) -> None:
    planner = fitted(count) if count else make()
    for budget in BUDGETS:
        for ranks in [planner.plan(observe(budget)), *(planner.explore(observe(budget)) for _ in range(20))]:
            assert ranks.dtype == np.int64
            assert np.dot(ranks, COSTS) <= budget
            assert (ranks >= 0).all()
            assert (ranks <= 4).all()


def test_plans_maximise_the_measured_gains() -> None:
    planner = fitted(400)
    np.testing.assert_allclose(planner.model.gains(planner.model.text_mean), GAINS, atol=0.1)
    assert planner.plan(observe(10)).tolist() == [1, 0, 0, 0]
    assert planner.plan(observe(50)).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("count", [0, 150])
def test_explored_patterns_differ(count: int) -> None:
    planner = fitted(count) if count else make()
    patterns = {tuple(planner.explore(observe(160)).tolist()) for _ in range(60)}
    assert len(patterns) > 10
    assert {rank for ranks in patterns for rank in ranks} == {0, 1, 2, 3, 4}


def test_explored_patterns_without_changes_are_plans_of_ensemble_members() -> None:
    planner = fitted(150, exploration=0.0, drop_share=0.0, num_members=3)
    assert len(planner.members) == 3
    for budget in (45, 160):
        plans = {
            tuple(planner._plan(member, budget, tuple(member.text_mean.tolist())).tolist())
            for member in planner.members
        }
        assert {tuple(planner.explore(observe(budget)).tolist()) for _ in range(40)} == plans


def test_exploration_works_without_an_ensemble() -> None:
    planner = fitted(150, exploration=0.0, drop_share=0.0, num_members=0)
    assert planner.members == ()
    np.testing.assert_array_equal(planner.explore(observe(90)), planner.explore(observe(90)))


def test_changing_a_returned_plan_does_not_change_the_cache() -> None:
    planner = fitted(50)
    plan = planner.plan(observe(90))
    wanted = plan.tolist()
    plan[:] = 99
    assert planner.plan(observe(90)).tolist() == wanted


def test_a_new_fit_clears_the_cache_of_plans() -> None:
    planner, buffer = make(refit_growth=1), Buffer(1000)
    assert planner.plan(observe(80)).tolist() != [3, 2, 1, 0]
    add(buffer, planner, 400)
    planner.update(buffer, 400)
    assert planner.plan(observe(50)).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("count", [0, 150])
@pytest.mark.parametrize("fill", [False, True])
def test_projected_ranks_fit_the_budget_and_keep_ranks_that_fit(count: int, fill: bool) -> None:
    planner = fitted(count) if count else make()
    for budget in BUDGETS:
        for ranks in np.random.default_rng(0).integers(0, 5, (10, 4)):
            observation = observe(budget)
            kept = planner.project(ranks, observation, fill=fill)
            assert np.dot(kept, COSTS) <= budget
            assert (kept >= planner.project(ranks, observation)).all()
            assert fill or (kept <= ranks).all()
            if np.dot(ranks, COSTS) <= budget:
                assert (kept >= ranks).all()
            np.testing.assert_array_equal(planner.project(kept, observation, fill=fill), kept)


def test_projection_removes_the_components_of_the_smallest_gain() -> None:
    planner = fitted(400)
    gains = planner.model.gains(planner.text(observe(50)))
    wanted = np.asarray([2, 2, 1, 1])
    assert planner.project(wanted, observe(50)).tolist() == fit_to_budget(wanted, gains, COSTS, 50).tolist()
    assert planner.project(wanted, observe(50)).tolist() == [2, 0, 1, 0]


def test_filling_omits_components_whose_gain_is_below_the_price() -> None:
    planner = fitted(400)
    # The price is 0.0005 nats per parameter: module d has no gain and is omitted, module a is filled up.
    filled = planner.project(np.zeros(4, np.int64), observe(1000), fill=True)
    assert filled[0] == 4
    assert filled[3] == 0


def test_deadlines_are_kept_only_if_the_problem_requires_it() -> None:
    ranks, observation = np.asarray([4, 4, 4, 4]), observe(50)
    for keeps in (False, True):
        planner = UtilityPlanner(replace(PROBLEM, keeps_deadline=keeps), AllocateSettings(), seed=1)
        kept = planner.keep_deadline(ranks, observation)
        np.testing.assert_array_equal(kept, planner.project(ranks, observation) if keeps else ranks)
        assert [name for name, _ in planner.stages(Buffer(10), 0)] == (["utility"] if keeps else [])
        assert [name for name, _ in planner.stages(Buffer(10), 0, always=True)] == ["utility"]


def test_the_stage_fits_the_model() -> None:
    planner, buffer = make(), Buffer(100)
    add(buffer, planner, 30)
    ((_, stage),) = planner.stages(buffer, 30, always=True)
    assert stage()["num_measurements"] == 30
    assert planner.num_fitted == 30


def test_a_planner_for_projection_fits_curves_only() -> None:
    planner, buffer = UtilityPlanner.for_projection(PROBLEM, seed=3), Buffer(1000)
    add(buffer, planner, 200)
    assert planner.update(buffer, 200)["form"] == 0.0
    assert planner.model.is_separable
    assert not planner.model.text_curves.any()
    assert planner.members == ()
    assert planner.project(np.asarray([2, 2, 1, 1]), observe(50)).tolist() == [2, 0, 1, 0]


def test_a_restored_planner_continues_bit_identically() -> None:
    one, buffer = make(num_members=2, refit_growth=1.25), Buffer(1000)
    add(buffer, one, 120)
    one.update(buffer, 120)
    one.plan(observe(90))
    other = UtilityPlanner(PROBLEM, one.settings, seed=77)
    other.load_state_dict(one.state_dict())
    assert (other.num_fitted, other.residual_std) == (one.num_fitted, one.residual_std)
    for budget in BUDGETS:
        np.testing.assert_array_equal(one.plan(observe(budget)), other.plan(observe(budget)))
        np.testing.assert_array_equal(one.explore(observe(budget)), other.explore(observe(budget)))
    # Below the growth factor neither planner fits; above it both fit the same model.
    assert one.update(buffer, 20) == other.update(buffer, 20) == {}
    add(buffer, one, 40)
    for _ in range(40):
        other.explore(observe(160))
    assert one.update(buffer, 40) == other.update(buffer, 40) != {}
    for left, right in zip((one.model, *one.members), (other.model, *other.members), strict=True):
        np.testing.assert_array_equal(left.curves, right.curves)
    np.testing.assert_array_equal(one.explore(observe(90)), other.explore(observe(90)))
