from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airlora.errors import PolicyError
from airlora.observation import Observation, ObservationSpec
from airlora.policy import Advisor, AllocateSettings, Buffer, PolicyProblem, Transition, fit_to_budget

COSTS = (10, 10, 30, 30)
PROBLEM = PolicyProblem(("a", "b", "c", "d"), COSTS, ObservationSpec(num_modules=4, r_max=4), cost_weight=0.5)
GAINS = np.asarray([[8, 4, 2, 1], [1, 1, 0, 0], [9, 3, 1, 0], [0, 0, 0, 0]]) / 10
BUDGETS = (0, 9, 10, 45, 90, 160, 320, 10_000)


def observe(budget: int, oov_rate: float = 0.2) -> Observation:
    return Observation(5.0, 1e6, 2.0, oov_rate, np.zeros(4, np.int64), budget)


def make(**settings: Any) -> Advisor:
    return Advisor(PROBLEM, AllocateSettings(**settings), seed=1)


def add(buffer: Buffer, advisor: Advisor, count: int, budget: int = 160) -> None:
    """Measure what the advisor explores, at two texts, one of which needs module b more."""
    for step in range(count):
        observation = observe(budget, oov_rate=(0.1, 0.4)[step % 2])
        ranks = advisor.explore(observation)
        loss = 3.0 - sum(GAINS[m, :r].sum() for m, r in enumerate(ranks)) + observation.oov_rate
        vector = PROBLEM.spec.to_vector(observation)
        buffer.add(Transition(observation, vector, ranks, -loss, vector, False, False, float(loss)))


def fitted(count: int = 150, **settings: Any) -> Advisor:
    advisor, buffer = make(**settings), Buffer(1000)
    add(buffer, advisor, count)
    advisor.update(buffer, count)
    return advisor


def test_fits_anew_only_when_so_many_times_as_many_were_measured() -> None:
    advisor, buffer = make(refit_growth=1.5), Buffer(1000)
    fits = []
    for _ in range(20):
        add(buffer, advisor, 10)
        metrics = advisor.update(buffer, 10)
        if metrics:
            fits.append(int(metrics["num_measurements"]))
            assert set(metrics) == {"residual_std", "num_measurements", "useful_modules", "form"}
    # The first number of tens that is 1.5 times the one before, and so on.
    assert fits == [10, 20, 30, 50, 80, 120, 180]


def test_counts_what_was_measured_not_what_is_remembered() -> None:
    advisor, buffer = make(refit_growth=2), Buffer(20)
    for _ in range(8):
        add(buffer, advisor, 10)
        advisor.update(buffer, 10)
    assert advisor.num_fitted == 80


def test_a_growth_of_1_fits_every_time() -> None:
    advisor, buffer = make(refit_growth=1), Buffer(100)
    for _ in range(3):
        add(buffer, advisor, 10)
        assert advisor.update(buffer, 10)


def test_plans_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlora.policy.utility.advisor.MAX_PLANS", 3)
    advisor = fitted()
    first = [advisor.plan(observe(budget)) for budget in (40, 80, 120, 160, 200)]
    assert len(advisor._plans) == 3
    again = [advisor.plan(observe(budget)) for budget in (40, 80, 120, 160, 200)]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("forms", [["cubic"], ["separable", "cubic"]])
def test_an_unknown_form_is_refused_when_the_advisor_is_made(forms: list[str]) -> None:
    with pytest.raises(PolicyError, match="cubic.*allowed is one of stiff"):
        make(forms=forms)


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(PolicyError, match="transitions to learn from"):
        make().update(Buffer(10), 0)


def test_before_the_first_fit_a_number_costs_nothing_and_all_are_equal() -> None:
    advisor = make()
    assert not advisor.is_fitted
    assert advisor.price(100) == 0.0
    assert advisor.plan(observe(10_000)).tolist() == [4, 4, 4, 4]
    ready = fitted(20)
    assert ready.is_fitted
    assert ready.price(100) == pytest.approx(0.5 / 100)
    assert ready.price(0) == pytest.approx(0.5)


@pytest.mark.parametrize("count", [0, 150])
def test_plans_and_what_is_explored_fit_the_budget(count: int) -> None:
    advisor = fitted(count) if count else make()
    for budget in BUDGETS:
        for ranks in [advisor.plan(observe(budget)), *(advisor.explore(observe(budget)) for _ in range(20))]:
            assert ranks.dtype == np.int64
            assert np.dot(ranks, COSTS) <= budget
            assert (ranks >= 0).all()
            assert (ranks <= 4).all()


def test_plans_are_the_best_patterns() -> None:
    advisor = fitted(400)
    np.testing.assert_allclose(advisor.model.gains(advisor.model.text_mean), GAINS, atol=0.1)
    assert advisor.plan(observe(10)).tolist() == [1, 0, 0, 0]
    assert advisor.plan(observe(50)).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("count", [0, 150])
def test_explored_patterns_differ(count: int) -> None:
    advisor = fitted(count) if count else make()
    seen = {tuple(advisor.explore(observe(160)).tolist()) for _ in range(60)}
    assert len(seen) > 10
    assert {rank for ranks in seen for rank in ranks} == {0, 1, 2, 3, 4}


def test_without_exchanges_what_is_explored_is_a_members_plan() -> None:
    advisor = fitted(150, exploration=0.0, drop_share=0.0, num_members=3)
    assert len(advisor.members) == 3
    for budget in (45, 160):
        plans = {
            tuple(advisor._plan(member, budget, tuple(member.text_mean.tolist())).tolist())
            for member in advisor.members
        }
        assert {tuple(advisor.explore(observe(budget)).tolist()) for _ in range(40)} == plans


def test_works_without_an_ensemble() -> None:
    advisor = fitted(150, exploration=0.0, drop_share=0.0, num_members=0)
    assert advisor.members == ()
    np.testing.assert_array_equal(advisor.explore(observe(90)), advisor.explore(observe(90)))


def test_plans_cannot_be_spoilt_by_whoever_gets_them() -> None:
    advisor = fitted(50)
    plan = advisor.plan(observe(90))
    wanted = plan.tolist()
    plan[:] = 99
    assert advisor.plan(observe(90)).tolist() == wanted


def test_a_new_fit_makes_new_plans() -> None:
    advisor, buffer = make(refit_growth=1), Buffer(1000)
    assert advisor.plan(observe(80)).tolist() != [3, 2, 1, 0]
    add(buffer, advisor, 400)
    advisor.update(buffer, 400)
    assert advisor.plan(observe(50)).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("count", [0, 150])
@pytest.mark.parametrize("fill", [False, True])
def test_projected_ranks_fit_and_what_fits_stays(count: int, fill: bool) -> None:
    advisor = fitted(count) if count else make()
    for budget in BUDGETS:
        for ranks in np.random.default_rng(0).integers(0, 5, (10, 4)):
            observation = observe(budget)
            kept = advisor.project(ranks, observation, fill=fill)
            assert np.dot(kept, COSTS) <= budget
            assert (kept >= advisor.project(ranks, observation)).all()
            assert fill or (kept <= ranks).all()
            if np.dot(ranks, COSTS) <= budget:
                assert (kept >= ranks).all()
            np.testing.assert_array_equal(advisor.project(kept, observation, fill=fill), kept)


def test_projection_drops_the_least_worth_by_the_model() -> None:
    advisor = fitted(400)
    gains = advisor.model.gains(advisor.text(observe(50)))
    wanted = np.asarray([2, 2, 1, 1])
    assert advisor.project(wanted, observe(50)).tolist() == fit_to_budget(wanted, gains, COSTS, 50).tolist()
    assert advisor.project(wanted, observe(50)).tolist() == [2, 0, 1, 0]


def test_filling_leaves_out_what_is_not_worth_its_price() -> None:
    advisor = fitted(400)
    # At .5 / 1000 nats a number module d, worth nothing, is left out and a, worth much, is filled up.
    filled = advisor.project(np.zeros(4, np.int64), observe(1000), fill=True)
    assert filled[0] == 4
    assert filled[3] == 0


def test_deadlines_are_kept_only_where_the_problem_asks_for_it() -> None:
    ranks, observation = np.asarray([4, 4, 4, 4]), observe(50)
    for keeps in (False, True):
        advisor = Advisor(replace(PROBLEM, keeps_deadline=keeps), AllocateSettings(), seed=1)
        kept = advisor.keep_deadline(ranks, observation)
        np.testing.assert_array_equal(kept, advisor.project(ranks, observation) if keeps else ranks)
        assert [name for name, _ in advisor.stages(Buffer(10), 0)] == (["utility"] if keeps else [])
        assert [name for name, _ in advisor.stages(Buffer(10), 0, always=True)] == ["utility"]


def test_the_stage_fits() -> None:
    advisor, buffer = make(), Buffer(100)
    add(buffer, advisor, 30)
    ((_, stage),) = advisor.stages(buffer, 30, always=True)
    assert stage()["num_measurements"] == 30
    assert advisor.num_fitted == 30


def test_one_for_projection_fits_curves_alone() -> None:
    advisor, buffer = Advisor.for_projection(PROBLEM, seed=3), Buffer(1000)
    add(buffer, advisor, 200)
    assert advisor.update(buffer, 200)["form"] == 0.0
    assert advisor.model.is_separable
    assert not advisor.model.text_curves.any()
    assert advisor.members == ()
    assert advisor.project(np.asarray([2, 2, 1, 1]), observe(50)).tolist() == [2, 0, 1, 0]


def test_goes_on_bit_equal_from_its_state() -> None:
    one, buffer = make(num_members=2, refit_growth=1.25), Buffer(1000)
    add(buffer, one, 120)
    one.update(buffer, 120)
    one.plan(observe(90))
    other = Advisor(PROBLEM, one.settings, seed=77)
    other.load_state_dict(one.state_dict())
    assert (other.num_fitted, other.residual_std) == (one.num_fitted, one.residual_std)
    for budget in BUDGETS:
        np.testing.assert_array_equal(one.plan(observe(budget)), other.plan(observe(budget)))
        np.testing.assert_array_equal(one.explore(observe(budget)), other.explore(observe(budget)))
    # Below the growth neither fits, above it both, to the same.
    assert one.update(buffer, 20) == other.update(buffer, 20) == {}
    add(buffer, one, 40)
    for _ in range(40):
        other.explore(observe(160))
    assert one.update(buffer, 40) == other.update(buffer, 40) != {}
    for left, right in zip((one.model, *one.members), (other.model, *other.members), strict=True):
        np.testing.assert_array_equal(left.curves, right.curves)
    np.testing.assert_array_equal(one.explore(observe(90)), other.explore(observe(90)))
