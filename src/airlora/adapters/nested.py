"""Random cuts for nested training: a rank per module, drawn anew at every step.

An adapter trained so stays useful at every cut, because the first components have been trained without the later ones.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from airlora.errors import RankPatternError, SettingsError
from airlora.observation import IntArray

__all__ = ["sample_ranks"]


def sample_ranks(
    r_max: int,
    num_modules: int,
    generator: np.random.Generator,
    *,
    distribution: Literal["uniform", "log_uniform"] = "uniform",
) -> IntArray:
    r"""Return an independent random rank per module, int64 [num_modules], each from 0 to r_max.

    | distribution | probability of rank r | use |
    |---|---|---|
    | "uniform" | $1/(r_{max}+1)$ | every cut alike |
    | "log_uniform" | $\log\frac{r+2}{r+1} / \log(r_{max}+2)$ | small cuts more often |

    Args:
        r_max: Largest rank, >= 1.
        num_modules: Adapted projections, >= 1.
        generator: Source of randomness.
        distribution: See the table.

    Raises:
        RankPatternError: r_max or num_modules is below 1.
        SettingsError: The distribution has another name.

    Source: Valipour et al. 2023 (DyLoRA), with a cut per module rather than one for all.

    >>> sample_ranks(4, 6, np.random.default_rng(0)).tolist()
    [4, 3, 2, 1, 1, 0]
    """
    for name, value in (("r_max", r_max), ("num_modules", num_modules)):
        if value < 1:
            raise RankPatternError.of(name, value, "a whole number, 1 or more")
    if distribution == "uniform":
        return generator.integers(0, r_max, size=num_modules, endpoint=True, dtype=np.int64)
    if distribution == "log_uniform":
        draws = np.exp(generator.uniform(0.0, np.log(r_max + 2), size=num_modules))
        # The upper end itself can come out of rounding.
        return np.minimum(np.floor(draws).astype(np.int64) - 1, r_max)
    raise SettingsError.of("distribution", distribution, "'uniform' or 'log_uniform'")
