import numpy as np
import pytest

from airlora.bench.regret import Context, Judge, judge_env
from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.channel import ChannelSettings, project_ranks
from airlora.env import AnalyticObjective, RankAllocationEnv
from airlora.errors import RankPatternError, SettingsError
from airlora.observation import IntArray, Observation


def make(interacting: bool = False, num_layers: int = 2, noise_std: float = 0.0) -> tuple[RankAllocationEnv, Judge]:
    env = judge_env(SyntheticObjective(num_layers, 6, interacting, noise_std, num_texts=3, seed=1))
    return env, Judge(env)


@pytest.mark.parametrize("num_layers", [2, 6])
def test_budgets_run_from_weak_to_strong_links(num_layers: int) -> None:
    env, judge = make(num_layers=num_layers)
    assert isinstance(env.objective, SyntheticObjective)
    shares = [seen.budget_params / env.objective.max_params for seen in judge.observations]
    assert min(shares) == pytest.approx(0.03, rel=0.01)
    assert max(shares) == pytest.approx(0.8, rel=0.01)
    assert len({(context.snr_db, context.bandwidth_hz) for context in judge.contexts}) == 15
    assert len(judge.contexts) == 45


@pytest.mark.parametrize("interacting", [False, True])
def test_regret_is_zero_at_the_optimum_and_one_at_the_best_constants(interacting: bool) -> None:
    _, judge = make(interacting, noise_std=0.1)  # the noise of measurements does not enter
    turns = iter(range(len(judge.contexts)))
    optimum = judge.regret(lambda _: judge.optimum(next(turns)))
    turns = iter(range(len(judge.contexts)))
    constant = judge.regret(lambda _: judge.best_constant(next(turns)))
    assert optimum.value == 0.0
    assert optimum.excess_nats == 0.0
    assert constant.value == pytest.approx(1.0)
    assert constant.excess_nats == pytest.approx(constant.constant_excess_nats)
    assert (optimum.num_deadline_breaks, constant.num_deadline_breaks) == (0, 0)
    assert optimum.num_contexts == 45


@pytest.mark.parametrize("interacting", [False, True])
def test_no_policy_is_below_zero_and_one_constant_for_all_links_not_below_one(interacting: bool) -> None:
    _, judge = make(interacting)
    generator = np.random.default_rng(0)
    for _ in range(5):
        assert judge.regret(lambda _: generator.integers(7, size=12)).value > 0.0
    assert judge.regret(lambda _: np.zeros(12, np.int64)).value > 1.0


def test_patterns_beyond_the_deadline_are_cut_and_counted() -> None:
    env, judge = make()
    full = judge.regret(lambda _: np.full(12, 6))
    assert full.num_deadline_breaks == 45  # no link carries everything
    none = judge.regret(lambda _: np.zeros(12, np.int64))
    assert none.num_deadline_breaks == 0

    # Cut before it is judged: the same as a policy that keeps the deadline in the environment's way.

    def cut(seen: Observation) -> IntArray:
        return project_ranks(np.full(12, 6), env.params_per_rank, seen.budget_params)

    assert judge.regret(cut).value == full.value
    assert judge.regret(cut).num_deadline_breaks == 0


def test_the_judge_sees_what_the_environment_rewards() -> None:
    """Regret's cost is the negative reward of a step, and its observation that of a reset."""
    env, judge = make()
    for seed in range(8):
        _, info = env.reset(seed=seed)
        seen = info["observation"]
        text = env.objective.complexity()
        index = judge.contexts.index(Context(seen.snr_db, seen.bandwidth_hz, text))
        assert judge.observations[index] == seen
        own = Judge(env, [judge.contexts[index]])
        wanted = np.full(12, 3)
        _, reward, _, _, _ = env.step(wanted)
        env.reset(seed=seed)
        _, best, _, _, _ = env.step(judge.optimum(index))
        assert own.regret(lambda _, wanted=wanted: wanted).excess_nats == pytest.approx(best - reward)


def test_regret_is_a_ratio_of_means() -> None:
    env, judge = make()
    pair = [judge.contexts[0], judge.contexts[-1]]
    alone = [Judge(env, [context]).regret(lambda _: np.ones(12, np.int64)) for context in pair]
    both = Judge(env, pair).regret(lambda _: np.ones(12, np.int64))
    assert both.value == pytest.approx(
        sum(one.excess_nats for one in alone) / sum(one.constant_excess_nats for one in alone)
    )


def test_refuses_what_has_no_known_optimum() -> None:
    with pytest.raises(SettingsError, match="objective = 'AnalyticObjective': allowed is SyntheticObjective"):
        Judge(RankAllocationEnv(AnalyticObjective()))
    env = RankAllocationEnv(SyntheticObjective(1, 2), channel=ChannelSettings(deadline_mode="price"))
    with pytest.raises(SettingsError, match="deadline_mode = 'price': allowed is 'project'"):
        Judge(env)


def test_refuses_contexts_without_a_scale() -> None:
    env, judge = make()
    with pytest.raises(SettingsError, match="contexts: one or more are needed"):
        Judge(env, [])
    weak = Context(-5.0, 1.0, judge.contexts[0].text)  # carries nothing: every pattern is rank 0
    with pytest.raises(SettingsError, match="the best constant rank is optimal in all of them"):
        Judge(env, [weak])


def test_refuses_ranks_and_shares_that_do_not_fit() -> None:
    env, judge = make()
    with pytest.raises(RankPatternError, match="12 whole numbers from 0 to 6"):
        Judge(env, [judge.contexts[-1]]).regret(lambda _: np.array([7, *[0] * 11]))
    with pytest.raises(RankPatternError, match="5 ranks for 12 modules"):
        judge.regret(lambda _: np.zeros(5, np.int64))
    assert isinstance(env.objective, SyntheticObjective)
    for shares in [(0.0, 0.5), (0.5, 0.5), (0.1, 1.2)]:
        with pytest.raises(SettingsError, match="budget_shares"):
            judge_env(env.objective, budget_shares=shares)
