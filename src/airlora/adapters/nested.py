"""Nested training: a new random rank per module at every step, and optimiser steps that skip inactive components.

A nested adapter stays accurate at every rank, because its first components are also trained without the later ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from airlora.adapters.svd import SVDUpdate
from airlora.errors import RankPatternError, SettingsError
from airlora.observation import IntArray

__all__ = ["keep_inactive", "sample_ranks"]


def sample_ranks(
    r_max: int,
    num_modules: int,
    generator: np.random.Generator,
    *,
    distribution: Literal["uniform", "log_uniform"] = "uniform",
) -> IntArray:
    r"""Return an independent random rank per module, int64 [num_modules], each from 0 to r_max.

    | distribution | probability of rank r | emphasis |
    |---|---|---|
    | "uniform" | $1/(r_{max}+1)$ | all ranks equally |
    | "log_uniform" | $\log\frac{r+2}{r+1} / \log(r_{max}+2)$ | low ranks |

    Args:
        r_max: Largest rank, >= 1.
        num_modules: Number of adapted modules, >= 1.
        generator: NumPy generator that draws the ranks.
        distribution: Distribution of a rank, "uniform" or "log_uniform".

    Raises:
        RankPatternError: r_max or num_modules is below 1.
        SettingsError: The distribution is unknown.

    Source: Valipour et al. 2023 (DyLoRA) draw one rank for all modules; here every module has its own.

    Examples:
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
        # Rounding can yield the upper end itself.
        return np.minimum(np.floor(draws).astype(np.int64) - 1, r_max)
    raise SettingsError.of("distribution", distribution, "'uniform' or 'log_uniform'")


def keep_inactive(optimizer: Optimizer, updates: Iterable[SVDUpdate]) -> tuple[RemovableHandle, RemovableHandle]:
    """Make `optimizer.step()` leave inactive components unchanged, and return the handles of the two hooks.

    The gradient of an inactive component is zero, but weight decay and momentum would change it nevertheless. A hook
    before each step saves the inactive slices of P, lam, Q and of all optimiser states of the same shape (`exp_avg`,
    `exp_avg_sq`, `momentum_buffer`, ...). A hook after the step restores them. Inactive slices of states that the step
    created become zero. Active components are updated as without the hooks. Modules at rank r_max cost nothing.

    States of another shape are shared by all components and advance at every step. Adam's `step` is one of them.

    Args:
        optimizer: Any `torch.optim` optimiser of the updates' parameters.
        updates: Updates whose inactive components are protected.
    """
    protected = list(updates)
    # (parameter, dimension of the components, rank, inactive values, inactive states)
    saved: list[tuple[Tensor, int, int, Tensor, dict[str, Tensor]]] = []

    def save(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        saved.clear()
        for update in protected:
            if update.rank == update.r_max:
                continue
            for parameter, dim in ((update.P, 1), (update.lam, 0), (update.Q, 0)):
                states = {
                    key: _inactive(state, dim, update.rank).clone()
                    for key, state in _states(optimizer, parameter).items()
                }
                values = _inactive(parameter.detach(), dim, update.rank).clone()
                saved.append((parameter, dim, update.rank, values, states))

    def restore(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            for parameter, dim, rank, values, states in saved:
                _inactive(parameter, dim, rank).copy_(values)
                for key, state in _states(optimizer, parameter).items():
                    inactive = _inactive(state, dim, rank)
                    if key in states:
                        inactive.copy_(states[key])
                    else:
                        inactive.zero_()
        saved.clear()

    return optimizer.register_step_pre_hook(save), optimizer.register_step_post_hook(restore)


def _states(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == parameter.shape}


def _inactive(tensor: Tensor, dim: int, rank: int) -> Tensor:
    return tensor.narrow(dim, rank, tensor.shape[dim] - rank)
