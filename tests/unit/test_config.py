from pathlib import Path
from typing import Any

import pytest

from airlora.errors import SettingsError
from airlora.training import RunFolder, Settings, load_settings, read_settings, save_settings, with_values
from airlora.training.presets import PRESETS, REPAIRS, TABLE_II, with_repairs, without_repairs


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


PAPER = ("paper", "paper-literal")


@pytest.mark.parametrize("key", TABLE_II)
def test_the_papers_presets_have_table_ii(key: str) -> None:
    assert value_of(load_settings("paper-literal"), key) == TABLE_II[key][0]
    if key != "ppo.gamma":
        assert value_of(load_settings("paper"), key) == TABLE_II[key][0]


def test_gamma_is_the_only_value_of_table_ii_that_a_repair_changes() -> None:
    assert set(with_repairs(*REPAIRS)) & set(TABLE_II) == {"ppo.gamma"}


@pytest.mark.parametrize("preset", PAPER)
@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in TABLE_II.items() for value in values])
def test_every_value_that_the_paper_sweeps_is_allowed(key: str, value: Any, preset: str) -> None:
    assert value_of(load_settings(preset, overrides={key: value}), key) == value


def test_the_literal_preset_prices_the_deadline_and_trains_live_on_opt_and_sst2() -> None:
    settings = load_settings("paper-literal")
    assert settings.model.name == "facebook/opt-1.3b"
    assert settings.data.name == "sst2"
    assert settings.channel.deadline_mode == "price"
    assert settings.env.objective == "live"
    assert settings.diffusion.loss == "literal"
    assert settings.policy.name == "airllm"
    assert settings.policy.patience == 5


def test_the_preset_paper_is_the_literal_one_with_the_repairs() -> None:
    repaired = load_settings("paper-literal", overrides={"preset": "paper", **with_repairs(*REPAIRS)})
    assert repaired.model_copy(update={"preset": "paper"}) == load_settings("paper")


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repair_can_be_left_out_alone(name: str) -> None:
    literal, paper = load_settings("paper-literal"), load_settings("paper")
    ablated = load_settings("paper", overrides=without_repairs(name))
    for other, repair in REPAIRS.items():
        for key in repair.overrides:
            assert value_of(literal, key) != value_of(paper, key), key
            assert value_of(ablated, key) == value_of(literal if other == name else paper, key)
    keys = [key for repair in REPAIRS.values() for key in repair.overrides]
    assert len(keys) == len(set(keys))


def test_all_repairs_left_out_give_the_literal_preset() -> None:
    bare = load_settings("paper", overrides=without_repairs(*REPAIRS))
    assert bare.model_copy(update={"preset": "paper-literal"}) == load_settings("paper-literal")
    with pytest.raises(SettingsError, match="repair = 'luck': allowed is one of one-step-advantage"):
        without_repairs("luck")


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("data", [{"data.train": 'a "b".tsv', "data.eval": "c.tsv"}, {"data.name": "embedded"}])
def test_saved_settings_are_read_as_they_were(preset: str, data: dict[str, Any], tmp_path: Path) -> None:
    settings = load_settings(preset, overrides=data)
    save_settings(settings, tmp_path / "s.toml")
    assert read_settings(tmp_path / "s.toml") == settings


def test_files_of_data_replace_the_data_set_of_a_preset(tmp_path: Path) -> None:
    files = {"data.train": "a.tsv", "data.eval": "b.tsv"}
    assert load_settings("paper", overrides=files).data.name is None
    (tmp_path / "s.toml").write_text('[data]\ntrain = "a.tsv"\neval = "b.tsv"\n')
    assert load_settings("paper", tmp_path / "s.toml").data.train == "a.tsv"
    with pytest.raises(SettingsError, match=r"data.name = 'sst2': .* give either data.name \(--data\) or these two"):
        load_settings("paper", tmp_path / "s.toml", {"data.name": "sst2"})


OLD_PAPER_RUN = """\
preset = "paper"
seed = 42

[model]
name = "facebook/opt-1.3b"

[data]
text_column = "text"
label_column = "label"

[adapter]
r_max = 64
orthogonality_weight = 0.1

[finetune]
steps = 15000
batch_size = 32
eval_every = 100

[channel]
snr_db = [-5.0, 0.0, 5.0, 10.0, 15.0]
bandwidth_hz = [100000000.0]
deadline_s = 1.0
deadline_mode = "price"

[env]
objective = "live"
cost_weight = 0.1
episode_steps = 16

[policy]
name = "airllm"
steps = 0
rollout_steps = 64
patience = 5

[ppo]
learning_rate = 0.0001
gamma = 0.95
gae_lambda = 0.95
clip_coef = 0.2
hidden_size = 256

[diffusion]
learning_rate = 5e-5
kappa = 0.1
num_inference_steps = 50
num_train_timesteps = 1000
guidance_scale = 1.0
loss = "literal"
warmup_updates = 500
updates_per_stage = 32
exploration = 0.1
"""
"""Settings of a run with the preset `paper` before it was changed, without the keys that did not exist."""


def test_a_run_of_the_former_preset_paper_keeps_its_settings(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(OLD_PAPER_RUN)
    found = RunFolder(tmp_path).settings()
    assert (found.preset, found.data.name, found.data.train) == ("paper", None, None)
    assert (found.diffusion.loss, found.diffusion.x0_estimate, found.diffusion.clip_sample) == (
        "literal",
        "exact",
        True,
    )
    assert (found.diffusion.timestep_order, found.diffusion.unet_channel_growth) == ("random", 1)
    assert (found.diffusion.all_ddpm_steps, found.diffusion.num_decision_samples) == (False, 8)
    assert (found.env.decision_steps, found.env.reward_trend_steps, found.env.episode_steps) == (1, 0, 16)
    assert (found.policy.rollout_steps, found.policy.device) == (64, "cpu")
    assert (found.channel.deadline_mode, found.diffusion.guidance_scale) == ("price", 1.0)


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
        ("nothing", 1, "nothing: no such setting; the settings has preset, task, seed"),
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
    with pytest.raises(SettingsError, match="preset = 'fast': allowed is one of paper, paper-literal, quick, standard"):
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
