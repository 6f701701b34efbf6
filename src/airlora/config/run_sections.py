"""Settings of model, data, adapter, fine-tuning, link and environment."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from airlora.config.fields import (
    BandwidthHz,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Section,
    SnrDb,
)

__all__ = ["AdapterSettings", "ChannelSettings", "DataSettings", "EnvSettings", "FinetuneSettings", "ModelSettings"]


class ModelSettings(Section):
    """Which base model is adapted."""

    name: str = Field("embedded-minilm", description="`embedded-minilm`, a folder, or a Hugging Face id")
    init: Literal["pretrained", "random"] = Field("pretrained", description="`random` reads only the configuration")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the frozen weights")
    dropout: bool = Field(True, description="the model's own, while an adapter is trained; also that of PEFT's")


class DataSettings(Section):
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


class AdapterSettings(Section):
    """The SVD adapter (Eq. 2-3)."""

    r_max: PositiveInt = 8
    scale: Positive = Field(4.0, description="factor of every update; the same at every rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    orthogonality_weight: NonNegative = Field(0.0, description="weight of Eq. 3; 0 costs nothing")
    target_modules: list[str] | None = Field(None, description="endings of module names; none: the six projections")
    head_modules: list[str] | None = Field(None, description="endings of the trained head's names; none: found")
    ffn_update: Literal["weight", "residual"] = Field(
        "weight",
        description="of the FFN's projections: on the weight, or on the d_model side, with 2.5 times fewer numbers",
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    nested_probability: Fraction = Field(0.0, description="share of fine-tuning steps at random cuts of every module")


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


class ChannelSettings(Section):
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


class EnvSettings(Section):
    """The MDP (IV-A1)."""

    objective: Literal["live", "frozen"] = Field("live", description="train at the chosen ranks, or only measure")
    cost_weight: NonNegative = Field(0.1, description="lambda of Eq. 9 and 10")
    episode_steps: PositiveInt = Field(16, description="T_env of Algorithm 1")
    finetune_steps_per_action: PositiveInt = Field(1, description="k, objective `live`")
    full_rank_steps_per_action: NonNegativeInt = Field(0, description="further steps at full rank, objective `live`")
    frozen_batch_size: PositiveInt = Field(32, description="samples behind one measured loss, objective `frozen`")
    frozen_batches: PositiveInt = Field(16, description="different batches that losses are measured on")
