import numpy as np
import pytest

from airlora.allocation import project_ranks
from airlora.bench.regret import Context, RegretEvaluator, benchmark_env
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.channel import ChannelSettings
from airlora.env import AnalyticObjective, RankAllocationEnv
from airlora.errors import RankPatternError, SettingsError
from airlora.observation import IntArray, Observation


def make(
    interacting: bool = False, num_layers: int = 2, noise_std: float = 0.0
) -> tuple[RankAllocationEnv, RegretEvaluator]:
    env = benchmark_env(SyntheticObjective(num_layers, 6, interacting, noise_std, num_texts=3, seed=1))
    return env, RegretEvaluator(env)


@pytest.mark.parametrize("num_layers", [2, 6])
def test_budgets_run_from_weak_to_strong_links(num_layers: int) -> None:
    env, evaluator = make(num_layers=num_layers)
    assert isinstance(env.objective, SyntheticObjective)
    shares = [seen.budget_params / env.objective.max_params for seen in evaluator.observations]
    assert min(shares) == pytest.approx(0.03, rel=0.01)
    assert max(shares) == pytest.approx(0.8, rel=0.01)
    assert len({(context.snr_db, context.bandwidth_hz) for context in evaluator.contexts}) == 15
    assert len(evaluator.contexts) == 45


@pytest.mark.parametrize("interacting", [False, True])
def test_regret_is_zero_at_the_optimum_and_one_at_the_best_constants(interacting: bool) -> None:
    _, evaluator = make(interacting, noise_std=0.1)  # the noise of measurements does not enter
    turns = iter(range(len(evaluator.contexts)))
    optimum = evaluator.regret(lambda _: evaluator.optimum(next(turns)))
    turns = iter(range(len(evaluator.contexts)))
    constant = evaluator.regret(lambda _: evaluator.best_constant(next(turns)))
    assert optimum.value == 0.0
    assert optimum.excess_nats == 0.0
    assert constant.value == pytest.approx(1.0)
    assert constant.excess_nats == pytest.approx(constant.constant_excess_nats)
    assert (optimum.num_deadline_breaks, constant.num_deadline_breaks) == (0, 0)
    assert optimum.num_contexts == 45


@pytest.mark.parametrize("interacting", [False, True])
def test_regret_is_at_least_zero_and_of_one_constant_at_least_one(interacting: bool) -> None:
    _, evaluator = make(interacting)
    generator = np.random.default_rng(0)
    for _ in range(5):
        assert evaluator.regret(lambda _: generator.integers(7, size=12)).value > 0.0
    assert evaluator.regret(lambda _: np.zeros(12, np.int64)).value > 1.0


def test_patterns_beyond_the_deadline_are_reduced_and_counted() -> None:
    env, evaluator = make()
    full = evaluator.regret(lambda _: np.full(12, 6))
    assert full.num_deadline_breaks == 45  # no link carries everything
    none = evaluator.regret(lambda _: np.zeros(12, np.int64))
    assert none.num_deadline_breaks == 0

    # The evaluator reduces patterns to the budget as the environment does.

    def cut(seen: Observation) -> IntArray:
        return project_ranks(np.full(12, 6), env.params_per_rank, seen.budget_params)

    assert evaluator.regret(cut).value == full.value
    assert evaluator.regret(cut).num_deadline_breaks == 0


def test_the_evaluator_agrees_with_the_rewards_of_the_environment() -> None:
    env, evaluator = make()
    for seed in range(8):
        _, info = env.reset(seed=seed)
        seen = info["observation"]
        text = env.objective.complexity()
        index = evaluator.contexts.index(Context(seen.snr_db, seen.bandwidth_hz, text))
        assert evaluator.observations[index] == seen
        own = RegretEvaluator(env, [evaluator.contexts[index]])
        wanted = np.full(12, 3)
        _, reward, _, _, _ = env.step(wanted)
        env.reset(seed=seed)
        _, best, _, _, _ = env.step(evaluator.optimum(index))
        assert own.regret(lambda _, wanted=wanted: wanted).excess_nats == pytest.approx(best - reward)


def test_regret_is_a_ratio_of_means() -> None:
    env, evaluator = make()
    pair = [evaluator.contexts[0], evaluator.contexts[-1]]
    alone = [RegretEvaluator(env, [context]).regret(lambda _: np.ones(12, np.int64)) for context in pair]
    both = RegretEvaluator(env, pair).regret(lambda _: np.ones(12, np.int64))
    assert both.value == pytest.approx(
        sum(one.excess_nats for one in alone) / sum(one.constant_excess_nats for one in alone)
    )


def test_an_environment_without_a_known_optimum_is_refused() -> None:
    with pytest.raises(SettingsError, match="objective = 'AnalyticObjective': allowed is SyntheticObjective"):
        RegretEvaluator(RankAllocationEnv(AnalyticObjective()))
    env = RankAllocationEnv(SyntheticObjective(1, 2), channel=ChannelSettings(deadline_mode="price"))
    with pytest.raises(SettingsError, match="deadline_mode = 'price': allowed is 'project'"):
        RegretEvaluator(env)


def test_contexts_where_the_best_constant_is_optimal_are_refused() -> None:
    env, evaluator = make()
    with pytest.raises(SettingsError, match="contexts: one or more are needed"):
        RegretEvaluator(env, [])
    weak = Context(-5.0, 1.0, evaluator.contexts[0].text)  # carries nothing: every pattern is rank 0
    with pytest.raises(SettingsError, match="the best constant rank is optimal in all of them"):
        RegretEvaluator(env, [weak])


def test_ranks_and_budget_shares_out_of_range_are_refused() -> None:
    env, evaluator = make()
    with pytest.raises(RankPatternError, match="12 whole numbers from 0 to 6"):
        RegretEvaluator(env, [evaluator.contexts[-1]]).regret(lambda _: np.array([7, *[0] * 11]))
    with pytest.raises(RankPatternError, match="5 ranks for 12 modules"):
        evaluator.regret(lambda _: np.zeros(5, np.int64))
    assert isinstance(env.objective, SyntheticObjective)
    for shares in [(0.0, 0.5), (0.5, 0.5), (0.1, 1.2)]:
        with pytest.raises(SettingsError, match="budget_shares"):
            benchmark_env(env.objective, budget_shares=shares)
