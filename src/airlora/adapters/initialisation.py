r"""Turning an adapter, before it is trained, to where the loss falls fastest.

A random direction has next to nothing to do with the text, and many steps go into turning it.  The best r directions
are at hand: the first singular vectors of the loss's gradient with respect to the module's weight,

$$G = \frac{\partial U}{\partial W} = \sum_t \delta_t x_t^\top \approx \sum_{i=1}^{r} \sigma_i\, u_i v_i^\top,
  \qquad p_i = c\, u_i, \quad q_i = c\, v_i, \quad \lambda_i = 0$$

The update is zero before and after.  G is gathered at the adapter's own layers, so any kind of base layer, precision or
gradient checkpointing will do, and the frozen weights stay frozen.

Notation: U the task loss; t the tokens of all batches; x_t input and delta_t gradient of the output of the module;
p_i, q_i, lambda_i as in Eq. 2; c the norm that every p_i and q_i gets.

Source: Wang et al. 2024 (LoRA-GA) for starting where the gradient points; Halko, Martinsson and Tropp 2011 for the
singular vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from airlora.adapters.svd import SVDUpdate
from airlora.errors import TrainingError

__all__ = ["align_to_gradient"]

POWER_ITERATIONS = 2
"""Of the randomised SVD; with twice the rank as its width, what it misses is far below the gradient's own noise."""


def align_to_gradient(
    updates: Mapping[str, SVDUpdate], passes: Iterable[object], *, norm: float = 1.0, seed: int = 0
) -> None:
    """Set P and Q of every update to the first singular vectors of its gradient, and lam to 0.

    It takes a matrix [d_out, d_in] in float32 for every module while it lasts.

    Args:
        updates: The modules' updates by name, at full rank and with lam = 0.
        passes: Is gone through once; each item takes a forward and a backward pass of the model.
        norm: Of every p_i and q_i, > 0.
        seed: Of the randomised SVD.

    Raises:
        TrainingError: A gradient is not finite; nothing was changed.

    >>> update = SVDUpdate(6, 4, r_max=1, generator=torch.Generator().manual_seed(0))
    >>> x, wanted = torch.eye(6)[:1], torch.eye(4)[2]
    >>> align_to_gradient({"w": update}, ((update(x) @ wanted).sum().backward() for _ in range(2)))
    >>> update.P.T.abs().round(decimals=3).tolist(), update.Q.abs().round(decimals=3).tolist()
    ([[0.0, 0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    """
    gradients = {
        name: torch.zeros(update.shape.d_out, update.shape.d_in, device=update.P.device)
        for name, update in updates.items()
    }
    handles = [update.register_forward_hook(_gatherer(gradients[name])) for name, update in updates.items()]
    try:
        for _ in passes:
            pass
    finally:
        for handle in handles:
            handle.remove()
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            raise TrainingError(f"the gradient of {name} is not finite: allowed are finite numbers")
    for name, update in updates.items():
        _set_directions(update, gradients.pop(name), norm, seed)


def _gatherer(total: Tensor) -> Any:
    """Return a forward hook that adds the gradient of each call to `total` [d_out, d_in] in the backward pass."""

    def on_forward(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()

        def on_backward(gradient: Tensor) -> None:
            total.addmm_(gradient.detach().flatten(0, -2).float().T, x.flatten(0, -2).float())

        if output.requires_grad:
            output.register_hook(on_backward)  # type: ignore[no-untyped-call]

    return on_forward


@torch.no_grad()
def _set_directions(update: SVDUpdate, gradient: Tensor, norm: float, seed: int) -> None:
    r = update.r_max
    width = min(2 * r, *gradient.shape)
    devices = [gradient.device] if gradient.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        U, _, V = torch.svd_lowrank(gradient, q=width, niter=POWER_ITERATIONS)
    update.P.copy_(U[:, :r] * norm)
    update.lam.zero_()
    update.Q.copy_(V[:, :r].T * norm)
