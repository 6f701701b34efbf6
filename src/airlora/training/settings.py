"""Settings of a run, composed of one section per package.

A run starts from a preset: `paper-literal` (the paper's method as printed), `paper` (the same, repaired), `standard` (a
workstation with a GPU) or `quick` (minutes on two CPU cores). A TOML file overrides the preset, and single values
override both.
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

__all__ = [
    "FinetuneSettings",
    "Settings",
    "load_settings",
    "read_settings",
    "save_settings",
    "with_policy",
    "with_values",
]


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
    rounding_start: Fraction = 0.8
    """Share of the steps after which a seeded adapter is trained under the rounding of its stream."""
    qat_steps: NonNegativeInt = 0
    """Steps of quantisation-aware fine-tuning (QAT) for a stream, after `steps`. `pack` and `plan` take as many by
    default."""
    qat_prefixes: bool = False
    """Whether QAT also trains prefixes of the run's own stream."""
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

    preset: Literal["paper", "paper-literal", "standard", "quick"] = "quick"
    """Preset whose values the TOML file, the options and `--set` override."""
    task: str = "classification"
    """Task for which the model is fine-tuned."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of the data split, the initial weights, the order of the batches, the links and the policies."""
    num_threads: NonNegativeInt = 0
    """CPU threads that PyTorch uses. 0 uses every core that the process may use, or `OMP_NUM_THREADS` if that is
    smaller."""
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
        """Return device, batch sizes and precision of passes over a data set.

        Args:
            device: Device of the model.
        """
        own = self.finetune
        return ComputeOptions(device, self.seed, own.batch_size, own.eval_batch_size, own.precision)

    @model_validator(mode="after")
    def _seeded_form_is_trained_whole(self) -> Self:
        if self.adapter.form == "seeded":
            # All components share the coefficients, so that a lower rank saves no bytes.
            required = {
                "policy.name": "constant",
                "policy.constant_rank": self.adapter.r_max,
                "env.objective": "frozen",
                "adapter.nested_probability": 0.0,
                "adapter.orthogonality_weight": 0.0,
                "finetune.head_steps": 0,
                "finetune.align_steps": 0,
            }
            for key, value in required.items():
                if (found := value_at(self.model_dump(), key)) != value:
                    raise ValueError(f"{key} = {found!r}: allowed is {value!r} with adapter.form = 'seeded'")
        return self

    @model_validator(mode="after")
    def _start_keeps_the_adapter(self) -> Self:
        if self.adapter.init_from is not None:
            required = {"adapter.form": "free", "finetune.head_steps": 0, "finetune.align_steps": 0}
            for key, value in required.items():
                if (found := value_at(self.model_dump(), key)) != value:
                    raise ValueError(f"{key} = {found!r}: allowed is {value!r} with adapter.init_from")
        return self

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

    Loading runs no code that the settings name: `channel.process` remains a name. A preset's `data.name` gives way to
    `data.train` and `data.eval` of the file or the values.

    Args:
        preset: Preset `paper-literal`, `paper`, `standard` or `quick`. None takes the one that the values or the file
            name, or `quick`.
        toml: Path of a TOML file with any of the sections of `Settings`. For the settings of a run see `read_settings`.
        overrides: Values by dotted key, such as `{"finetune.steps": 100}`.

    Raises:
        SettingsError: The preset or a key is unknown, a value is not allowed, or the file is missing or is not TOML.

    Examples:
        >>> load_settings("paper-literal").ppo.gamma
        0.95
    """
    layers = [read_toml(toml)] if toml is not None else []
    layers.append(nest(overrides or {}))
    name = preset or next((layer["preset"] for layer in reversed(layers) if "preset" in layer), "quick")
    if not isinstance(name, str) or name not in PRESETS:
        raise SettingsError.of("preset", name, f"one of {', '.join(sorted(PRESETS))}")
    layers.append({"preset": name})
    values: Mapping[str, Any] = PRESETS[name]
    given = merge(*layers).get("data")
    if isinstance(given, Mapping) and "name" not in given and given.keys() & {"train", "eval"}:
        values = merge(values, {"data": {"name": None}})
    # The overrides of a policy's spec replace values of the preset, and the user's values replace both.
    section = merge(values, *layers).get("policy")
    chosen = section.get("name") if isinstance(section, Mapping) else None
    spec = policy_specs().get(chosen) if isinstance(chosen, str) else None
    return validate(Settings, merge(values, nest(spec.overrides if spec else {}), *layers))


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
    """Write the settings as a TOML file, which `read_settings` reads to equal settings; raises `StorageError`."""
    write_toml(settings, path)


def read_settings(path: Path | str) -> Settings:
    """Return the settings in a file that `save_settings` wrote.

    Such a file holds all settings but those that are none. Its preset is only a name: values that are missing are the
    defaults of their section. A run therefore keeps its settings when a later version changes a preset.

    Raises:
        SettingsError: The file is missing or is not TOML, a key is unknown or a value is not allowed.
    """
    return validate(Settings, read_toml(path))
