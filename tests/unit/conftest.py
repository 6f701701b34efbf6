from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airlora.training import Settings, load_settings


def tiny(model: Path, data: tuple[Path, Path], **overrides: Any) -> Settings:
    """Return settings of a run of seconds: tiny model and data, few steps, float32."""
    base = {
        "model.name": str(model),
        "data.train": str(data[0]),
        "data.eval": str(data[1]),
        "data.max_length": 16,
        "adapter.r_max": 4,
        "adapter.scale": 2.0,
        "policy.name": "airllm",
        "policy.constant_rank": 2,
        "finetune.steps": 12,
        "finetune.batch_size": 8,
        "finetune.eval_every": 6,
        "finetune.precision": "float32",
        "channel.bandwidth_hz": [2e4],
        "env.episode_steps": 4,
        "env.frozen_batch_size": 6,
        "env.frozen_batches": 3,
        "policy.steps": 12,
        "policy.rollout_steps": 4,
        "checkpoint_every": 5,
        "num_threads": 1,
        "tensorboard": False,
        "diffusion.num_train_timesteps": 20,
        "diffusion.num_inference_steps": 4,
        "diffusion.updates_per_stage": 4,
        "diffusion.warmup_updates": 20,
    }
    return load_settings("quick", overrides=base | overrides)


@pytest.fixture(scope="session")
def make_settings(tiny_model: Path, tiny_data: tuple[Path, Path]) -> Callable[..., Settings]:
    """Return tiny settings, overridden by the keyword arguments."""
    return partial(tiny, tiny_model, tiny_data)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()
