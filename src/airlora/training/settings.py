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
from pydantic import BaseModel, Field, ValidationError, model_validator

from airlora.adapters import AdapterSettings
from airlora.channel import ChannelSettings
from airlora.env import EnvSettings
from airlora.errors import SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.policy import RECIPES, AllocateSettings, CmaSettings, DiffusionSettings, PolicySettings, PPOSettings
from airlora.settings.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section
from airlora.tasks import ComputeOptions, DataSettings, ModelSettings
from airlora.training.presets import PRESETS

__all__ = ["FinetuneSettings", "Settings", "load_settings", "save_settings", "with_policy", "with_values"]


class FinetuneSettings(Section):
    """Settings of the fine-tuning of adapter and classification head."""

    steps: NonNegativeInt = 600
    """Fine-tuning steps. `head_steps` and `align_steps` are part of them."""
    batch_size: PositiveInt = 32
    """Samples in a fine-tuning batch."""
    learning_rate: Positive = 2e-3
    """Peak learning rate of the components (AdamW)."""
    head_learning_rate: Positive = 2e-3
    """Peak learning rate of the classification head (AdamW)."""
    adalora_learning_rate: Positive = 4e-3
    """Peak learning rate of the baseline PEFT AdaLoRA, whose components start smaller."""
    lora_learning_rate: Positive = 7e-4
    """Peak learning rate of the baseline PEFT LoRA."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    warmup_fraction: Fraction = 0.06
    """Share of the steps after `head_steps` and `align_steps` in which the learning rate rises from 0."""
    head_steps: NonNegativeInt = 0
    """First fine-tuning steps, which train the classification head alone."""
    head_start_learning_rate: Positive = 5e-3
    """Learning rate of the head at the first of the `head_steps`. It falls linearly towards 0 within them."""
    align_steps: NonNegativeInt = 0
    """Steps after `head_steps` whose gradient P and Q are aligned with. 0 keeps P and Q random."""
    align_norm: Positive = 0.4
    """Norm of each vector of P and Q after the alignment. Shorter vectors change direction faster."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after the warm-up."""
    max_grad_norm: Positive = 1.0
    """Norm that gradients are clipped to."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of forward passes in training and loss measurements. `auto` takes bfloat16 where the hardware
    computes it natively, else float32."""
    eval_every: PositiveInt = 100
    """Fine-tuning steps between two measurements of accuracy."""
    eval_batch_size: PositiveInt = 128
    """Samples in an evaluation batch."""

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
    """Preset whose values the TOML file, the options and `--set` override."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of the data split, the initial weights, the order of the batches, the links and the policies."""
    num_threads: NonNegativeInt = 0
    """CPU threads that PyTorch uses. 0 uses every core that the process may use."""
    device: str = "auto"
    """PyTorch device: `auto`, `cpu`, or a name such as `cuda:0`. `auto` takes CUDA where there is a GPU, else the
    CPU."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints, both while fine-tuning and while the policy learns."""
    tensorboard: bool = True
    """Also write the metrics for TensorBoard, beside `metrics.jsonl`."""
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
    # What a policy's recipe sets lies above the preset and below whatever the user says.
    section = merged.get("policy")
    chosen = section.get("name") if isinstance(section, Mapping) else None
    recipe = RECIPES.get(chosen) if isinstance(chosen, str) else None
    if recipe is not None and recipe.settings:
        merged = {"preset": name}
        for layer in (PRESETS[name], _nest(recipe.settings), *layers, {"preset": name}):
            merged = _merge(merged, layer)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error


def with_values(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings with some values changed; dotted keys, and errors as of `load_settings`."""
    try:
        return Settings.model_validate(_merge(settings.model_dump(), _nest(overrides)))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error


def with_policy(settings: Settings, name: str) -> Settings:
    """Return the settings with another policy, and what its recipe sets; raises `SettingsError` for an unknown name.

    What the former policy's recipe set goes back to the preset, unless it was changed since.
    """
    if name not in RECIPES:
        raise SettingsError.of("policy.name", name, f"one of {', '.join(RECIPES)}")
    values, preset = settings.model_dump(), Settings.model_validate(PRESETS[settings.preset]).model_dump()
    former = {
        key: _at(preset, key)
        for key, value in RECIPES[settings.policy.name].settings.items()
        if _at(values, key) == value
    }
    merged = _merge(_merge(values, _nest(former)), _nest({**RECIPES[name].settings, "policy.name": name}))
    return Settings.model_validate(merged)


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


def _explain(error: ValidationError) -> str:
    """Return the first problem as `key = value: what is allowed`, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        text = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        text = f"{key}: no such setting; {_known_keys(first['loc'][:-1])}"
    else:
        allowed = first["msg"].removeprefix("Input should be ").removeprefix("List should have ")
        text = f"{key} = {first['input']!r}: allowed is {allowed}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return text + more


def _known_keys(section: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Settings
    for part in section:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    where = ".".join(str(part) for part in section) or "the settings"
    return f"{where} has {', '.join(model.model_fields)}"
