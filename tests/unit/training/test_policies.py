from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from airlora.env import LiveObjective, RankAllocationEnv
from airlora.errors import SettingsError
from airlora.observation import Observation
from airlora.packing import measure_explained_variance
from airlora.policy import ConstantPolicy, EvaPolicy, PolicySpec, load_policy, policy_specs, save_policy
from airlora.training import (
    FineTuner,
    RunContext,
    Settings,
    build_context,
    build_policy,
    frozen_objective,
    is_learner,
    problem_of,
    with_policy,
)
from airlora.training.frozen import make_env
from airlora.training.policies import make_from_settings, policy_needs_trained_adapter

SPECS = policy_specs()


@pytest.fixture
def context(settings: Settings) -> RunContext:
    return build_context(settings)


def env_of(settings: Settings, context: RunContext) -> RankAllocationEnv:
    return RankAllocationEnv(
        frozen_objective(context, settings),
        channel=settings.channel,
        env=settings.env,
        initial_rank=2,
        hidden_size=context.hidden_size,
    )


def named(settings: Settings, name: str, **cma: float) -> Settings:
    values = settings.model_dump()
    values["policy"]["name"] = name
    values["cma"] |= cma
    return Settings.model_validate(values)


@pytest.fixture(scope="module")
def shared_context(make_settings: Callable[..., Settings]) -> RunContext:
    """Return a context that no test of the module changes."""
    return build_context(make_settings())


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_makes_a_policy_of_its_class(
    make_settings: Callable[..., Settings], shared_context: RunContext, name: str
) -> None:
    chosen = make_settings(**{"policy.name": name, "diffusion.warmup_updates": 2})
    policy = build_policy(chosen, env_of(chosen, shared_context), shared_context)
    assert type(policy) is SPECS[name].policy
    assert policy.problem.module_names == tuple(shared_context.adapted.shapes)
    assert is_learner(policy) == SPECS[name].learns
    ranks = policy.decide(Observation(5.0, 1e6, 2.0, 0.2, np.zeros(12, np.int64), 1000))
    assert ranks.shape == (12,)
    # The policy was made with the overrides of its spec.
    arguments = policy.arguments
    for key in SPECS[name].overrides:
        section, last = key.split(".")
        if section != "policy":
            assert arguments.get(section, arguments.get("settings"))[last] == getattr(getattr(chosen, section), last)


@pytest.mark.parametrize(("mode", "keeps"), [("project", True), ("price", False), ("penalty", False)])
def test_deadlines_are_kept_where_the_channel_projects(
    make_settings: Callable[..., Settings], shared_context: RunContext, mode: str, keeps: bool
) -> None:
    chosen = make_settings(**{"channel.deadline_mode": mode})
    assert problem_of(env_of(chosen, shared_context)).keeps_deadline is keeps


def test_eva_fills_by_the_explained_variance_of_the_calibration_samples(
    settings: Settings, context: RunContext, tmp_path: Path
) -> None:
    chosen = named(settings, "eva")
    policy = build_policy(chosen, env_of(chosen, context), context)
    assert isinstance(policy, EvaPolicy)
    ratio = measure_explained_variance(context.adapted, context.calibration, context.device, 1000)
    sizes = [shape.params_per_rank for shape in context.adapted.shapes.values()]
    observation = Observation(5.0, 1e6, 2.0, 0.2, np.zeros(12, np.int64), max(sizes))
    # The budget holds one component of the best module, and perhaps smaller ones beside it.
    assert policy.decide(observation)[np.unravel_index(ratio.argmax(), ratio.shape)[0]] >= 1
    save_policy(policy, tmp_path / "p")
    np.testing.assert_array_equal(load_policy(tmp_path / "p").decide(observation), policy.decide(observation))


def test_cmaes_is_made_with_its_settings(settings: Settings, context: RunContext) -> None:
    chosen = named(settings, "cmaes", population_size=5, initial_rank_fraction=1.0)
    policy = build_policy(chosen, env_of(chosen, context), context)
    assert policy.arguments["settings"] == chosen.cma.model_dump()
    observation = Observation(5.0, 1e6, 2.0, 0.2, np.zeros(12, np.int64), 100_000)
    assert policy.decide(observation).tolist() == [4] * 12


def test_only_policies_with_importance_need_a_trained_adapter(settings: Settings) -> None:
    frozen = {name for name in SPECS if policy_needs_trained_adapter(with_policy(settings, name))}
    assert frozen == {"greedy", "allocate", "distilled", "distilled-bare", "ddim-utility"}
    live = settings.model_copy(update={"env": settings.env.model_copy(update={"objective": "live"})})
    assert {name for name in SPECS if policy_needs_trained_adapter(with_policy(live, name))} == {"greedy"}
    bare = settings.model_copy(update={"allocate": settings.allocate.model_copy(update={"prior": False})})
    assert {name for name in SPECS if policy_needs_trained_adapter(with_policy(bare, name))} == {"greedy"}


def test_a_planner_starts_with_the_plans_of_greedy(settings: Settings, context: RunContext) -> None:
    for name in ("allocate", "distilled"):
        chosen = with_policy(settings, name)
        greedy = build_policy(with_policy(settings, "greedy"), env_of(chosen, context), context)
        policy = build_policy(chosen, env_of(chosen, context), context)
        if name == "allocate":
            for budget in (100, 500, 1000):
                observation = Observation(5.0, 1e6, 2.0, 0.2, np.zeros(12, np.int64), budget)
                sizes = np.asarray(policy.problem.params_per_rank)
                assert abs((policy.decide(observation) - greedy.decide(observation)) @ sizes) <= sizes.max()
        assert np.shape(policy.arguments["prior"]) == (12, 4)


def test_the_setting_is_the_device_of_the_networks(
    make_settings: Callable[..., Settings], shared_context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []
    monkeypatch.setattr(
        PolicySpec, "make", lambda self, problem, inputs: devices.append(inputs.device) or ConstantPolicy(problem, 1)
    )
    for device in ("cpu", "meta"):
        chosen = make_settings(**{"policy.device": device})
        make_from_settings(chosen, problem_of(env_of(chosen, shared_context)))
    assert devices == ["cpu", "meta"]


def test_a_device_that_there_is_not_is_refused(
    make_settings: Callable[..., Settings], shared_context: RunContext
) -> None:
    chosen = make_settings(**{"policy.device": "abacus"})
    with pytest.raises(SettingsError, match="policy.device = 'abacus': allowed is `auto`, `cpu`, or a device"):
        make_from_settings(chosen, problem_of(env_of(chosen, shared_context)))


def test_only_live_losses_have_a_trend(make_settings: Callable[..., Settings], shared_context: RunContext) -> None:
    chosen = make_settings(**{"env.reward_trend_steps": 7})
    live = LiveObjective(FineTuner(shared_context.adapted, shared_context.train, chosen, shared_context.device))
    assert make_env(live, shared_context, chosen).settings.reward_trend_steps == 7
    frozen = frozen_objective(shared_context, chosen)
    assert make_env(frozen, shared_context, chosen).settings.reward_trend_steps == 0
