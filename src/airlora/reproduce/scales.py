"""Scales of a reproduction: model, steps, seeds and objective for a machine and a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Size of a reproduction.

    Args:
        name: Name of the scale.
        summary: Hardware and duration, for the report.
        overrides: Settings by dotted key, over the preset.
        objective: `frozen` trains one adapter per r_max and measures ranks on it; `live` fine-tunes at the chosen
            ranks, as the paper does.
        num_seeds: Default number of seeds.
        evaluations: Losses that a policy measures on a frozen adapter.
        tunes_rates: Whether the learning rate of every family of methods is chosen among `RATE_FACTORS`.
        caps: Upper bounds of settings by dotted key, by method.
        keeps_bandwidth: Whether the link has the paper's 100 MHz. Otherwise the bandwidth is scaled by the size of the
            model's components, which leaves the communication cost of every rank as in the paper.
        seconds: Expected duration of a step on one core, s: of fine-tuning, and of a decision with its measurement.
    """

    name: str
    summary: str
    overrides: Mapping[str, Any]
    objective: Literal["frozen", "live"]
    num_seeds: int
    evaluations: int = 0
    tunes_rates: bool = False
    caps: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    keeps_bandwidth: bool = False
    seconds: tuple[float, float] = (0.2, 0.1)


_SMALL = {
    "model.attn_implementation": "eager",
    "adapter.scale": 8.0,
    "data.max_length": 64,
    "finetune.learning_rate": 4e-3,
    "finetune.head_learning_rate": 1e-2,
    "finetune.adalora_learning_rate": 3e-3,
    "finetune.precision": "float32",
    "tensorboard": False,
    "policy.early_stop": False,
}

UNET = "PPO+DDIM/U-Net"
"""Method whose training is bounded at small scales: an update takes about 100 times as long as with the MLP."""

SCALES: Mapping[str, Scale] = {
    "quick": Scale(
        "quick",
        "two CPU cores, half an hour; one seed decides no claim",
        {
            **_SMALL,
            "model.name": "embedded-minilm",
            "data.max_train_samples": 6000,
            "data.max_eval_samples": 400,
            "data.num_eval": 400,
            "env.frozen_batch_size": 16,
            "finetune.steps": 100,
            "finetune.eval_every": 100,
            "adapter.r_max": 16,
        },
        "frozen",
        num_seeds=1,
        evaluations=180,
        caps={
            UNET: {
                "diffusion.updates_per_stage": 2,
                "diffusion.warmup_updates": 50,
                "diffusion.num_inference_steps": 10,
            }
        },
        seconds=(0.45, 0.3),
    ),
    "standard": Scale(
        "standard",
        "two CPU cores, some hours, or any GPU",
        {
            **_SMALL,
            "model.name": "embedded-minilm",
            "data.max_train_samples": 20_000,
            "finetune.steps": 400,
            "finetune.eval_every": 400,
        },
        "live",
        num_seeds=5,
        evaluations=400,
        tunes_rates=True,
        caps={UNET: {"diffusion.updates_per_stage": 4, "diffusion.warmup_updates": 200}},
        seconds=(0.45, 0.3),
    ),
    "paper": Scale(
        "paper",
        "OPT-1.3B and a GPU",
        {"policy.early_stop": False, "tensorboard": False},
        "live",
        num_seeds=5,
        evaluations=15_000,
        tunes_rates=True,
        keeps_bandwidth=True,
        seconds=(0.5, 0.5),
    ),
}
"""Scales by name."""
