"""Recipes: a policy by name, with what is set differently for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from airlora.errors import SettingsError
from airlora.policy import POLICIES, RECIPES
from airlora.policy.diffusion.losses import LOSSES
from airlora.training import Settings, load_settings, save_settings, with_policy
from airlora.training.presets import PRESETS

SETTING = [(name, key) for name, recipe in RECIPES.items() for key in recipe.settings]


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def another(value: Any, key: str) -> Any:
    """Return an allowed value of the setting that is not `value`."""
    others: Mapping[str, Any] = {
        "diffusion.loss": "my_loss",
        "diffusion.condition": "a_out_and_state",
        "diffusion.prediction_type": "sample",
        "diffusion.sampler": "my_sampler",
        "diffusion.backbone": "my_backbone",
        "diffusion.critic": "learned",
        "diffusion.fill": False,
        "diffusion.eta": 0.25,
    }
    return others[key] if key in others else value + value


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("name", RECIPES)
def test_every_name_brings_its_settings_over_the_preset(name: str, preset: str) -> None:
    settings = load_settings(preset, overrides={"policy.name": name})
    assert settings.policy.name == name
    for key, value in RECIPES[name].settings.items():
        assert value_of(settings, key) == value
    assert RECIPES[name].policy in POLICIES
    assert settings.diffusion.loss in LOSSES.names()


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_else_is_changed(name: str) -> None:
    plain = load_settings(overrides={"policy.name": "ppo"}).model_dump()
    own = load_settings(overrides={"policy.name": name}).model_dump()
    changed = {
        f"{section}.{key}"
        for section, values in plain.items()
        if isinstance(values, dict)
        for key in values
        if values[key] != own[section][key]
    }
    assert changed <= {"policy.name", *RECIPES[name].settings}


@pytest.mark.parametrize(("name", "key"), SETTING)
def test_the_user_wins_over_the_recipe(name: str, key: str, tmp_path: Path) -> None:
    value = another(RECIPES[name].settings[key], key)
    assert value != RECIPES[name].settings[key]
    assert value_of(load_settings(overrides={"policy.name": name, key: value}), key) == value
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    (tmp_path / "s.toml").write_text(f'policy.name = "{name}"\n{key} = {text}\n')
    settings = load_settings(toml=tmp_path / "s.toml")
    assert value_of(settings, key) == value
    # The rest of the recipe stays.
    for other, expected in RECIPES[name].settings.items():
        assert other == key or value_of(settings, other) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_a_saved_run_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    chosen = load_settings("paper", overrides={"policy.name": name, "diffusion.temperature": 0.7})
    save_settings(chosen, tmp_path / "s.toml")
    assert load_settings(toml=tmp_path / "s.toml") == chosen


def test_a_name_given_singly_wins_over_a_files(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[policy]\nname = "airllm-latent"\n')
    assert load_settings(toml=tmp_path / "s.toml").ppo.latent_size == 8
    settings = load_settings(toml=tmp_path / "s.toml", overrides={"policy.name": "ddim-q"})
    assert (settings.policy.name, settings.ppo.latent_size, settings.diffusion.loss) == ("ddim-q", None, "q_guided")


@pytest.mark.parametrize("name", ["oracle", "", "Airllm", "table"])
def test_an_unknown_name_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(SettingsError, match=f"policy.name = '{name}': allowed is one of") as caught:
        load_settings(overrides={"policy.name": name})
    assert "\n" not in str(caught.value)
    assert all(known in str(caught.value) for known in RECIPES)


@pytest.mark.parametrize(("key", "value"), [("policy.name", ["ppo"]), ("policy.name", 3), ("policy", "ppo")])
def test_a_name_that_is_no_text_is_refused_in_a_line(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{key} = .*allowed is") as caught:
        load_settings(overrides={key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_summary_is_a_line_of_a_table(recipe: Any) -> None:
    assert 0 < len(recipe.summary) <= 100
    assert "\n" not in recipe.summary


@pytest.mark.parametrize("name", RECIPES)
def test_another_policy_brings_its_recipe_and_leaves_the_rest(name: str) -> None:
    base = load_settings(overrides={"policy.name": "greedy", "seed": 7, "diffusion.temperature": 0.7})
    before = base.model_dump()
    settings = with_policy(base, name)
    assert settings.policy.name == name
    for key, value in RECIPES[name].settings.items():
        assert value_of(settings, key) == value
    assert (settings.seed, settings.diffusion.temperature) == (7, 0.7)
    assert settings == load_settings(overrides={"policy.name": name, "seed": 7, "diffusion.temperature": 0.7})
    assert base.model_dump() == before


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_another_policy_inherits_nothing_of_the_formers_recipe(preset: str) -> None:
    plain = {name: load_settings(preset, overrides={"policy.name": name}) for name in RECIPES}
    for former in ("distilled", "airllm-latent", "ddim-gradient", "cmaes"):
        for name in RECIPES:
            assert with_policy(plain[former], name) == plain[name], (former, name)


def test_another_policy_keeps_what_the_user_changed_in_the_formers_recipe() -> None:
    mine = load_settings(overrides={"policy.name": "distilled", "diffusion.num_inference_steps": 7})
    settings = with_policy(mine, "airllm")
    assert settings.diffusion.num_inference_steps == 7
    assert settings.diffusion.loss == load_settings().diffusion.loss


@pytest.mark.parametrize("name", ["oracle", "", "Airllm"])
def test_another_policy_of_an_unknown_name_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(SettingsError, match=f"policy.name = '{name}': allowed is one of") as caught:
        with_policy(load_settings(), name)
    assert "\n" not in str(caught.value)
    assert all(known in str(caught.value) for known in RECIPES)
