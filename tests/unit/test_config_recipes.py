"""The settings of a policy that is chosen by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from airlora.errors import SettingsError
from airlora.policy import PolicySpec, policy_specs
from airlora.policy.diffusion.losses import LOSSES
from airlora.training import Settings, load_settings, read_settings, save_settings, with_policy
from airlora.training.presets import PRESETS

SPECS = policy_specs()
SETTING = [(name, key) for name, spec in SPECS.items() for key in spec.overrides]


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
@pytest.mark.parametrize("name", SPECS)
def test_the_overrides_of_a_policy_replace_the_preset(name: str, preset: str) -> None:
    settings = load_settings(preset, overrides={"policy.name": name})
    assert settings.policy.name == name
    for key, value in SPECS[name].overrides.items():
        assert value_of(settings, key) == value
    assert settings.diffusion.loss in LOSSES.names()


@pytest.mark.parametrize("name", SPECS)
def test_a_policy_changes_no_other_settings(name: str) -> None:
    plain = load_settings(overrides={"policy.name": "ppo"}).model_dump()
    own = load_settings(overrides={"policy.name": name}).model_dump()
    changed = {
        f"{section}.{key}"
        for section, values in plain.items()
        if isinstance(values, dict)
        for key in values
        if values[key] != own[section][key]
    }
    assert changed <= {"policy.name", *SPECS[name].overrides}


@pytest.mark.parametrize(("name", "key"), SETTING)
def test_values_of_the_user_replace_the_overrides(name: str, key: str, tmp_path: Path) -> None:
    value = another(SPECS[name].overrides[key], key)
    assert value != SPECS[name].overrides[key]
    assert value_of(load_settings(overrides={"policy.name": name, key: value}), key) == value
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    (tmp_path / "s.toml").write_text(f'policy.name = "{name}"\n{key} = {text}\n')
    settings = load_settings(toml=tmp_path / "s.toml")
    assert value_of(settings, key) == value
    # The other overrides stay.
    for other, expected in SPECS[name].overrides.items():
        assert other == key or value_of(settings, other) == expected


@pytest.mark.parametrize("name", SPECS)
def test_saved_settings_load_as_they_were(name: str, tmp_path: Path) -> None:
    chosen = load_settings("paper", overrides={"policy.name": name, "diffusion.temperature": 0.7})
    save_settings(chosen, tmp_path / "s.toml")
    assert read_settings(tmp_path / "s.toml") == chosen


def test_a_name_among_the_overrides_replaces_that_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[policy]\nname = "airllm-latent"\n')
    assert load_settings(toml=tmp_path / "s.toml").ppo.latent_size == 8
    settings = load_settings(toml=tmp_path / "s.toml", overrides={"policy.name": "ddim-q"})
    assert (settings.policy.name, settings.ppo.latent_size, settings.diffusion.loss) == ("ddim-q", None, "q_guided")


@pytest.mark.parametrize("name", ["oracle", "", "Airllm", "table"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(SettingsError, match=f"policy.name = '{name}': allowed is one of") as caught:
        load_settings(overrides={"policy.name": name})
    assert "\n" not in str(caught.value)
    assert all(known in str(caught.value) for known in SPECS)


@pytest.mark.parametrize(("key", "value"), [("policy.name", ["ppo"]), ("policy.name", 3), ("policy", "ppo")])
def test_a_name_that_is_not_a_string_is_refused(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{key} = .*allowed is") as caught:
        load_settings(overrides={key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_a_summary_fits_a_line_of_a_table(spec: PolicySpec) -> None:
    assert 0 < len(spec.summary) <= 100
    assert "\n" not in spec.summary


@pytest.mark.parametrize("name", SPECS)
def test_another_policy_applies_its_overrides_and_leaves_the_rest(name: str) -> None:
    base = load_settings(overrides={"policy.name": "greedy", "seed": 7, "diffusion.temperature": 0.7})
    before = base.model_dump()
    settings = with_policy(base, name)
    assert settings.policy.name == name
    for key, value in SPECS[name].overrides.items():
        assert value_of(settings, key) == value
    assert (settings.seed, settings.diffusion.temperature) == (7, 0.7)
    assert settings == load_settings(overrides={"policy.name": name, "seed": 7, "diffusion.temperature": 0.7})
    assert base.model_dump() == before


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_another_policy_inherits_no_overrides_of_the_former_one(preset: str) -> None:
    plain = {name: load_settings(preset, overrides={"policy.name": name}) for name in SPECS}
    for former in ("distilled", "airllm-latent", "ddim-gradient", "cmaes"):
        for name in SPECS:
            assert with_policy(plain[former], name) == plain[name], (former, name)


def test_another_policy_keeps_values_that_the_user_changed() -> None:
    mine = load_settings(overrides={"policy.name": "distilled", "diffusion.num_inference_steps": 7})
    settings = with_policy(mine, "airllm")
    assert settings.diffusion.num_inference_steps == 7
    assert settings.diffusion.loss == load_settings().diffusion.loss


@pytest.mark.parametrize("name", ["oracle", "", "Airllm"])
def test_another_policy_with_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"policy.name = '{name}': allowed is one of") as caught:
        with_policy(load_settings(), name)
    assert "\n" not in str(caught.value)
    assert all(known in str(caught.value) for known in SPECS)
