"""Sections of settings for model, data, adapter, fine-tuning, link and environment."""

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
    """Settings of the base model."""

    name: str = "embedded-minilm"
    """Base model: `embedded-minilm`, a folder, or a Hugging Face id."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`pretrained` loads the weights. `random` loads configuration and tokenizer and draws the weights, for tests."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers. On a CPU, `eager` is faster for short padded texts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights."""
    dropout: bool = True
    """Keep the base model's own dropout while an adapter is trained. Applies to PEFT's baselines, too."""


class DataSettings(Section):
    """Settings of the training and evaluation data."""

    train: str | None = None
    """Training data: a TSV, CSV, JSONL or Parquet file, or `hf:owner/name`. None uses the embedded corpus."""
    eval: str | None = None
    """Held-out data that accuracy is measured on, in the same formats. Required with `data.train`."""
    text_column: str = "text"
    """Name of the column that holds the text."""
    label_column: str = "label"
    """Name of the column that holds the label."""
    vocabulary: str | None = None
    """File of known words, one a line, for the OOV rate. None counts a word as known if it is one token of the
    model."""
    max_length: PositiveInt = 128
    """Tokens kept of each sample. Longer samples are truncated."""
    max_eval_samples: PositiveInt | None = None
    """Samples used of `data.eval`, the first ones. None uses all."""
    num_train: PositiveInt = 6000
    """Training samples of the embedded corpus."""
    num_eval: PositiveInt = 1000
    """Held-out samples of the embedded corpus."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.train is None) != (self.eval is None):
            raise ValueError("data.train and data.eval are given together or not at all")
        return self


class AdapterSettings(Section):
    """Settings of the SVD adapter (Eq. 2 and 3)."""

    r_max: PositiveInt = 8
    """Largest rank of a module: the number of components that are trained for it."""
    scale: Positive = 4.0
    """Factor s of every update, the same at every rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability on the inputs of the updates while training."""
    orthogonality_weight: NonNegative = 0.0
    """Weight of the orthogonality penalty (Eq. 3) in the training loss. 0 skips its computation."""
    target_modules: list[str] | None = None
    """Endings of the names of the modules to adapt. None adapts the six projections of each layer (Eq. 1)."""
    head_modules: list[str] | None = None
    """Endings of the names of the modules of the classification head. None finds the names that transformers uses."""
    ffn_update: Literal["weight", "residual"] = "weight"
    """Where the update of an FFN projection acts: on its weight, or on the residual stream beside it. The second
    takes 2.5 times fewer parameters where the FFN is four times as wide as the model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the adapter's parameters."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass. Saves memory and costs time."""
    nested_probability: Fraction = 0.0
    """Share of fine-tuning steps that train at random ranks instead of the requested ones."""


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


class ChannelSettings(Section):
    """Settings of the radio link (Eq. 4 to 8)."""

    snr_db: list[SnrDb] = Field([-5.0, 0.0, 5.0, 10.0, 15.0], min_length=1)
    """Mean SNRs, dB. Each episode draws one."""
    bandwidth_hz: list[BandwidthHz] = Field([5e5], min_length=1)
    """Bandwidths, Hz. Each episode draws one."""
    fading: Literal["none", "rayleigh", "rician"] = "none"
    """Fading of the channel gain from block to block."""
    k_factor_db: Annotated[float, Field(ge=-50, le=50)] | None = None
    """Rician K factor, dB. Required with `rician` fading."""
    doppler_hz: NonNegative = 0.0
    """Largest Doppler shift, Hz. With 0 the gain stays the same for an episode."""
    block_s: Positive = 1.0
    """Length of a fading block, s. Each step of the environment moves on by one block."""
    rate: Literal["shannon", "ergodic", "outage"] = "shannon"
    """Rate model of Eq. 5: the rate at the SNR of the block (`shannon`), its mean over the fading (`ergodic`), or
    the rate that fails with probability `outage_epsilon` (`outage`)."""
    outage_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Probability of an outage, for the rate model `outage`."""
    deadline_s: Positive = 1.0
    """Deadline of a transfer, s (T_max of Eq. 7)."""
    bits_per_param: Annotated[float, Field(gt=0, le=64)] = 32.0
    """Bits that each parameter takes on the link (b of Eq. 6)."""
    deadline_mode: Literal["price", "project", "penalty"] = "project"
    """Treatment of a rank pattern that exceeds the deadline: `price` only counts its cost, as the paper does;
    `project` truncates it to the budget; `penalty` lowers its reward."""
    penalty_weight: NonNegative = 1.0
    """Reward lost per unit of η above 1, for the mode `penalty`."""

    @model_validator(mode="after")
    def _rician_needs_k(self) -> Self:
        if self.fading == "rician" and self.k_factor_db is None:
            raise ValueError("channel.k_factor_db is needed when channel.fading is 'rician'")
        return self


class EnvSettings(Section):
    """Settings of the decision problem, a Markov decision process (IV-A1)."""

    objective: Literal["live", "frozen"] = "live"
    """Loss of a decision: `live` trains the adapter at the chosen ranks; `frozen` measures an adapter that was
    fine-tuned at full rank."""
    cost_weight: NonNegative = 0.1
    """Weight λ of the communication cost η (Eq. 9 and 10)."""
    episode_steps: PositiveInt = 16
    """Steps of an episode (T_env of Algorithm 1)."""
    finetune_steps_per_action: PositiveInt = 1
    """Fine-tuning steps at the chosen ranks per decision, for the objective `live`."""
    full_rank_steps_per_action: NonNegativeInt = 0
    """Additional fine-tuning steps at full rank per decision, for the objective `live`."""
    frozen_batch_size: PositiveInt = 32
    """Samples of one loss measurement, for the objective `frozen`."""
    frozen_batches: PositiveInt = 16
    """Batches of calibration samples that losses are measured on. At most a tenth of the training data is taken."""
