import numpy as np
import pytest

from airlora.bench.problems import PROBLEMS, BenchProblem, stale_break_rate, unseen_contexts
from airlora.bench.regret import Judge
from airlora.env import AnalyticObjective, RankAllocationEnv
from airlora.policy import ConstantPolicy, RandomPolicy
from airlora.training import problem_of

TINY = BenchProblem("6 modules", 1, interacting=False)


@pytest.fixture
def env() -> RankAllocationEnv:
    return TINY.make(0)


def rate(policy: object, env: RankAllocationEnv, doppler_hz: float, num_steps: int = 200) -> float:
    return stale_break_rate(policy, env, correlation_hz=doppler_hz, num_steps=num_steps)  # type: ignore[arg-type]


def filling(env: RankAllocationEnv) -> RandomPolicy:
    return RandomPolicy(problem_of(env), seed=0, fit_to_budget=True)


@pytest.mark.parametrize("key", PROBLEMS)
def test_a_key_says_how_many_modules_there_are(key: str) -> None:
    problem = PROBLEMS[key]
    noisy = problem.noise_std > PROBLEMS["separable-36"].noise_std
    kind = "interacting" if problem.interacting else "noisy" if noisy else "separable"
    assert key == f"{kind}-{problem.num_modules}"
    assert problem.title.startswith(f"{problem.num_modules} modules")
    assert len(problem.make(0).names) == problem.num_modules


def test_a_seed_is_a_landscape() -> None:
    same, other = Judge(TINY.make(0)), Judge(TINY.make(1))
    costs = [judge.regret(lambda _: np.ones(6, np.int64)).excess_nats for judge in (Judge(TINY.make(0)), same, other)]
    assert costs[0] == costs[1] != costs[2]


def test_unseen_links_are_between_and_beyond_those_that_are_learnt_on(env: RankAllocationEnv) -> None:
    contexts = unseen_contexts(env)
    snrs, bands = {context.snr_db for context in contexts}, {context.bandwidth_hz for context in contexts}
    assert not snrs & set(env.channel.snr_db)
    assert not bands & set(env.channel.bandwidth_hz)
    assert (min(snrs), max(snrs)) == (min(env.channel.snr_db) - 2.0, max(env.channel.snr_db) + 2.0)
    assert min(bands) < min(env.channel.bandwidth_hz)
    assert max(bands) > max(env.channel.bandwidth_hz)
    # One in every gap and one beyond either end, all by all.
    assert len(snrs) == len(env.channel.snr_db) + 1
    assert len(bands) == len(env.channel.bandwidth_hz) + 1
    assert len(contexts) == len(set(contexts)) == len(snrs) * len(bands)
    assert {context.text for context in contexts} <= {context.text for context in Judge(env).contexts}


def test_unseen_links_need_an_objective_with_texts() -> None:
    with pytest.raises(TypeError, match="objective is a AnalyticObjective: allowed is SyntheticObjective"):
        unseen_contexts(RankAllocationEnv(AnalyticObjective()))


def test_a_link_that_stands_still_breaks_nothing(env: RankAllocationEnv) -> None:
    assert rate(filling(env), env, 0.0) == 0.0


def test_the_faster_the_link_moves_the_more_breaks(env: RankAllocationEnv) -> None:
    slow, fast = (rate(filling(env), env, doppler_hz) for doppler_hz in (1e-3, 0.38))
    assert 0.0 < slow < fast < 1.0
    # At 0.38 Hz blocks are independent: the next budget is less than a full one about every other time.
    assert fast == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("doppler_hz", [0.0, 0.1, 0.38])
def test_nothing_sent_breaks_nothing_and_everything_nearly_always(env: RankAllocationEnv, doppler_hz: float) -> None:
    problem = problem_of(env)
    assert rate(ConstantPolicy(problem, rank=0), env, doppler_hz) == 0.0
    assert 0.8 < rate(ConstantPolicy(problem, rank=problem.r_max), env, doppler_hz) <= 1.0


def test_the_environment_that_is_given_stays_as_it_was(env: RankAllocationEnv) -> None:
    env.reset(seed=3)
    before = env.observe()
    rate(filling(env), env, 0.1, num_steps=8)
    assert env.channel.fading == "none"
    assert env.observe().snr_db == before.snr_db
