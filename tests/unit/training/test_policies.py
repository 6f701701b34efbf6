from pathlib import Path

import numpy as np
import pytest

from airlora.config import Settings, load_settings
from airlora.env import RankAllocationEnv
from airlora.observation import Observation
from airlora.policy import EvaPolicy, load_policy, save_policy
from airlora.training import Workbench, assemble, build_policy, frozen_objective, measure_explained_variance
from airlora.training.policies import policy_needs_trained_adapter


@pytest.fixture
def bench(settings: Settings) -> Workbench:
    return assemble(settings)


def env_of(settings: Settings, bench: Workbench) -> RankAllocationEnv:
    return RankAllocationEnv(
        frozen_objective(bench, settings),
        channel=settings.channel,
        env=settings.env,
        initial_rank=2,
        hidden_size=bench.hidden_size,
    )


def named(settings: Settings, name: str, **cma: float) -> Settings:
    values = settings.model_dump()
    values["policy"]["name"] = name
    values["cma"] |= cma
    return Settings.model_validate(values)


@pytest.mark.parametrize("name", load_settings().policy.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]
def test_every_policy_of_the_settings_can_be_made(settings: Settings, bench: Workbench, name: str) -> None:
    chosen = named(settings, name)
    policy = build_policy(chosen, env_of(chosen, bench), bench)
    assert policy.name == name
    assert policy.problem.module_names == tuple(bench.adapted.shapes)


def test_eva_fills_by_the_explained_variance_of_the_calibration_samples(
    settings: Settings, bench: Workbench, tmp_path: Path
) -> None:
    chosen = named(settings, "eva")
    policy = build_policy(chosen, env_of(chosen, bench), bench)
    assert isinstance(policy, EvaPolicy)
    ratio = measure_explained_variance(bench.adapted, bench.calibration, bench.device, 1000)
    sizes = [shape.params_per_rank for shape in bench.adapted.shapes.values()]
    observation = Observation(5.0, 1e6, 2.0, 0.2, np.zeros(12, np.int64), max(sizes))
    # The budget holds one component of the best module, and perhaps smaller ones beside it.
    assert policy.decide(observation)[np.unravel_index(ratio.argmax(), ratio.shape)[0]] >= 1
    save_policy(policy, tmp_path / "p")
    np.testing.assert_array_equal(load_policy(tmp_path / "p").decide(observation), policy.decide(observation))


def test_the_search_gets_its_settings(settings: Settings, bench: Workbench) -> None:
    chosen = named(settings, "cmaes", population_size=5, initial_rank_fraction=1.0)
    policy = build_policy(chosen, env_of(chosen, bench), bench)
    assert policy.arguments["settings"] == chosen.cma.model_dump()
    observation = Observation(5.0, 1e6, 2.0, 0.2, np.zeros(12, np.int64), 1000)
    assert policy.decide(observation).tolist() == [4] * 12


def test_only_gradients_need_a_trained_adapter() -> None:
    assert policy_needs_trained_adapter("greedy")
    assert not any(policy_needs_trained_adapter(name) for name in ("eva", "cmaes", "airllm", "random"))
