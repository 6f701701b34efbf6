"""Policies by the names that users choose from: a class of `airlora.policy` and what is set differently for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A policy that can be asked for.

    Args:
        policy: Name of its class.
        summary: What it is, in a line.
        learns: Whether it measures losses to learn from.
        settings: Dotted keys to values, laid under the user's own.
    """

    policy: str
    summary: str
    learns: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


_DISTILLED = {
    "diffusion.loss": "expert",
    "diffusion.condition": "budget_and_text",
    "diffusion.prediction_type": "v_prediction",
    "diffusion.num_inference_steps": 10,
    "diffusion.learning_rate": 1e-3,
    "diffusion.batch_size": 128,
}

RECIPES: Mapping[str, Recipe] = {
    "allocate": Recipe("allocate", "planner on a utility model fitted to measured losses"),
    "distilled": Recipe(
        "ddim",
        "diffusion trained on the planner's plans (expert iteration); rest of the budget filled by worth",
        settings=_DISTILLED | {"diffusion.fill": True},
    ),
    "distilled-bare": Recipe("ddim", "the same, what it leaves of the budget is left", settings=_DISTILLED),
    "airllm": Recipe("airllm", "the paper's: PPO, then DDIM with a residual MLP; the reward weights its samples"),
    "airllm-literal": Recipe("airllm", "the same with Eq. 19 as written", settings={"diffusion.loss": "literal"}),
    "airllm-ddpm": Recipe("airllm", "PPO, then DDPM", settings={"diffusion.sampler": "ddpm"}),
    "airllm-unet": Recipe("airllm", "PPO, then DDIM with the 1-D U-Net", settings={"diffusion.backbone": "unet"}),
    "airllm-latent": Recipe("airllm", "PPO on a latent of 8 numbers, then DDIM", settings={"ppo.latent_size": 8}),
    "ppo": Recipe("ppo", "PPO alone"),
    "ddim": Recipe("ddim", "diffusion alone, told the state"),
    "ddim-literal": Recipe("ddim", "the same with Eq. 19 as written", settings={"diffusion.loss": "literal"}),
    "ddim-q": Recipe(
        "ddim",
        "diffusion guided by a learned critic's gradient",
        settings={
            "diffusion.loss": "q_guided",
            "diffusion.prediction_type": "v_prediction",
            "diffusion.learning_rate": 1e-3,
            "diffusion.buffer_size": 2048,
        },
    ),
    "ddim-utility": Recipe(
        "ddim",
        "diffusion guided by the utility model's gradient",
        settings={
            "diffusion.loss": "q_guided",
            "diffusion.critic": "utility",
            "diffusion.critic_weight": 5.0,
            "diffusion.condition": "budget_and_text",
            "diffusion.prediction_type": "v_prediction",
            "diffusion.learning_rate": 1e-3,
            "diffusion.fill": True,
        },
    ),
    "ddim-gradient": Recipe(
        "ddim",
        "diffusion by a policy gradient through its chain (DPPO)",
        settings={"diffusion.loss": "policy_gradient", "diffusion.eta": 1.0},
    ),
    "cmaes": Recipe("cmaes", "a search by CMA-ES for every link", settings={"policy.rollout_steps": 16}),
    "greedy": Recipe("greedy", "components by their squared gradient; no loss measured", learns=False),
    "eva": Recipe("eva", "components by explained variance of the inputs; no loss measured", learns=False),
    "constant": Recipe("constant", "one rank everywhere", learns=False),
    "random": Recipe("random", "random ranks", learns=False),
}
"""Best first within a kind; `airlora policies --list` shows them."""
