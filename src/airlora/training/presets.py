"""Presets of settings, the values of the paper's Table II, and the repairs of the paper's method.

| preset | settings |
|---|---|
| `quick`, `standard` | for two CPU cores, and for a workstation with a GPU |
| `paper-literal` | the paper's method and Table II, everything as printed |
| `paper` | `paper-literal` with all `REPAIRS` |
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airlora.errors import SettingsError
from airlora.settings.loading import merge, nest, value_at
from airlora.tasks import find_task

__all__ = [
    "MIN_SEEDED_BYTES",
    "PRESETS",
    "REPAIRS",
    "TABLE_II",
    "Repair",
    "recipe_for_sizes",
    "seeded_recipe",
    "with_repairs",
    "without_repairs",
]

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
"""Values of each setting in Table II. `paper-literal` uses the first, and so does `paper` unless a repair of `REPAIRS`
changes it. The paper's sweeps use the others."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A change of the paper's method that the preset `paper` makes, and that can be left out alone.

    Args:
        summary: Effect of the repair, in one line.
        overrides: Values in `paper` of some settings by dotted key. No other repair sets the same keys.
        erratum: Number of the paper's erratum that is repaired, see the page on the paper's presets. None if nothing
            printed is wrong.
    """

    summary: str
    overrides: Mapping[str, Any]
    erratum: int | None = None


REPAIRS: Mapping[str, Repair] = {
    "one-step-advantage": Repair(
        "an action is judged by its own reward alone, since later rewards do not depend on it and add noise",
        {"ppo.gamma": 0.0},
    ),
    "exact-x0": Repair(
        "Eq. 17 takes x_0 from Eq. 14 instead of Eq. 16, clipped to the range of ranks",
        {"diffusion.x0_estimate": "exact", "diffusion.clip_sample": True},
        erratum=2,
    ),
    "identity-start": Repair(
        "the diffusion starts as the identity and every stage rehearses it, so that PPO steers from the first step",
        {"diffusion.warmup_updates": 500, "diffusion.rehearsal_weight": 1.0},
    ),
    "replay": Repair(
        "a diffusion stage takes 32 updates on several stages' transitions, instead of 1,000 on the last episode",
        {
            "diffusion.buffer_size": 512,
            "diffusion.batch_size": 64,
            "diffusion.timestep_order": "random",
            "diffusion.updates_per_stage": 32,
        },
        erratum=12,
    ),
    "plain-guidance": Repair(
        "a sample takes the conditional prediction alone, and so half the network calls",
        {"diffusion.guidance_scale": 1.0},
    ),
    "trend": Repair(
        "the trend of the losses is subtracted from the reward, since losses fall while the model is fine-tuned",
        {"env.reward_trend_steps": 100},
    ),
}
"""Repairs of the preset `paper` by name."""

_LITERAL: Mapping[str, Any] = {
    "model": {"name": "facebook/opt-1.3b"},
    "data": {"name": "sst2"},
    "adapter": {"r_max": 64, "orthogonality_weight": 0.1},
    "finetune": {"steps": 15_000, "batch_size": 32, "eval_every": 100},
    "channel": {
        "snr_db": [-5.0, 0.0, 5.0, 10.0, 15.0],
        "bandwidth_hz": [1e8],
        "fading": "none",
        "deadline_s": 1.0,
        "bits_per_param": 32.0,
        "deadline_mode": "price",
    },
    "env": {
        "objective": "live",
        "cost_weight": 0.1,
        "episode_steps": 15,
        "decision_steps": 15,
        "reward_trend_steps": 0,
    },
    "policy": {"name": "airllm", "steps": 0, "rollout_steps": 15, "patience": 5, "early_stop": True},
    "ppo": {"learning_rate": 1e-4, "gamma": 0.95, "gae_lambda": 0.95, "clip_coef": 0.2, "hidden_size": 256},
    "diffusion": {
        "learning_rate": 5e-5,
        "kappa": 0.1,
        "num_inference_steps": 50,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "beta_schedule": "scaled_linear",
        "loss": "literal",
        "x0_estimate": "posterior_mean",
        "clip_sample": False,
        "all_ddpm_steps": True,
        # The paper uses classifier-free guidance and states no scale.
        "guidance_scale": 1.5,
        "condition_dropout": 0.1,
        "warmup_updates": 0,
        "rehearsal_weight": 0.0,
        "exploration": 0.0,
        "num_decision_samples": 1,
        "timestep_order": "sweep",
        "updates_per_stage": 1000,
        "batch_size": 32,
        "buffer_size": 15,
        "unet_depth": 6,
        "unet_kernel_size": 3,
        "unet_channel_growth": 2,
    },
}


def with_repairs(*names: str) -> dict[str, Any]:
    """Return the settings that add some repairs to the preset `paper-literal`, by dotted key.

    Args:
        names: Keys of `REPAIRS`. None given means no repair.

    Raises:
        SettingsError: There is no such repair.

    Examples:
        >>> with_repairs("plain-guidance")
        {'diffusion.guidance_scale': 1.0}
    """
    return {key: value for name in names for key, value in _find(name).overrides.items()}


def without_repairs(*names: str) -> dict[str, Any]:
    """Return the settings that leave some repairs out of the preset `paper`, by dotted key.

    Args:
        names: Keys of `REPAIRS`. None given means all repairs are kept.

    Raises:
        SettingsError: There is no such repair.

    Examples:
        >>> without_repairs("one-step-advantage", "plain-guidance")
        {'ppo.gamma': 0.95, 'diffusion.guidance_scale': 1.5}
    """
    return {key: value_at(_LITERAL, key) for key in with_repairs(*names)}


def _find(name: str) -> Repair:
    if name not in REPAIRS:
        raise SettingsError.of("repair", name, f"one of {', '.join(REPAIRS)}")
    return REPAIRS[name]


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
    "paper-literal": _LITERAL,
    "paper": merge(_LITERAL, nest(with_repairs(*REPAIRS))),
}
"""Values of every preset that differ from the defaults of the sections, or that the paper states."""

SEEDED_RANK = 16
"""Rank of a seeded adapter. All components share the coefficients, so that it does not change the size."""

MIN_SEEDED_BYTES = 1000
"""Smallest size of a seeded stream. Header and classification head alone take about 420 bytes."""

BEST_SEEDED_BYTES = 2500
"""Largest size at which a seeded stream is better than one of free components (docs/decisions/0022)."""

MIN_CHUNK_BYTES = 200
"""Least difference between two sizes of one stream, bytes."""

_QAT_SHARE = 0.2
_FIXED_BYTES, _BYTES_PER_CHUNK, _BITS_PER_COEFFICIENT = 420, 50, 1.7


def recipe_for_sizes(*sizes_bytes: int, steps: int, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings that train the best adapter for one or several sizes of its stream, by dotted key.

    Args:
        sizes_bytes: Size of the stream and of the prefixes that are trained too, bytes.
        steps: Training steps in all.
        given: Settings that replace those of the recipe, by dotted key. The others follow from `task`,
            `adapter.form`, `adapter.r_max` and `finetune.qat_steps` among them.

    Raises:
        SettingsError: A size cannot be trained, or QAT leaves no other step.

    Examples:
        >>> recipe_for_sizes(2000, steps=1000)["adapter.form"]
        'seeded'
        >>> recipe = recipe_for_sizes(8000, steps=1000)
        >>> recipe["adapter.form"], recipe["finetune.steps"], recipe["finetune.qat_steps"]
        ('free', 800, 200)
        >>> recipe_for_sizes(8000, steps=1000, given={"finetune.qat_steps": 100})["finetune.steps"]
        900
    """
    given = given or {}
    is_small = max(sizes_bytes, default=0) <= BEST_SEEDED_BYTES
    best_form = "seeded" if is_small and given.get("adapter.init_from") is None else "free"
    if given.get("adapter.form", best_form) == "seeded":
        recipe = {**seeded_recipe(*sizes_bytes), "finetune.steps": steps}
    else:
        recipe = _free_recipe(*sizes_bytes, steps=steps, qat_steps=given.get("finetune.qat_steps"))
    continues = given.get("adapter.init_from") is not None
    if continues or find_task(given.get("task", "classification")).head_modules == ():
        recipe["finetune.head_steps"] = 0
    if continues:
        recipe["finetune.align_steps"] = 0
    if "adapter.r_max" in given:
        recipe["policy.constant_rank"] = given["adapter.r_max"]
    return recipe | dict(given)


def _free_recipe(*sizes_bytes: int, steps: int, qat_steps: Any) -> dict[str, Any]:
    if min(sizes_bytes) < MIN_SEEDED_BYTES:
        raise SettingsError.of("size", f"{min(sizes_bytes)} bytes", f"{MIN_SEEDED_BYTES} bytes or more")
    if type(qat_steps) is not int:  # Another type is refused when the settings are loaded.
        qat_steps = round(_QAT_SHARE * steps)
    if qat_steps >= steps:
        raise SettingsError.of("finetune.qat_steps", qat_steps, f"below the number of all steps, {steps}")
    own_steps = steps - qat_steps
    return {
        "adapter.form": "free",
        "adapter.r_max": 32,
        "adapter.stream_bytes": max(sizes_bytes),
        "finetune.steps": own_steps,
        "finetune.qat_steps": qat_steps,
        "finetune.qat_prefixes": len(set(sizes_bytes)) > 1,
        "finetune.head_steps": round(own_steps / 20),
        "finetune.align_steps": min(16, own_steps // 20),
        "finetune.learning_rate": 0.003,
        "finetune.warmup_fraction": 0.1,
        "model.dropout": False,
        "policy.name": "constant",
        "policy.constant_rank": 32,
    }


def seeded_recipe(*sizes_bytes: int) -> dict[str, Any]:
    """Return the settings that train a seeded adapter for one or several sizes of its stream, by dotted key.

    Args:
        sizes_bytes: Size of the stream and of the prefixes that are trained too, bytes.

    Raises:
        SettingsError: There is no size, a size is below `MIN_SEEDED_BYTES`, or two sizes are too close.

    Examples:
        >>> seeded_recipe(4000)["adapter.num_coefficients"]
        (16847,)
    """
    sizes = sorted(set(sizes_bytes))
    if min(sizes, default=0) < MIN_SEEDED_BYTES:
        raise SettingsError.of("size", f"{min(sizes, default=0)} bytes", f"{MIN_SEEDED_BYTES} bytes or more")
    for before, after in itertools.pairwise(sizes):
        if after - before < MIN_CHUNK_BYTES:
            raise SettingsError.of("difference of two sizes", f"{after - before} bytes", f"{MIN_CHUNK_BYTES} or more")
    chunk_bytes = [sizes[0] - _FIXED_BYTES, *(b - a - _BYTES_PER_CHUNK for a, b in itertools.pairwise(sizes))]
    return {
        "adapter.form": "seeded",
        "adapter.r_max": SEEDED_RANK,
        "adapter.scale": 1.0,
        "adapter.num_coefficients": tuple(round(8 * own / _BITS_PER_COEFFICIENT) for own in chunk_bytes),
        "adapter.stream_bytes": sizes[-1],
        "adapter.ffn_update": "weight",
        "adapter.nested_probability": 0.0,
        "adapter.orthogonality_weight": 0.0,
        "finetune.head_steps": 0,
        "finetune.align_steps": 0,
        "finetune.learning_rate": 0.003,
        "finetune.head_learning_rate": 4e-3,
        "finetune.warmup_fraction": 0.1,
        "finetune.rounding_start": 0.4,
        "model.dropout": False,
        "env.objective": "frozen",
        "policy.name": "constant",
        "policy.constant_rank": SEEDED_RANK,
        "policy.early_stop": False,
    }
