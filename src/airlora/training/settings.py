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
from airlora.policy import RECIPES, AllocateSettings, CmaSettings, DiffusionSettings, PolicySettings, PPOSettings
from airlora.settings.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section
from airlora.settings.loading import merge, nest, read_toml, validate, value_at, write_toml
from airlora.tasks import ComputeOptions, DataSettings, ModelSettings
from airlora.training.presets import PRESETS

__all__ = ["FinetuneSettings", "Settings", "load_settings", "save_settings", "with_policy", "with_values"]


class FinetuneSettings(Section):
    """Settings of the fine-tuning of adapter and head, and of PEFT's baselines."""

    steps: NonNegativeInt = Field(600, description="Number of fine-tuning steps.")
    batch_size: PositiveInt = Field(32, description="Number of samples per fine-tuning step.")
    learning_rate: Positive = Field(2e-3, description="Learning rate of the adapter.")
    head_learning_rate: Positive = Field(2e-3, description="Learning rate of the head.")
    adalora_learning_rate: Positive = Field(4e-3, description="Learning rate of PEFT's AdaLoRA baseline.")
    lora_learning_rate: Positive = Field(7e-4, description="Learning rate of the adapter of PEFT's LoRA baseline.")
    weight_decay: NonNegative = Field(0.0, description="Weight decay of AdamW.")
    warmup_fraction: Fraction = Field(0.06, description="Fraction of the steps with a rising learning rate.")
    head_steps: NonNegativeInt = Field(0, description="Number of initial steps that train only the head.")
    head_start_learning_rate: Positive = Field(5e-3, description="Learning rate of the first head step. It falls to 0.")
    align_steps: NonNegativeInt = Field(
        0,
        description="Number of steps after `head_steps` that align P and Q with the gradient of the loss.",
    )
    align_norm: Positive = Field(0.4, description="Norm of the aligned vectors of P and Q. Shorter ones turn faster.")
    decay: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Decay of the learning rate after the warm-up."
    )
    max_grad_norm: Positive = Field(1.0, description="Norm to which the gradient is clipped.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of forward passes. `auto`: bfloat16 if the hardware multiplies it natively."
    )
    eval_every: PositiveInt = Field(100, description="Number of steps between two evaluations.")
    eval_batch_size: PositiveInt = Field(128, description="Number of samples per forward pass of an evaluation.")

    @property
    def scheduler_name(self) -> str:
        """Name of the learning-rate schedule in `transformers`."""
        return "constant_with_warmup" if self.decay == "constant" else self.decay

    @model_validator(mode="after")
    def _start_within_steps(self) -> Self:
        if self.head_steps + self.align_steps > self.steps:
            raise ValueError(
                f"finetune.head_steps + finetune.align_steps = {self.head_steps + self.align_steps}: allowed is at "
                f"most finetune.steps = {self.steps}"
            )
        return self


class Settings(Section):
    """Settings of a run. Each section belongs to a package."""

    preset: Literal["paper", "standard", "quick"] = Field("quick", description="Preset under all other settings.")
    task: str = Field("classification", description="Task for which the model is fine-tuned.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(42, description="Seed of all random numbers of the run.")
    num_threads: NonNegativeInt = Field(0, description="Number of CPU threads of torch. 0: all cores.")
    device: str = Field("auto", description="Torch device, such as `cpu` or `cuda:0`. `auto`: CUDA if available.")
    checkpoint_every: PositiveInt = Field(100, description="Number of steps between two checkpoints.")
    tensorboard: bool = Field(True, description="Whether metrics are also written for TensorBoard.")
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
        """Return device, batch sizes and precision of passes over a data set.

        Args:
            device: Device of the model.
        """
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
    # The values of a policy's recipe override the preset, and the user's values override both.
    section = merge(PRESETS[name], *layers).get("policy")
    chosen = section.get("name") if isinstance(section, Mapping) else None
    recipe = RECIPES.get(chosen) if isinstance(chosen, str) else None
    return validate(Settings, merge(PRESETS[name], nest(recipe.settings if recipe else {}), *layers))


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
    """Return the settings with another policy and the values of its recipe.

    Values of the former policy's recipe return to those of the preset, unless they were changed.

    Args:
        settings: Settings to start from. They do not change.
        name: Name of the policy.

    Raises:
        SettingsError: The policy is unknown.
    """
    if name not in RECIPES:
        raise SettingsError.of("policy.name", name, f"one of {', '.join(RECIPES)}")
    values, preset = settings.model_dump(), Settings.model_validate(PRESETS[settings.preset]).model_dump()
    former = {
        key: value_at(preset, key)
        for key, value in RECIPES[settings.policy.name].settings.items()
        if value_at(values, key) == value
    }
    return Settings.model_validate(merge(values, nest(former), nest({**RECIPES[name].settings, "policy.name": name})))


def save_settings(settings: Settings, path: Path | str) -> None:
    """Write the settings as a TOML file, which `load_settings` reads to equal settings; raises `StorageError`."""
    write_toml(settings, path)
