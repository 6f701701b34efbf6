"""The settings of a run, in sections; see `Settings` and `load_settings`."""

from airlora.config.policy_sections import AllocateSettings, CmaSettings, DiffusionSettings, PolicySettings, PPOSettings
from airlora.config.recipes import RECIPES, Recipe
from airlora.config.run_sections import (
    AdapterSettings,
    ChannelSettings,
    DataSettings,
    EnvSettings,
    FinetuneSettings,
    ModelSettings,
)
from airlora.config.settings import Settings, load_settings, save_settings, with_policy, with_values

__all__ = [
    "RECIPES",
    "AdapterSettings",
    "AllocateSettings",
    "ChannelSettings",
    "CmaSettings",
    "DataSettings",
    "DiffusionSettings",
    "EnvSettings",
    "FinetuneSettings",
    "ModelSettings",
    "PPOSettings",
    "PolicySettings",
    "Recipe",
    "Settings",
    "load_settings",
    "save_settings",
    "with_policy",
    "with_values",
]
