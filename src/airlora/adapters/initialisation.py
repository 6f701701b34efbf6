r"""Initialisation of an adapter along the gradient of the loss.

The columns of P and the rows of Q become the first singular vectors of the loss's gradient with respect to the
module's weight:

$$G = \frac{\partial U}{\partial W} = \sum_t \delta_t x_t^\top \approx \sum_{i=1}^{r} \sigma_i\, u_i v_i^\top,
  \qquad p_i = c\, u_i, \quad q_i = c\, v_i, \quad \lambda_i = 0$$

The update is zero before and after. G is accumulated from the inputs and output gradients of the adapter's own layers,
so the base weights stay frozen, and any precision and gradient checkpointing work.

Notation: U task loss; W the module's weight; t token of a batch; x_t input of the module; delta_t gradient of its
output; sigma_i, u_i, v_i singular value and vectors of G; p_i, q_i, lambda_i as in Eq. 2; c norm of p_i and q_i.

Source: Wang et al. 2024 (LoRA-GA) for the initialisation; Halko, Martinsson and Tropp 2011 for the randomised SVD.
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
"""Power iterations of the randomised SVD of width 2 r. Its error is far below the noise of the gradient."""


def align_to_gradient(
    updates: Mapping[str, SVDUpdate], passes: Iterable[object], *, norm: float = 1.0, seed: int = 0
) -> None:
    """Set P and Q of every update to the first singular vectors of its gradient, and lam to 0.

    During the call every module needs an extra float32 matrix [d_out, d_in].

    Args:
        updates: Updates by module name, at rank r_max and with lam = 0.
        passes: Iterable that runs one forward and backward pass of the model per item. It is consumed once.
        norm: Norm c of every p_i and q_i, > 0.
        seed: Seed of the randomised SVD. The global generator is left unchanged.

    Raises:
        TrainingError: A gradient is not finite. No update is changed then.

    Examples:
        >>> update = SVDUpdate(6, 4, r_max=1, generator=torch.Generator().manual_seed(0))
        >>> x, direction = torch.eye(6)[:1], torch.eye(4)[2]
        >>> align_to_gradient({"w": update}, ((update(x) @ direction).sum().backward() for _ in range(2)))
        >>> update.P.T.abs().round(decimals=3).tolist(), update.Q.abs().round(decimals=3).tolist()
        ([[0.0, 0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    """
    gradients = {
        name: torch.zeros(update.shape.d_out, update.shape.d_in, device=update.P.device)
        for name, update in updates.items()
    }
    handles = [update.register_forward_hook(_accumulate_into(gradients[name])) for name, update in updates.items()]
    try:
        for _ in passes:
            pass
    finally:
        for handle in handles:
            handle.remove()
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            raise TrainingError(f"the gradient of {name} is not finite")
    for name, update in updates.items():
        _set_directions(update, gradients.pop(name), norm, seed)


def _accumulate_into(total: Tensor) -> Any:
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
