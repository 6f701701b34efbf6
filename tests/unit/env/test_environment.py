import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from airlora.channel import ChannelSettings, Link, LinkState, shannon_bps
from airlora.env import ANALYTIC_CHANNEL, AnalyticObjective, EnvSettings, RankAllocationEnv, make_spec, reward
from airlora.errors import ChannelError, RankPatternError, SettingsError, TrainingError


def env_of(mode: str = "project", **channel: Any) -> RankAllocationEnv:
    settings = ANALYTIC_CHANNEL.model_copy(update={"deadline_mode": mode} | channel)
    return RankAllocationEnv(channel=settings, env=EnvSettings(cost_weight=0.1, episode_steps=4))


def test_the_environment_passes_gymnasiums_check() -> None:
    check_env(RankAllocationEnv(), skip_render_check=True)


def test_importing_airlora_registers_the_environment() -> None:
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


def test_only_project_keeps_the_deadline_and_penalty_lowers_the_reward() -> None:
    action = np.full(12, 8)
    outcomes = {}
    for mode in ("price", "project", "penalty"):
        env = env_of(mode, snr_db=[-5.0])
        env.reset(seed=0)
        outcomes[mode] = env.step(action)
    price, project, penalty = (outcomes[mode] for mode in ("price", "project", "penalty"))
    # Erratum 7: a weight in the reward does not enforce Eq. 7.
    assert price[4]["cost"] > 1
    assert price[4]["violation"] > 0
    assert project[4]["cost"] <= 1
    assert project[4]["violation"] == 0
    assert (project[4]["ranks"] <= action).all()
    assert penalty[4]["cost"] == price[4]["cost"]
    assert penalty[1] == pytest.approx(price[1] - (price[4]["cost"] - 1))


def test_episodes_are_truncated_and_never_terminate() -> None:
    env = env_of()
    env.reset(seed=0)
    ends = [env.step(np.zeros(12, np.int64))[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_the_same_seed_gives_the_same_episode() -> None:
    def play(seed: int) -> list[float]:
        env = env_of(fading="rayleigh", doppler_hz=0.1)
        env.reset(seed=seed)
        return [float(env.step(np.full(12, 2))[1]) for _ in range(4)]

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_a_restored_environment_continues_bit_for_bit_across_episodes() -> None:
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


def test_fading_changes_the_snr_but_not_the_mean_snr_within_an_episode() -> None:
    env = env_of(fading="rayleigh", doppler_hz=0.2)
    env.reset(seed=0)
    infos = [env.step(np.zeros(12, np.int64))[4] for _ in range(4)]
    assert len({info["mean_snr_db"] for info in infos}) == 1
    assert len({info["snr_db"] for info in infos}) == 4


@pytest.mark.parametrize(
    "action", [np.zeros(11, np.int64), np.full(12, -1), np.full(12, 9), np.zeros(12), np.zeros((12, 1), np.int64)]
)
def test_actions_outside_the_space_are_refused(action: Any) -> None:
    env = env_of()
    env.reset(seed=0)
    with pytest.raises(RankPatternError, match="action = .*12 whole numbers from 0 to 8"):
        env.step(action)


def test_steps_before_reset_and_unknown_options_are_refused() -> None:
    with pytest.raises(SettingsError, match="call reset"):
        env_of().step(np.zeros(12, np.int64))
    with pytest.raises(SettingsError, match="options"):
        env_of().reset(options={"snr": 3})
    with pytest.raises(SettingsError, match="initial_rank = 9: allowed is 0 to 8"):
        RankAllocationEnv(initial_rank=9)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    class Broken(AnalyticObjective):
        def measure(self, ranks: Any) -> float:
            return float("nan")

    env = RankAllocationEnv(Broken())
    env.reset(seed=0)
    with pytest.raises(TrainingError, match="loss = nan"):
        env.step(np.zeros(12, np.int64))


def test_the_observation_of_extreme_links_is_within_the_space() -> None:
    env = env_of(snr_db=[-50.0, 100.0], bandwidth_hz=[1.0, 1e12])
    for seed in range(8):
        vector, _ = env.reset(seed=seed)
        assert env.observation_space.contains(vector)


def test_settings_with_one_link_give_ranges_above_zero() -> None:
    spec = make_spec(ChannelSettings(snr_db=[5.0], bandwidth_hz=[1e6]), 12, 8)
    assert spec.snr_db_range == (-5.0, 15.0)
    assert spec.bandwidth_hz_range[1] / spec.bandwidth_hz_range[0] == pytest.approx(10.0)


def test_gymnasium_vectorises_the_environment() -> None:
    envs = gymnasium.vector.SyncVectorEnv([RankAllocationEnv, RankAllocationEnv])
    observations, _ = envs.reset(seed=0)
    assert observations.shape == (2, 16)
    assert envs.step(envs.action_space.sample())[1].shape == (2,)


class Headed(AnalyticObjective):
    """An objective with a head of 100 parameters."""

    @property
    def head_params(self) -> int:
        return 100


def test_mode_project_refuses_a_link_that_does_not_carry_the_head() -> None:
    # At -5 dB one hertz carries .396 bit/s, so that 100 parameters of 32 bits need 8,075 Hz.
    settings = ANALYTIC_CHANNEL.model_copy(update={"bandwidth_hz": [8_000.0, 1e6]})
    with pytest.raises(
        ChannelError, match=r"channel.snr_db = -5, channel.bandwidth_hz = 8000.*carries 99 parameters.*100 or more"
    ):
        RankAllocationEnv(Headed(), channel=settings)
    RankAllocationEnv(Headed(), channel=settings.model_copy(update={"bandwidth_hz": [8_080.0]}))
    RankAllocationEnv(Headed(), channel=settings.model_copy(update={"deadline_mode": "price"}))
    RankAllocationEnv(channel=settings)


class Trace:
    """A link process that a user wrote: the rate rises by 1,000 bit/s per block."""

    def __init__(self) -> None:
        self.block = 0

    @property
    def state(self) -> LinkState:
        return LinkState(mean_snr_db=5.0, snr_db=5.0, bandwidth_hz=1e5, capacity_bps=1e5 + 1e3 * self.block)

    def reset(self, generator: np.random.Generator) -> LinkState:
        self.block = int(generator.integers(10))
        return self.state

    def step(self) -> LinkState:
        self.block += 1
        return self.state

    def capacity_bps(self, link: Link) -> float:
        return link.bandwidth_hz

    def state_dict(self) -> dict[str, Any]:
        return {"block": self.block}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.block = state["block"]


def test_a_users_link_process_replaces_that_of_the_settings() -> None:
    env = RankAllocationEnv(link=Trace(), channel=ANALYTIC_CHANNEL)
    env.reset(seed=1)
    rates = [env.step(np.zeros(12, np.int64))[4]["capacity_bps"] for _ in range(3)]
    assert np.diff(rates).tolist() == [1e3, 1e3]
    observation = env.observe_link(Link(-5.0, 64_000.0), env.objective.complexity())
    assert observation.budget_params == 2000

    other = RankAllocationEnv(link=Trace(), channel=ANALYTIC_CHANNEL)
    other.load_state_dict(env.state_dict())
    assert other.step(np.zeros(12, np.int64))[4]["capacity_bps"] == rates[-1] + 1e3


def test_settings_that_name_an_unregistered_link_process_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"channel.process = 'mylinks:Mine': .*--set channel.process=mylinks:Mine"):
        env_of(process="mylinks:Mine")


class FallingLoss(AnalyticObjective):
    """An objective whose losses are given."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self._losses = iter(losses)

    def measure(self, ranks: np.ndarray) -> float:
        return next(self._losses)


def trended(losses: list[float], steps: int) -> tuple[list[float], list[float]]:
    """Return the rewards and the plain rewards of some steps without a price."""
    settings = EnvSettings(cost_weight=0.0, episode_steps=2, reward_trend_steps=steps)
    env = RankAllocationEnv(FallingLoss(losses), env=settings)
    env.reset(seed=0)
    found = []
    for _ in losses:
        _, value, _, truncated, info = env.step(np.ones(12, np.int64))
        found.append((value, info["plain_reward"]))
        if truncated:
            env.reset()
    return [value for value, _ in found], [plain for _, plain in found]


def test_the_trend_of_the_losses_is_subtracted_from_the_reward_over_episodes() -> None:
    values, plain = trended([8.0, 4.0, 2.0, 6.0], 2)
    # The trend starts at the first loss and moves half way to every loss: 8, 8, 6, 4.
    assert values == pytest.approx([0.0, 4.0, 4.0, -2.0])
    assert plain == pytest.approx([-8.0, -4.0, -2.0, -6.0])


def test_without_a_trend_the_reward_is_the_plain_one() -> None:
    values, plain = trended([8.0, 4.0, 2.0], 0)
    assert values == plain == [-8.0, -4.0, -2.0]


def test_the_plain_reward_contains_the_penalty() -> None:
    env = env_of("penalty", snr_db=[-5.0])
    env.reset(seed=0)
    _, value, _, _, info = env.step(np.full(12, 8))
    assert info["cost"] > 1
    assert info["plain_reward"] == value


def test_a_state_keeps_the_trend_and_one_without_it_loads() -> None:
    settings = EnvSettings(cost_weight=0.0, reward_trend_steps=2)
    ranks = np.ones(12, np.int64)
    env = RankAllocationEnv(FallingLoss([8.0, 4.0, 1.0]), env=settings)
    env.reset(seed=0)
    for _ in range(2):
        env.step(ranks)
    state = env.state_dict()
    other = RankAllocationEnv(FallingLoss([1.0]), env=settings)
    other.load_state_dict(state)
    assert other.step(ranks)[1] == env.step(ranks)[1] == pytest.approx(5.0)
    del state["trend"]
    old = RankAllocationEnv(FallingLoss([1.0]), env=settings)
    old.load_state_dict(state)
    assert old.step(ranks)[1] == 0.0
