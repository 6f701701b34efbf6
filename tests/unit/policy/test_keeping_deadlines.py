"""Learners cut their patterns to the link's budget where the problem asks for it, and only there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from airlora.errors import PolicyError
from airlora.observation import Observation
from airlora.policy import (
    AllocateSettings,
    Buffer,
    CmaSettings,
    DiffusionPolicy,
    DiffusionSettings,
    Learner,
    PolicyProblem,
    PPOSettings,
    make_policy,
    unit_to_ranks,
)
from airlora.training import load_settings

Observe = Callable[..., Observation]
Explored = Callable[[Learner, int], Buffer]

SMALL = {"hidden_size": 16, "num_train_timesteps": 50, "beta_end": 0.2, "num_inference_steps": 3}
QUICK = SMALL | {"warmup_updates": 10, "updates_per_stage": 3, "batch_size": 16, "num_plans": 16, "critic_updates": 3}
LEARNERS = ("ppo", "ddim", "ddim-q", "ddim-utility", "ddim-gradient", "airllm", "distilled", "allocate", "cmaes")


def make(name: str, problem: PolicyProblem, **diffusion: Any) -> Learner:
    """Return a small learner of that recipe; it starts with high ranks, so that budgets bind."""
    overrides = {"policy.name": name} | {f"diffusion.{key}": value for key, value in (QUICK | diffusion).items()}
    settings = load_settings(overrides=overrides)
    return make_policy(  # type: ignore[return-value]
        name,
        problem,
        seed=3,
        ppo=PPOSettings(hidden_size=8, minibatch_size=8, update_epochs=1, initial_rank_fraction=0.9),
        diffusion=settings.diffusion,
        allocate=AllocateSettings(num_members=2, forms=["separable"]),
        cma=CmaSettings(initial_rank_fraction=0.9),
    )


@pytest.fixture
def keeping(problem: PolicyProblem) -> PolicyProblem:
    return dataclasses.replace(problem, keeps_deadline=True)


@pytest.fixture
def links(observe: Observe) -> list[Observation]:
    """Random links, some that carry nothing and some that carry everything."""
    generator = np.random.default_rng(0)
    budgets = [0, 9, 10, 40, 320, *(int(budget) for budget in np.exp(generator.uniform(1.0, 7.0, 15)))]
    return [
        dataclasses.replace(
            observe(float(generator.uniform(-10, 20)), budget_params=budget),
            oov_rate=float(generator.uniform()),
            ranks=generator.integers(0, 5, 4),
        )
        for budget in budgets
    ]


def run_stages(policy: Learner, buffer: Buffer, rollout: int) -> list[str]:
    names = []
    for name, run in policy.stages(buffer, rollout):
        run()
        names.append(name)
    return names


@pytest.mark.parametrize("name", LEARNERS)
def test_no_decision_is_beyond_the_budget(
    name: str, keeping: PolicyProblem, links: list[Observation], explored: Explored
) -> None:
    policy = make(name, keeping)
    for _ in range(3):
        for link in links:
            for ranks in (policy.decide(link), policy.explore(link).ranks):
                assert keeping.num_params(ranks) <= link.budget_params
                assert ranks.dtype == np.int64
                assert ((ranks >= 0) & (ranks <= 4)).all()
        run_stages(policy, explored(policy, 16), 16)


@pytest.mark.parametrize("name", ["ppo", "ddim", "ddim-gradient", "airllm"])
def test_by_the_papers_letter_the_ranks_are_those_of_the_sample(
    name: str, problem: PolicyProblem, observe: Observe, explored: Explored
) -> None:
    """Eq. 18 has the last word where the deadline is only priced: the budget changes nothing."""
    policy = make(name, problem)
    run_stages(policy, explored(policy, 16), 16)
    over = 0
    for _ in range(10):
        decision = policy.explore(observe(budget_params=20))
        sample = decision.a_out if decision.x0 is None else decision.x0
        assert sample is not None
        np.testing.assert_array_equal(decision.ranks, unit_to_ranks(sample, 4))
        over += problem.num_params(decision.ranks) > 20
    assert over > 0
    np.testing.assert_array_equal(policy.decide(observe(budget_params=0)), policy.decide(observe(budget_params=10_000)))


@pytest.mark.parametrize(
    ("name", "priced", "kept"),
    [
        ("ppo", ["ppo"], ["ppo", "utility"]),
        ("ddim", ["diffusion"], ["utility", "diffusion"]),
        ("ddim-q", ["diffusion"], ["utility", "diffusion"]),
        ("ddim-utility", ["utility", "diffusion"], ["utility", "diffusion"]),
        ("ddim-gradient", ["diffusion"], ["utility", "diffusion"]),
        ("distilled", ["utility", "diffusion"], ["utility", "diffusion"]),
        ("airllm", ["ppo", "diffusion"], ["ppo", "utility", "diffusion"]),
        ("cmaes", ["cmaes"], ["cmaes", "utility"]),
    ],
)
def test_a_utility_model_is_fitted_where_it_is_asked(
    name: str, priced: list[str], kept: list[str], problem: PolicyProblem, keeping: PolicyProblem, explored: Explored
) -> None:
    for own, names in ((problem, priced), (keeping, kept)):
        policy = make(name, own)
        assert run_stages(policy, explored(policy, 16), 16) == names


def test_what_is_dropped_is_what_was_measured_to_be_worth_least(
    keeping: PolicyProblem, observe: Observe, explored: Explored
) -> None:
    """All ranks count alike in `explored`, and c and d cost three times as much: those go first."""
    policy = make(
        "ppo",
        keeping,
    )
    for _ in range(4):
        run_stages(policy, explored(policy, 64), 64)
    full = policy.decide(observe(budget_params=10_000))
    cut = policy.decide(observe(budget_params=keeping.num_params(full) - 30))
    assert cut[:2].tolist() == full[:2].tolist()
    assert cut[2:].sum() == full[2:].sum() - 1


@pytest.mark.parametrize("name", ["ddim", "airllm", "distilled"])
def test_filling_lowers_no_rank_and_stays_within_the_budget(
    name: str, keeping: PolicyProblem, links: list[Observation], explored: Explored
) -> None:
    cheap = dataclasses.replace(keeping, cost_weight=0.0)
    plain, filled = (make(name, cheap, fill=fill) for fill in (False, True))
    more = 0
    for is_fitted in (False, True):
        if is_fitted:
            buffer = explored(plain, 16)
            explored(filled, 16)  # as many draws
            for policy in (plain, filled):
                run_stages(policy, buffer, 16)
        for link in links:
            without, ranks = plain.decide(link), filled.decide(link)
            assert (ranks >= without).all()
            assert cheap.num_params(ranks) <= link.budget_params
            more += int(ranks.sum() - without.sum())
    assert more > 0


def test_filling_sends_nothing_worth_less_than_its_price(
    keeping: PolicyProblem, observe: Observe, explored: Explored
) -> None:
    dear = dataclasses.replace(keeping, cost_weight=1e6)
    plain, filled = (make("ddim", dear, fill=fill) for fill in (False, True))
    buffer = explored(plain, 16)
    explored(filled, 16)
    for policy in (plain, filled):
        run_stages(policy, buffer, 16)
    np.testing.assert_array_equal(plain.decide(observe()), filled.decide(observe()))


@pytest.mark.parametrize("name", LEARNERS)
def test_every_stage_refuses_an_empty_buffer(name: str, keeping: PolicyProblem) -> None:
    for _, run in make(name, keeping).stages(Buffer(4), 0):
        with pytest.raises(PolicyError, match="transitions to learn from = 0: allowed is 1 to the 0 in the buffer"):
            run()


def test_budget_and_text_is_all_that_it_is_told(problem: PolicyProblem, observe: Observe) -> None:
    settings = DiffusionSettings(**QUICK, condition="budget_and_text")  # type: ignore[arg-type]
    policy = DiffusionPolicy(problem, settings, seed=0)
    one = policy._encode([observe(snr_db=-5.0, rank=1), observe(snr_db=15.0, rank=4)])
    assert one.shape == (2, 3)
    assert one.tolist()[0] == one.tolist()[1]
    # 320 numbers are everything: 1; a tenth of them, a decade less.
    shares = policy._encode([observe(budget_params=320), observe(budget_params=32), observe(budget_params=0)])
    np.testing.assert_allclose(shares[:, 0].numpy(), [1.0, 0.0, -4.0], atol=1e-6)
    text = dataclasses.replace(observe(), oov_rate=0.9)
    assert policy._encode([text]).tolist() != policy._encode([observe()]).tolist()
