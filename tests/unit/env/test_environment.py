import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from airlora.channel import ChannelSettings, shannon_bps
from airlora.env import ANALYTIC_CHANNEL, AnalyticObjective, EnvSettings, RankAllocationEnv, make_spec, reward
from airlora.errors import ChannelError, RankPatternError, SettingsError, TrainingError


def env_of(mode: str = "project", **channel: Any) -> RankAllocationEnv:
    settings = ANALYTIC_CHANNEL.model_copy(update={"deadline_mode": mode} | channel)
    return RankAllocationEnv(channel=settings, env=EnvSettings(cost_weight=0.1, episode_steps=4))


def test_passes_gymnasiums_own_check() -> None:
    check_env(RankAllocationEnv(), skip_render_check=True)


def test_is_registered_by_importing_airlora() -> None:
    code = "import airlora, gymnasium; print(gymnasium.make('airlora/RankAllocation-v0').reset(seed=0)[0].shape)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(16,)"


def test_an_action_becomes_the_next_ranks() -> None:
    env = env_of("price")
    env.reset(seed=0)
    action = np.arange(12) % 9
    vector, _, _, _, info = env.step(action)
    np.testing.assert_array_equal(info["ranks"], action)
    np.testing.assert_array_equal(info["observation"].ranks, action)
    np.testing.assert_allclose(vector[4:], 2 * action / 8 - 1, atol=1e-6)


def test_the_reward_is_eq_10_of_the_info() -> None:
    env = env_of("price", snr_db=[5.0])
    env.reset(seed=0)
    text = env.objective.complexity()
    action = np.full(12, 3)
    _, value, _, _, info = env.step(action)
    capacity = shannon_bps(5.0, 3e5)
    assert info["params"] == 12 * 3 * 129
    assert info["paper_params"] == 12 * 3 * 129
    assert info["seconds"] == pytest.approx(36 * 129 * 32 / capacity)
    assert info["cost"] == pytest.approx(info["seconds"] / 1.0)
    assert isinstance(env.objective, AnalyticObjective)
    assert info["loss"] == pytest.approx(env.objective.loss(action, text.oov_rate))
    assert value == pytest.approx(reward(info["loss"], info["cost"], 0.1))


def test_price_lets_the_deadline_break_project_and_penalty_do_not_ignore_it() -> None:
    action = np.full(12, 8)
    outcomes = {}
    for mode in ("price", "project", "penalty"):
        env = env_of(mode, snr_db=[-5.0])
        env.reset(seed=0)
        outcomes[mode] = env.step(action)
    price, project, penalty = (outcomes[mode] for mode in ("price", "project", "penalty"))
    # Erratum 7: as a price alone, Eq. 7 is not enforced.
    assert price[4]["cost"] > 1
    assert price[4]["violation"] > 0
    assert project[4]["cost"] <= 1
    assert project[4]["violation"] == 0
    assert (project[4]["ranks"] <= action).all()
    assert penalty[4]["cost"] == price[4]["cost"]
    assert penalty[1] == pytest.approx(price[1] - (price[4]["cost"] - 1))


def test_episodes_are_cut_never_ended() -> None:
    env = env_of()
    env.reset(seed=0)
    ends = [env.step(np.zeros(12, np.int64))[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_same_seed_same_episode() -> None:
    def play(seed: int) -> list[float]:
        env = env_of(fading="rayleigh", doppler_hz=0.1)
        env.reset(seed=seed)
        return [float(env.step(np.full(12, 2))[1]) for _ in range(4)]

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_resumes_bit_equal_across_episodes() -> None:
    one = env_of(fading="rayleigh", doppler_hz=0.1)
    one.reset(seed=5)
    one.step(np.full(12, 2))
    other = env_of(fading="rayleigh", doppler_hz=0.1)
    other.load_state_dict(one.state_dict())

    def play(env: RankAllocationEnv) -> list[Any]:
        steps = [env.step(np.full(12, rank)) for rank in (1, 2, 3)]
        first, _ = env.reset()
        return [[*step[0].tolist(), step[1]] for step in steps] + [first.tolist(), env.step(np.ones(12, np.int64))[1]]

    assert play(one) == play(other)


def test_an_episode_keeps_its_link_while_fading_moves_it() -> None:
    env = env_of(fading="rayleigh", doppler_hz=0.2)
    env.reset(seed=0)
    infos = [env.step(np.zeros(12, np.int64))[4] for _ in range(4)]
    assert len({info["mean_snr_db"] for info in infos}) == 1
    assert len({info["snr_db"] for info in infos}) == 4


@pytest.mark.parametrize(
    "action", [np.zeros(11, np.int64), np.full(12, -1), np.full(12, 9), np.zeros(12), np.zeros((12, 1), np.int64)]
)
def test_refuses_actions_outside_the_space(action: Any) -> None:
    env = env_of()
    env.reset(seed=0)
    with pytest.raises(RankPatternError, match="action = .*12 whole numbers from 0 to 8"):
        env.step(action)


def test_refuses_steps_before_reset_and_unknown_options() -> None:
    with pytest.raises(SettingsError, match="call reset"):
        env_of().step(np.zeros(12, np.int64))
    with pytest.raises(SettingsError, match="options"):
        env_of().reset(options={"snr": 3})
    with pytest.raises(SettingsError, match="initial_rank = 9: allowed is 0 to 8"):
        RankAllocationEnv(initial_rank=9)


def test_refuses_a_loss_that_is_not_finite() -> None:
    class Broken(AnalyticObjective):
        def measure(self, ranks: Any) -> float:
            return float("nan")

    env = RankAllocationEnv(Broken())
    env.reset(seed=0)
    with pytest.raises(TrainingError, match="loss = nan"):
        env.step(np.zeros(12, np.int64))


def test_the_vector_stays_in_the_space_for_extreme_links() -> None:
    env = env_of(snr_db=[-50.0, 100.0], bandwidth_hz=[1.0, 1e12])
    for seed in range(8):
        vector, _ = env.reset(seed=seed)
        assert env.observation_space.contains(vector)


def test_one_link_alone_still_has_a_range_to_be_normalised_by() -> None:
    spec = make_spec(ChannelSettings(snr_db=[5.0], bandwidth_hz=[1e6]), 12, 8)
    assert spec.snr_db_range == (-5.0, 15.0)
    assert spec.bandwidth_hz_range[1] / spec.bandwidth_hz_range[0] == pytest.approx(10.0)


def test_gymnasium_vectorises_it() -> None:
    envs = gymnasium.vector.SyncVectorEnv([RankAllocationEnv, RankAllocationEnv])
    observations, _ = envs.reset(seed=0)
    assert observations.shape == (2, 16)
    assert envs.step(envs.action_space.sample())[1].shape == (2,)


class Headed(AnalyticObjective):
    """An objective with a head of 100 numbers."""

    @property
    def head_params(self) -> int:
        return 100


def test_a_link_that_does_not_carry_the_head_is_refused_where_the_deadline_is_kept() -> None:
    # At -5 dB a hertz carries .396 bit/s: 100 numbers of 32 bits need 8,075 Hz.
    settings = ANALYTIC_CHANNEL.model_copy(update={"bandwidth_hz": [8_000.0, 1e6]})
    with pytest.raises(
        ChannelError, match=r"channel.snr_db = -5, channel.bandwidth_hz = 8000.*carries 99.*100 or more"
    ):
        RankAllocationEnv(Headed(), channel=settings)
    RankAllocationEnv(Headed(), channel=settings.model_copy(update={"bandwidth_hz": [8_080.0]}))
    RankAllocationEnv(Headed(), channel=settings.model_copy(update={"deadline_mode": "price"}))
    RankAllocationEnv(channel=settings)
