from pathlib import Path
from typing import Any

import pytest

from airlora.errors import SettingsError
from airlora.training import Settings, load_settings, save_settings, with_values
from airlora.training.presets import PRESETS, TABLE_II


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("key", TABLE_II)
def test_the_preset_paper_is_table_ii(key: str) -> None:
    assert value_of(load_settings("paper"), key) == TABLE_II[key][0]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in TABLE_II.items() for value in values])
def test_every_value_that_the_paper_sweeps_is_allowed(key: str, value: Any) -> None:
    assert value_of(load_settings("paper", overrides={key: value}), key) == value


def test_the_paper_prices_the_deadline_and_trains_live_on_opt() -> None:
    settings = load_settings("paper")
    assert settings.model.name == "facebook/opt-1.3b"
    assert settings.channel.deadline_mode == "price"
    assert settings.env.objective == "live"
    assert settings.diffusion.loss == "literal"
    assert settings.policy.name == "airllm"
    assert settings.policy.patience == 5


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_toml_round_trip(preset: str, tmp_path: Path) -> None:
    settings = load_settings(preset, overrides={"data.train": 'a "b".tsv', "data.eval": "c.tsv"})
    save_settings(settings, tmp_path / "s.toml")
    assert load_settings(toml=tmp_path / "s.toml") == settings


def test_layers_win_in_order(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('preset = "standard"\n[finetune]\nsteps = 7\nbatch_size = 3\n')
    settings = load_settings(toml=tmp_path / "s.toml", overrides={"finetune.steps": 9})
    assert (settings.preset, settings.finetune.steps, settings.finetune.batch_size) == ("standard", 9, 3)
    assert settings.adapter.r_max == load_settings("standard").adapter.r_max
    assert load_settings("quick", tmp_path / "s.toml").preset == "quick"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("finetune.stesp", 1, "finetune.stesp: no such setting; finetune has steps, batch_size"),
        ("nothing", 1, "nothing: no such setting; the settings has preset, seed"),
        ("finetune.steps", -1, "finetune.steps = -1: allowed is greater than or equal to 0"),
        ("finetune.steps", "many", "finetune.steps = 'many': allowed is a valid integer"),
        ("finetune.learning_rate", float("nan"), "finetune.learning_rate = nan: allowed is"),
        ("finetune.learning_rate", float("inf"), "finetune.learning_rate = inf: allowed is"),
        ("channel.bandwidth_hz", [-1.0], "channel.bandwidth_hz.0 = -1.0: allowed is greater than 0"),
        ("channel.snr_db", [1e9], "channel.snr_db.0 = 1000000000.0: allowed is less than or equal to 100"),
        ("channel.snr_db", [], "channel.snr_db = .*: allowed is at least 1 item"),
        ("channel.fading", "rician", "channel.k_factor_db is needed"),
        ("channel.fading", "fog", "channel.fading = 'fog': allowed is 'none', 'rayleigh'"),
        ("policy.name", "oracle", "policy.name = 'oracle': allowed is one of allocate, distilled, "),
        ("adapter.r_max", 0, "adapter.r_max = 0: allowed is greater than or equal to 1"),
        ("adapter.r_max", 2, "policy.constant_rank = 4 is above adapter.r_max = 2"),
        ("finetune.head_steps", 10**6, "head_steps .* = 1000000: allowed is at most finetune.steps = 600"),
        ("finetune.align_norm", 0.0, "finetune.align_norm = 0.0: allowed is greater than 0"),
        ("data.train", "a.tsv", "data.train and data.eval are given together"),
        ("diffusion.num_inference_steps", 5000, "num_inference_steps = 5000 is above"),
        ("model", 3, "model = 3: allowed is"),
        ("seed", -1, "seed = -1"),
    ],
)
def test_refusals_name_key_value_and_what_is_allowed(key: str, value: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(overrides={key: value})
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(SettingsError, match=r"\(and 1 more\)"):
        load_settings(overrides={"seed": -1, "finetune.steps": -1})


def test_a_section_is_no_value() -> None:
    with pytest.raises(SettingsError, match=r"policy = 'ppo': allowed is a section, since policy.name is given too"):
        load_settings(overrides={"policy": "ppo", "policy.name": "ppo"})


def test_refuses_unknown_presets_and_files_that_are_no_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="preset = 'fast': allowed is one of paper, quick, standard"):
        load_settings("fast")
    with pytest.raises(SettingsError, match=r"preset = \['quick'\]: allowed is one of"):
        load_settings(overrides={"preset": ["quick"]})
    with pytest.raises(SettingsError, match="settings file .*gone.toml: no such file"):
        load_settings(toml=tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff = [")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(toml=tmp_path / "bad.toml")


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().seed = 1  # type: ignore[misc]


def test_values_can_be_changed_afterwards() -> None:
    settings = load_settings("quick")
    other = with_values(settings, {"channel.snr_db": [3.0], "seed": 7})
    assert (other.channel.snr_db, other.seed) == ([3.0], 7)
    assert settings.channel.snr_db != [3.0]
    assert with_values(settings, {}) == settings
    with pytest.raises(SettingsError, match=r"channel.rate = 'guess': allowed is 'shannon'"):
        with_values(settings, {"channel.rate": "guess"})
    with pytest.raises(SettingsError, match="no such setting"):
        with_values(settings, {"channel.colour": "red"})
