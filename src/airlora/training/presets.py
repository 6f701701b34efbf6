"""Presets of settings, and the values of the paper's Table II."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS", "TABLE_II"]

TABLE_II: Mapping[str, tuple[Any, ...]] = {
    "ppo.hidden_size": (256,),
    "ppo.gamma": (0.95,),
    "ppo.gae_lambda": (0.95,),
    "finetune.batch_size": (32,),
    "ppo.learning_rate": (1e-4,),
    "diffusion.learning_rate": (5e-5,),
    "seed": (42,),
    "diffusion.kappa": (0.1,),
    "env.cost_weight": (0.1, 0.01, 1.0),
    "finetune.steps": (15_000,),
    "diffusion.num_inference_steps": (50, 30, 100),
    "diffusion.num_train_timesteps": (1000, 600, 800),
    "ppo.clip_coef": (0.2,),
    "finetune.eval_every": (100,),
    "adapter.r_max": (64, 8, 16, 32, 128),
    "channel.snr_db": ([-5.0, 0.0, 5.0, 10.0, 15.0],),
    "channel.bandwidth_hz": ([1e8],),
    "channel.deadline_s": (1.0,),
    "channel.bits_per_param": (32.0,),
    "diffusion.prediction_type": ("epsilon", "v_prediction", "sample"),
    "diffusion.beta_schedule": ("scaled_linear", "linear", "cosine"),
    "diffusion.unet_depth": (6,),
    "diffusion.unet_kernel_size": (3,),
}
"""Values of each setting in Table II. The preset `paper` uses the first; the paper's sweeps use the others too."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "model": {"attn_implementation": "eager"},
        "env": {"objective": "frozen"},
        "policy": {"name": "greedy"},
        "diffusion": {"num_inference_steps": 10},
    },
    "standard": {
        "adapter": {"r_max": 16},
        "finetune": {"steps": 3000, "learning_rate": 1e-3},
        "channel": {"bandwidth_hz": [3e5, 1e6, 3e6, 1e7], "fading": "rayleigh", "doppler_hz": 0.1},
        "env": {"objective": "frozen"},
        "policy": {"name": "greedy", "steps": 20_000, "rollout_steps": 256},
    },
    "paper": {
        "model": {"name": "facebook/opt-1.3b"},
        "adapter": {"r_max": 64, "orthogonality_weight": 0.1},
        "finetune": {"steps": 15_000, "batch_size": 32, "eval_every": 100},
        "channel": {"bandwidth_hz": [1e8], "deadline_s": 1.0, "deadline_mode": "price"},
        "env": {"objective": "live", "cost_weight": 0.1},
        "policy": {"name": "airllm", "patience": 5, "steps": 0},
        "ppo": {"learning_rate": 1e-4, "gamma": 0.95, "gae_lambda": 0.95, "clip_coef": 0.2, "hidden_size": 256},
        "diffusion": {
            "learning_rate": 5e-5,
            "kappa": 0.1,
            "num_inference_steps": 50,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "beta_schedule": "scaled_linear",
            "loss": "literal",
        },
    },
}
