"""The settings of a run: checked on the way in, written beside every run, read back from TOML.

`Settings` holds one section per room.  Three presets are a start: `paper` (Table II), `standard` (a workstation with a
GPU) and `quick` (two CPU cores, minutes).  A TOML file and then single values are laid over the preset.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import Field, ValidationError, model_validator

from airlora.adapters import AdapterSettings
from airlora.channel import ChannelSettings
from airlora.env import EnvSettings
from airlora.errors import SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.policy import (
    AllocateSettings,
    CmaSettings,
    DiffusionSettings,
    PolicySettings,
    PPOSettings,
    find_policy,
    policy_specs,
)
from airlora.settings.errors import explain
from airlora.settings.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section
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
    """Return the settings of a preset with a TOML file and single values laid over it.

    Args:
        preset: `paper`, `standard` or `quick`; the default is the file's, or else `quick`.
        toml: A TOML file with any of the sections of `Settings`.
        overrides: Dotted keys to values, such as `{"finetune.steps": 100}`; they win.

    Raises:
        SettingsError: An unknown preset or key, a value that is not allowed (key, value and what is allowed are
            named), or a file that is missing or no TOML.

    >>> load_settings("paper").ppo.gamma
    0.95
    """
    layers: list[Mapping[str, Any]] = []
    if toml is not None:
        layers.append(_read_toml(toml))
    layers.append(_nest(overrides or {}))
    name = preset or next((layer["preset"] for layer in reversed(layers) if "preset" in layer), "quick")
    if not isinstance(name, str) or name not in PRESETS:
        raise SettingsError.of("preset", name, f"one of {', '.join(sorted(PRESETS))}")
    merged: dict[str, Any] = {"preset": name}
    for layer in (PRESETS[name], *layers, {"preset": name}):
        merged = _merge(merged, layer)
    # The overrides of a policy's spec replace values of the preset; the user's values replace both.
    section = merged.get("policy")
    chosen = section.get("name") if isinstance(section, Mapping) else None
    spec = policy_specs().get(chosen) if isinstance(chosen, str) else None
    if spec is not None and spec.overrides:
        merged = {"preset": name}
        for layer in (PRESETS[name], _nest(spec.overrides), *layers, {"preset": name}):
            merged = _merge(merged, layer)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(explain(error, Settings)) from error


def with_values(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings with some values changed; dotted keys, and errors as of `load_settings`."""
    try:
        return Settings.model_validate(_merge(settings.model_dump(), _nest(overrides)))
    except ValidationError as error:
        raise SettingsError(explain(error, Settings)) from error


def with_policy(settings: Settings, name: str) -> Settings:
    """Return the settings with another policy and the overrides of its spec.

    Overrides of the former policy return to the preset's values, unless they were changed since. The mapping
    `policy.settings` of the former policy is dropped.

    Raises:
        SettingsError: The name is unknown.
    """
    overrides = find_policy(name).overrides
    values, preset = settings.model_dump(), Settings.model_validate(PRESETS[settings.preset]).model_dump()
    if name != settings.policy.name:
        values["policy"]["settings"] = {}
    former = policy_specs().get(settings.policy.name)
    for key, value in former.overrides.items() if former else ():
        if not key.startswith("policy.settings.") and _at(values, key) == value:
            values = _merge(values, _nest({key: _at(preset, key)}))
    return Settings.model_validate(_merge(values, _nest({**overrides, "policy.name": name})))


def save_settings(settings: Settings, path: Path | str) -> None:
    """Write the resolved settings as TOML that `load_settings` reads back to equal settings; raises `StorageError`."""
    write_bytes(path, tomli_w.dumps(settings.model_dump(exclude_none=True)).encode())


def _read_toml(path: Path | str) -> dict[str, Any]:
    data = read_bytes(path, "settings file", SettingsError)
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:
        raise SettingsError(f"settings file {path}: not valid TOML ({error})") from error


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError.of(section, place, f"a section, since {key} is given too")
        place[last] = value
    return nested


def _at(nested: Mapping[str, Any], key: str) -> Any:
    value: Any = nested
    for part in key.split("."):
        value = value[part]
    return value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
