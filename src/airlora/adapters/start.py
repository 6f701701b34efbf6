r"""The first steps of fine-tuning: the head alone, then the components turned to where the loss falls fastest.

A random direction has next to nothing to do with the text, and many steps go into turning it.  The best r directions
are at hand: the first singular vectors of the loss's gradient with respect to the module's weight.  That matrix
[d_out, d_in] is never formed; the adapter's own gradients are a randomised SVD of it,

$$\frac{\partial U}{\partial P}\Big|_{P=0,\ \Lambda=I} = s\, G Q^\top, \qquad
  \frac{\partial U}{\partial Q}\Big|_{Q=0,\ \Lambda=I} = s\, P^\top G$$

first with a random Q, then with P an orthonormal basis of what came out.  The update is zero all the while, so the
model stays the base model, and any kind of layer, precision or gradient checkpointing will do.

Notation: U the task loss; G its gradient with respect to W [d_out, d_in]; s the scale; P, Lambda, Q as in Eq. 2.

A new head is random, and so is the gradient that comes through it: it is trained first.

Source: Halko, Martinsson and Tropp 2011 for the randomised SVD; Wang et al. 2024 (LoRA-GA) for starting where the
gradient points; Kumar et al. 2022 for the head first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from airlora.adapters.svd import SVDUpdate

__all__ = ["AlignedStart", "StartPhase"]

StartPhase = Literal["head", "left", "right"]
"""Training the head, gathering gradients of P, gathering gradients of Q."""


class AlignedStart:
    """What the first `num_steps` steps do; the step counter is the caller's.

    Args:
        updates: The modules' updates, at full rank and with lam = 0.
        head_steps: Steps that train the head alone, >= 0.
        align_steps: Steps that gather gradients, half of them for P and half for Q: an even number; 0: P and Q stay
            random.
        norm: Of every p_k and q_k when it is over, > 0.
    """

    def __init__(self, updates: Sequence[SVDUpdate], *, head_steps: int, align_steps: int, norm: float) -> None:
        self._updates = list(updates)
        self._head_steps = head_steps
        self._half = align_steps // 2
        self._norm = norm
        self._sums: list[Tensor] = []
        if norm != 1.0:
            with torch.no_grad():
                for update in self._updates:
                    update.P.mul_(norm)
                    update.Q.mul_(norm)

    @property
    def num_steps(self) -> int:
        """How many steps it takes in all."""
        return self._head_steps + 2 * self._half

    def phase(self, step: int) -> StartPhase | None:
        """Return what step number `step`, from 0, is for; none: the start is over."""
        if step < self._head_steps:
            return "head"
        if step < self._head_steps + self._half:
            return "left"
        return "right" if step < self.num_steps else None

    @torch.no_grad()
    def prepare(self, step: int) -> None:
        """Set P, lam and Q to what the gradient of a step is taken at; call before the first forward pass of it."""
        if step == self._head_steps and self._half:
            for update in self._updates:
                update.P.zero_()
                update.lam.fill_(1.0)

    @torch.no_grad()
    def gather(self, step: int) -> None:
        """Take in the gradients of a step of phase `left` or `right`; the last ones put what they found in place."""
        is_left = self.phase(step) == "left"
        gradients = [_gradient(update.P if is_left else update.Q) for update in self._updates]
        if self._sums:
            for total, gradient in zip(self._sums, gradients, strict=True):
                total += gradient
        else:
            self._sums = gradients
        if step + 1 == self._head_steps + self._half:
            for update, total in zip(self._updates, self._sums, strict=True):
                update.P.copy_(torch.linalg.qr(total).Q)
                update.Q.zero_()
            self._sums = []
        elif step + 1 == self.num_steps:
            for update, total in zip(self._updates, self._sums, strict=True):
                U, _, Vh = torch.linalg.svd(total, full_matrices=False)
                update.P.copy_(update.P.to(U.dtype) @ U * self._norm)
                update.lam.zero_()
                update.Q.copy_(Vh * self._norm)
            self._sums = []

    def state_dict(self) -> dict[str, Any]:
        """Return the gradients gathered so far."""
        return {"sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; P, lam and Q are the caller's to restore."""
        self._sums = [
            total.to(update.P.device, copy=True) for total, update in zip(state["sums"], self._updates, strict=False)
        ]


def _gradient(parameter: Tensor) -> Tensor:
    """Return a copy of the gradient in float32 or better: sums and factorisations need it."""
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
    return parameter.grad.to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
