"""Which of the trained diffusion steps a short sampler visits."""

from __future__ import annotations

import numpy as np

from airlora.errors import PolicyError

__all__ = ["SPACINGS", "spaced_timesteps"]

SPACINGS = ("leading", "linspace", "trailing")


def spaced_timesteps(num_train_timesteps: int, num_inference_steps: int, spacing: str) -> list[int]:
    """Return the steps to visit, noisiest first.

    Args:
        num_train_timesteps: T, steps of the forward process.
        num_inference_steps: How many are visited, 1 to T.
        spacing: `leading` visits every (T // n)-th step from 0 and so never the noisiest one, as Song et al. did;
            `linspace` spreads the steps from T - 1 to 0 and so starts where pure noise belongs; `trailing` visits
            every (T / n)-th step down from T - 1, so that the last stride, to the clean sample, is as long as the rest.

    Raises:
        PolicyError: An unknown spacing, or a number of steps out of range.

    Source: Lin et al. 2024 (arXiv:2305.08891), table 2.

    >>> spaced_timesteps(1000, 4, "leading"), spaced_timesteps(1000, 4, "linspace")
    ([750, 500, 250, 0], [999, 666, 333, 0])
    >>> spaced_timesteps(1000, 4, "trailing")
    [999, 749, 499, 249]
    """
    if not 1 <= num_inference_steps <= num_train_timesteps:
        raise PolicyError.of("num_inference_steps", num_inference_steps, f"1 to {num_train_timesteps}")
    if spacing == "leading":
        stride = num_train_timesteps // num_inference_steps
        return [stride * index for index in reversed(range(num_inference_steps))]
    if spacing == "linspace":
        if num_inference_steps == 1:
            return [num_train_timesteps - 1]
        return [int(step) for step in np.linspace(0, num_train_timesteps - 1, num_inference_steps).round()[::-1]]
    if spacing == "trailing":
        left = range(num_inference_steps, 0, -1)
        # One division of whole numbers: a float stride, added up, may overshoot to a step below 0.
        return [round(index * num_train_timesteps / num_inference_steps) - 1 for index in left]
    raise PolicyError.of("spacing", spacing, f"one of {', '.join(SPACINGS)}")
