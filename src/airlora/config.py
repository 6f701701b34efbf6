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
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airlora.errors import SettingsError
from airlora.files import read_bytes, write_bytes
from airlora.presets import PRESETS

__all__ = [
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
    "Settings",
    "load_settings",
    "save_settings",
]

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
SnrDb = Annotated[float, Field(ge=-50, le=100)]
BandwidthHz = Annotated[float, Field(gt=0, le=1e12)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelSettings(_Section):
    """Which base model is adapted."""

    name: str = Field("embedded-minilm", description="`embedded-minilm`, a folder, or a Hugging Face id")
    init: Literal["pretrained", "random"] = Field("pretrained", description="`random` reads only the configuration")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the frozen weights")


class DataSettings(_Section):
    """What it is fine-tuned on; without files, the embedded corpus."""

    train: str | None = Field(None, description="TSV, CSV, JSONL, Parquet or `hf:owner/name`; none: embedded corpus")
    eval: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    vocabulary: str | None = Field(None, description="one word a line; none: words that are one token of the model")
    max_length: PositiveInt = Field(128, description="tokens kept of a sample")
    max_eval_samples: PositiveInt | None = None
    num_train: PositiveInt = Field(6000, description="size of the embedded corpus")
    num_eval: PositiveInt = 1000

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.train is None) != (self.eval is None):
            raise ValueError("data.train and data.eval are given together or not at all")
        return self


class AdapterSettings(_Section):
    """The SVD adapter (Eq. 2-3)."""

    r_max: PositiveInt = 8
    scale: Positive = Field(4.0, description="factor of every update; the same at every rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    orthogonality_weight: NonNegative = Field(0.0, description="weight of Eq. 3; 0 costs nothing")
    target_modules: list[str] | None = Field(None, description="endings of module names; none: the six projections")
    head_modules: list[str] | None = Field(None, description="endings of the trained head's names; none: found")
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    nested_probability: Fraction = Field(0.0, description="share of fine-tuning steps at random cuts of every module")


class FinetuneSettings(_Section):
    """Fine-tuning of adapter and head."""

    steps: NonNegativeInt = 600
    batch_size: PositiveInt = 32
    learning_rate: Positive = 2e-3
    head_learning_rate: Positive = 2e-3
    adalora_learning_rate: Positive = Field(1e-2, description="of the baseline, whose components start smaller")
    weight_decay: NonNegative = 0.0
    warmup_fraction: Fraction = 0.06
    decay: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: Positive = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is fast")
    eval_every: PositiveInt = 100
    eval_batch_size: PositiveInt = 128


class ChannelSettings(_Section):
    """The link (Eq. 4-8)."""

    snr_db: list[SnrDb] = Field([-5.0, 0.0, 5.0, 10.0, 15.0], min_length=1, description="mean SNRs drawn from")
    bandwidth_hz: list[BandwidthHz] = Field([5e5], min_length=1, description="bandwidths drawn from")
    fading: Literal["none", "rayleigh", "rician"] = "none"
    k_factor_db: Annotated[float, Field(ge=-50, le=50)] | None = None
    doppler_hz: NonNegative = 0.0
    block_s: Positive = 1.0
    rate: Literal["shannon", "ergodic", "outage"] = "shannon"
    outage_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1
    deadline_s: Positive = 1.0
    bits_per_param: Annotated[float, Field(gt=0, le=64)] = 32.0
    deadline_mode: Literal["price", "project", "penalty"] = Field("project", description="`price` is the paper's")
    penalty_weight: NonNegative = Field(1.0, description="reward lost per unit of eta above 1, mode `penalty`")

    @model_validator(mode="after")
    def _rician_needs_k(self) -> Self:
        if self.fading == "rician" and self.k_factor_db is None:
            raise ValueError("channel.k_factor_db is needed when channel.fading is 'rician'")
        return self


class EnvSettings(_Section):
    """The MDP (IV-A1)."""

    objective: Literal["live", "frozen"] = Field("live", description="train at the chosen ranks, or only measure")
    cost_weight: NonNegative = Field(0.1, description="lambda of Eq. 9 and 10")
    episode_steps: PositiveInt = Field(16, description="T_env of Algorithm 1")
    finetune_steps_per_action: PositiveInt = Field(1, description="k, objective `live`")
    full_rank_steps_per_action: NonNegativeInt = Field(0, description="further steps at full rank, objective `live`")
    frozen_batch_size: PositiveInt = Field(32, description="samples behind one measured loss, objective `frozen`")
    frozen_batches: PositiveInt = Field(16, description="different batches that losses are measured on")


class PPOSettings(_Section):
    """The coarse policy (Eq. 11-12)."""

    hidden_size: PositiveInt = 256
    learning_rate: Positive = 3e-4
    gamma: Fraction = 0.0
    gae_lambda: Fraction = 0.95
    clip_coef: Positive = 0.2
    vf_coef: NonNegative = 0.5
    ent_coef: NonNegative = 0.0
    update_epochs: PositiveInt = 10
    minibatch_size: PositiveInt = 32
    max_grad_norm: Positive = 0.5
    initial_std: Positive = Field(0.3, description="of the Gaussian head, in units of half the rank range")
    initial_rank_fraction: Fraction = Field(0.25, description="mean rank at the start, as a share of r_max")
    latent_size: PositiveInt | None = Field(None, description="length of a_out; none: one per module")


class DiffusionSettings(_Section):
    """The fine policy (Eq. 13-19)."""

    backbone: str = "residual_mlp"
    hidden_size: PositiveInt = 256
    num_blocks: PositiveInt = 2
    time_embedding_size: PositiveInt = 64
    unet_depth: PositiveInt = Field(6, description="resolutions of backbone `unet`; fewer where the modules run out")
    unet_kernel_size: PositiveInt = Field(3, description="odd")
    unet_channels: Annotated[int, Field(ge=8, multiple_of=8)] = Field(32, description="at every resolution")
    num_train_timesteps: PositiveInt = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 2e-2
    prediction_type: str = "epsilon"
    sampler: str = "ddim"
    num_inference_steps: PositiveInt = 50
    eta: Fraction = Field(0.0, description="noise of sampler `ddim`; 1: as much as `ddpm`")
    timestep_spacing: Literal["leading", "linspace", "trailing"] = Field(
        "linspace", description="which of the trained steps a short sampler visits"
    )
    clip_sample: bool = Field(True, description="keep every estimate of x_0 within [-1, 1], where ranks live")
    guidance_scale: NonNegative = Field(1.0, description="w of classifier-free guidance; 1: condition alone, 0: none")
    condition_dropout: Fraction = 0.1
    condition: Literal["a_out", "state", "a_out_and_state"] = "a_out"
    loss: str = "advantage_weighted"
    kappa: NonNegative = Field(0.1, description="weight of the reward in Eq. 19")
    temperature: Positive = Field(0.3, description="of advantage weights, in standard deviations of the advantage")
    learning_rate: Positive = 1e-4
    batch_size: PositiveInt = 64
    updates_per_stage: PositiveInt = 32
    buffer_size: PositiveInt = Field(512, description="newest transitions that the diffusion stage draws from")
    exploration: Fraction = Field(0.1, description="standard deviation added to x_0 while learning, in [-1, 1] units")

    @model_validator(mode="after")
    def _fewer_steps_than_trained(self) -> Self:
        if self.num_inference_steps > self.num_train_timesteps:
            raise ValueError(
                f"diffusion.num_inference_steps = {self.num_inference_steps} is above "
                f"diffusion.num_train_timesteps = {self.num_train_timesteps}"
            )
        if not self.beta_start <= self.beta_end:
            raise ValueError(f"diffusion.beta_start = {self.beta_start} is above beta_end = {self.beta_end}")
        if self.unet_kernel_size % 2 == 0:
            raise ValueError(f"diffusion.unet_kernel_size = {self.unet_kernel_size}: allowed is an odd number")
        return self


class AllocateSettings(_Section):
    """The planner on fitted loss curves."""

    ridge: NonNegative = Field(3e-4, description="penalty on the curves' slopes, relative to the design's scale")
    exploration: Fraction = Field(0.1, description="share of random patterns among those it asks to measure")
    drop_share: Fraction = Field(0.5, description="share of modules given another rank when a plan is measured")
    forms: list[str] = Field(
        ["separable", "text", "pairwise", "text-pairwise-smooth", "text-pairwise", "text-pairwise-rough"],
        min_length=1,
        description="forms of the utility model to choose among by held-out measurements, simplest first",
    )
    num_members: NonNegativeInt = Field(4, description="of the ensemble that says where to measure next")
    refit_growth: Annotated[float, Field(ge=1)] = Field(1.25, description="fit anew when so many times as many")


class CmaSettings(_Section):
    """The search by CMA-ES."""

    population_size: Annotated[int, Field(ge=2)] | None = Field(
        None, description="vectors of a generation; none: 4 + 3 ln(number of modules)"
    )
    initial_std: Positive = Field(0.3, description="in units of half the rank range")
    initial_rank_fraction: Fraction = Field(0.25, description="mean rank at the start, as a share of r_max")


class PolicySettings(_Section):
    """Which policy decides, and how long it learns."""

    name: Literal["airllm", "ppo", "ddim", "cmaes", "allocate", "greedy", "eva", "constant", "random"] = "airllm"
    steps: NonNegativeInt = Field(1024, description="environment steps of learning, objective `frozen`")
    rollout_steps: PositiveInt = Field(64, description="transitions between two learning stages")
    constant_rank: NonNegativeInt = Field(4, description="policy `constant`, also the start of every episode")
    patience: PositiveInt = Field(5, description="evaluations without better accuracy before the paper's early stop")
    early_stop: bool = True


class Settings(_Section):
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
    if name not in PRESETS:
        raise SettingsError.of("preset", name, f"one of {', '.join(sorted(PRESETS))}")
    merged: dict[str, Any] = {"preset": name}
    for layer in (PRESETS[name], *layers, {"preset": name}):
        merged = _merge(merged, layer)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error


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
        place[last] = value
    return nested


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
