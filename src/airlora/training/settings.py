"""Settings of a run, composed of one section per package.

A run starts from a preset: `paper` (Table II), `standard` (a workstation with a GPU) or `quick` (minutes on two CPU
cores). A TOML file overrides the preset, and single values override both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from airlora.adapters import AdapterSettings
from airlora.channel import ChannelSettings
from airlora.env import EnvSettings
from airlora.errors import SettingsError
from airlora.policy import AllocateSettings, CmaSettings, DiffusionSettings, PolicySettings, PPOSettings
from airlora.policy.specs import find_policy, policy_specs
from airlora.settings.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section
from airlora.settings.loading import merge, nest, read_toml, validate, value_at, write_toml
from airlora.tasks import ComputeOptions, DataSettings, ModelSettings
from airlora.training.presets import PRESETS

__all__ = ["FinetuneSettings", "Settings", "load_settings", "save_settings", "with_policy", "with_values"]


class FinetuneSettings(Section):
    """Fine-tuning of adapter and head."""

    steps: NonNegativeInt = 600
    batch_size: PositiveInt = 32
    learning_rate: Positive = 2e-3
    head_learning_rate: Positive = 2e-3
    adalora_learning_rate: Positive = Field(4e-3, description="of the baseline, whose components start smaller")
    lora_learning_rate: Positive = Field(7e-4, description="of the baseline of one rank for all modules")
    weight_decay: NonNegative = 0.0
    warmup_fraction: Fraction = 0.06
    head_steps: NonNegativeInt = Field(0, description="of `steps`, the first ones, which train the head alone")
    head_start_learning_rate: Positive = Field(5e-3, description="of those; it falls to 0 within them")
    align_steps: NonNegativeInt = Field(
        0, description="of `steps`, the next ones, which turn P and Q to the loss's gradient; 0: both stay random"
    )
    align_norm: Positive = Field(0.4, description="of every vector of P and Q then; shorter ones turn faster")
    decay: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: Positive = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is fast")
    eval_every: PositiveInt = 100
    eval_batch_size: PositiveInt = 128

    @model_validator(mode="after")
    def _start_within_steps(self) -> Self:
        if self.head_steps + self.align_steps > self.steps:
            raise ValueError(
                f"finetune.head_steps + finetune.align_steps = {self.head_steps + self.align_steps}: allowed is at "
                f"most finetune.steps = {self.steps}"
            )
        return self


class Settings(Section):
    """Every setting of a run."""

    preset: Literal["paper", "standard", "quick"] = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    num_threads: NonNegativeInt = Field(0, description="CPU threads of torch; 0: all cores")
    device: str = Field("auto", description="`auto`: CUDA where there is one, else CPU")
    checkpoint_every: PositiveInt = Field(100, description="fine-tuning steps between two checkpoints")
    tensorboard: bool = True
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    adapter: AdapterSettings = AdapterSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    channel: ChannelSettings = ChannelSettings()
    env: EnvSettings = EnvSettings()
    policy: PolicySettings = PolicySettings()
    ppo: PPOSettings = PPOSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    allocate: AllocateSettings = AllocateSettings()
    cma: CmaSettings = CmaSettings()

    def compute_options(self, device: torch.device) -> ComputeOptions:
        """Return how passes over a data set are computed on `device`."""
        own = self.finetune
        return ComputeOptions(device, self.seed, own.batch_size, own.eval_batch_size, own.precision)

    @model_validator(mode="after")
    def _constant_rank_fits(self) -> Self:
        if self.policy.constant_rank > self.adapter.r_max:
            raise ValueError(
                f"policy.constant_rank = {self.policy.constant_rank} is above adapter.r_max = {self.adapter.r_max}"
            )
        return self


def load_settings(
    preset: str | None = None,
    toml: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings of a preset, overridden by the policy's recipe, a TOML file and single values, in this order.

    Loading runs no code that the settings name: `channel.process` remains a name.

    Args:
        preset: Preset `paper`, `standard` or `quick`. None takes the one that the values or the file name, or `quick`.
        toml: Path of a TOML file with any of the sections of `Settings`.
        overrides: Values by dotted key, such as `{"finetune.steps": 100}`.

    Raises:
        SettingsError: The preset or a key is unknown, a value is not allowed, or the file is missing or is not TOML.

    >>> load_settings("paper").ppo.gamma
    0.95
    """
    layers = [read_toml(toml)] if toml is not None else []
    layers.append(nest(overrides or {}))
    name = preset or next((layer["preset"] for layer in reversed(layers) if "preset" in layer), "quick")
    if not isinstance(name, str) or name not in PRESETS:
        raise SettingsError.of("preset", name, f"one of {', '.join(sorted(PRESETS))}")
    layers.append({"preset": name})
    # The overrides of a policy's spec replace values of the preset, and the user's values replace both.
    section = merge(PRESETS[name], *layers).get("policy")
    chosen = section.get("name") if isinstance(section, Mapping) else None
    spec = policy_specs().get(chosen) if isinstance(chosen, str) else None
    return validate(Settings, merge(PRESETS[name], nest(spec.overrides if spec else {}), *layers))


def with_values(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings with some values changed.

    Args:
        settings: Settings to start from. They do not change.
        overrides: Values by dotted key, such as `{"finetune.steps": 100}`.

    Raises:
        SettingsError: A key is unknown, or a value is not allowed.
    """
    return validate(Settings, merge(settings.model_dump(), nest(overrides)))


def with_policy(settings: Settings, name: str) -> Settings:
    """Return the settings with another policy and the overrides of its spec.

    Overrides of the former policy return to the preset's values, unless they were changed. The mapping
    `policy.settings` of the former policy is dropped.

    Args:
        settings: Settings to start from. They do not change.
        name: Name of a known policy.

    Raises:
        SettingsError: The policy is unknown.
    """
    overrides = find_policy(name).overrides
    values, preset = settings.model_dump(), Settings.model_validate(PRESETS[settings.preset]).model_dump()
    if name != settings.policy.name:
        values["policy"]["settings"] = {}
    former = policy_specs().get(settings.policy.name)
    for key, value in former.overrides.items() if former else ():
        if not key.startswith("policy.settings.") and value_at(values, key) == value:
            values = merge(values, nest({key: value_at(preset, key)}))
    return Settings.model_validate(merge(values, nest({**overrides, "policy.name": name})))


def save_settings(settings: Settings, path: Path | str) -> None:
    """Write the settings as a TOML file, which `load_settings` reads to equal settings; raises `StorageError`."""
    write_toml(settings, path)
