"""Settings that `train --size` chooses, and settings of the user beside them."""

from typing import Any

import pytest

from airlora.errors import SettingsError
from airlora.training import load_settings, recipe_for_sizes


@pytest.mark.parametrize("size", [2000, 8000])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"adapter.r_max": 8},
        {"adapter.form": "seeded"},
        {"adapter.form": "free"},
        {"adapter.form": "free", "finetune.qat_steps": 0},
        {"adapter.form": "free", "finetune.qat_steps": 300},
        {"policy.name": "greedy", "adapter.form": "free"},
        {"policy.early_stop": False},
    ],
)
def test_settings_beside_a_size_are_kept(size: int, given: dict[str, Any]) -> None:
    settings = load_settings(overrides=recipe_for_sizes(size, steps=400, given=given)).model_dump()
    for key, value in given.items():
        section, name = key.split(".")
        assert settings[section][name] == value
    steps = settings["finetune"]["steps"] + settings["finetune"]["qat_steps"]
    assert steps == 400
    assert settings["policy"]["constant_rank"] == settings["adapter"]["r_max"]


def test_the_size_decides_the_form() -> None:
    forms = [recipe_for_sizes(size, steps=400)["adapter.form"] for size in (1500, 2500, 2501, 32_000)]
    assert forms == ["seeded", "seeded", "free", "free"]


@pytest.mark.parametrize(
    ("sizes", "given", "message"),
    [
        ((8000,), {"finetune.qat_steps": 400}, r"finetune.qat_steps = 400: allowed is below .* 400"),
        ((900,), {"adapter.form": "free"}, r"size = '900 bytes'"),
        ((900,), {}, r"size = '900 bytes'"),
        ((2000, 2100), {}, r"difference of two sizes"),
    ],
)
def test_what_cannot_be_trained_is_refused(sizes: tuple[int, ...], given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipe_for_sizes(*sizes, steps=400, given=given)


@pytest.mark.parametrize("value", [True, 0, (), "many"])
def test_numbers_of_coefficients_are_whole_numbers(value: Any) -> None:
    with pytest.raises(SettingsError, match="num_coefficients"):
        load_settings(overrides={"adapter.num_coefficients": value})
