r"""Canonical SVD order: after it, every cut of a module is the best approximation of that rank.

Training leaves P and Q only roughly orthonormal and lam in no order.  The update $P \Lambda Q$ has rank r at most, so
its SVD is found from two thin QR decompositions and an r x r core, without a d_out x d_in matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.adapters.inject import AdaptedModel
from airlora.errors import AdapterError

__all__ = ["canonical_svd", "canonicalise"]


def canonical_svd(P: Tensor, lam: Tensor, Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the SVD (U, s, Vt) of $P\,\mathrm{diag}(\lambda)\,Q$, computed in float64.

    $$P = Q_P R_P,\quad Q^\top = Q_Q R_Q,\quad R_P\,\mathrm{diag}(\lambda)\,R_Q^\top = U' S V'^\top,\quad
      U = Q_P U',\quad V^\top = V'^\top Q_Q^\top$$

    Signs are fixed: the entry of largest magnitude in each column of U is positive.

    Args:
        P: [d_out, r], r <= d_out.
        lam: [r].
        Q: [r, d_in], r <= d_in.

    Returns:
        U [d_out, r] with orthonormal columns, s [r] >= 0 in descending order and Vt [r, d_in] with orthonormal rows;
        float64.

    >>> U, s, Vt = canonical_svd(torch.eye(3, 2), torch.tensor([1.0, -4.0]), torch.eye(2, 5))
    >>> s.tolist()
    [4.0, 1.0]
    """
    left, left_core = torch.linalg.qr(P.double())
    right, right_core = torch.linalg.qr(Q.double().T)
    core_u, s, core_vt = torch.linalg.svd(left_core @ (lam.double()[:, None] * right_core.T))
    U, Vt = left @ core_u, core_vt @ right.T
    largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True)).squeeze(0)
    signs = torch.where(largest < 0, -1.0, 1.0).to(U)
    return U * signs, s, signs[:, None] * Vt


def canonicalise(adapted: AdaptedModel) -> None:
    """Put all r_max components of every module into canonical SVD order, in place.

    The update at full rank stays what it was, to the precision of the updates' dtype; a cut changes, to the best one
    (Eckart and Young).  Components become other ones, so an optimiser's state no longer belongs to them.

    Raises:
        AdapterError: A module holds values that are not finite; then no module is changed.
    """
    for name, update in adapted.updates.items():
        if not all(bool(torch.isfinite(parameter).all()) for parameter in update.parameters()):
            raise AdapterError(f"the components of {name} hold values that are not finite")
    with torch.no_grad():
        for update in adapted.updates.values():
            U, s, Vt = canonical_svd(update.P, update.lam, update.Q)
            update.P.copy_(U)
            update.lam.copy_(s)
            update.Q.copy_(Vt)
