"""Inactive components stay as they are, also in the optimiser.

A component beyond the rank gets a zero gradient, and a zero gradient is not "no step": weight decay shrinks its values
and momentum moves it on.  Ranks could then not go down and up again without loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from airlora.adapters.svd import SVDUpdate

__all__ = ["keep_inactive"]


def keep_inactive(optimizer: Optimizer, updates: Iterable[SVDUpdate]) -> tuple[RemovableHandle, RemovableHandle]:
    """Let `optimizer.step()` leave inactive components alone, and return the two hooks' handles.

    Before each step the parts of P, lam and Q beyond the rank, and the same parts of every state tensor of the same
    shape (`exp_avg`, `exp_avg_sq`, `momentum_buffer`, ...), are set aside; after it they are put back.  A state that
    the step itself created starts there at zero.  Active components move exactly as without the hooks, and a module
    at full rank costs nothing.

    States that are no tensor of the parameter's shape are shared by all components and go on: Adam's `step` counts
    for the whole parameter.

    Args:
        optimizer: Any `torch.optim` optimiser over the updates' parameters.
        updates: The modules whose rank is obeyed.
    """
    kept = list(updates)
    # (parameter, dimension of the components, rank, inactive values, inactive states)
    saved: list[tuple[Tensor, int, int, Tensor, dict[str, Tensor]]] = []

    def save(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        saved.clear()
        for update in kept:
            if update.rank == update.r_max:
                continue
            for parameter, dim in ((update.P, 1), (update.lam, 0), (update.Q, 0)):
                states = {
                    key: _beyond(state, dim, update.rank).clone()
                    for key, state in _states(optimizer, parameter).items()
                }
                values = _beyond(parameter.detach(), dim, update.rank).clone()
                saved.append((parameter, dim, update.rank, values, states))

    def restore(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            for parameter, dim, rank, values, states in saved:
                _beyond(parameter, dim, rank).copy_(values)
                for key, state in _states(optimizer, parameter).items():
                    beyond = _beyond(state, dim, rank)
                    if key in states:
                        beyond.copy_(states[key])
                    else:
                        beyond.zero_()
        saved.clear()

    return optimizer.register_step_pre_hook(save), optimizer.register_step_post_hook(restore)


def _states(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == parameter.shape}


def _beyond(tensor: Tensor, dim: int, rank: int) -> Tensor:
    return tensor.narrow(dim, rank, tensor.shape[dim] - rank)
