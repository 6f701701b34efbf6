r"""Decomposition of an adapter into rank-one components, and installation of updates in a model.

$$\Delta W_m = s\,P_m \Lambda_m Q_m = \sum_k \sigma_{m,k}\,p_{m,k}\,q_{m,k}^\top$$

In canonical order the components are the singular triplets of the update, largest singular value first. The sum over
the first r components is then the best approximation of rank r (Eckart and Young), so any prefix of the list is an
adapter.

Notation: m adapted module; k component; s scale; sigma_{m,k}, p_{m,k}, q_{m,k} singular value and vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airlora.adapters.injection import AdaptedModel
from airlora.adapters.svd import SVDUpdate
from airlora.errors import AdapterError
from airlora.ranks import ModuleShape

__all__ = [
    "LowRankUpdate",
    "ModuleComponents",
    "canonical_svd",
    "canonicalise",
    "components_of",
    "fill_update",
    "install_updates",
    "thin_svd",
]

Floats = npt.NDArray[np.float32]


def canonical_svd(P: Tensor, lam: Tensor, Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the SVD (U, s, Vt) of $P\,\mathrm{diag}(\lambda)\,Q$, computed in float64.

    $$P = Q_P R_P,\quad Q^\top = Q_Q R_Q,\quad R_P\,\mathrm{diag}(\lambda)\,R_Q^\top = U' S V'^\top,\quad
      U = Q_P U',\quad V^\top = V'^\top Q_Q^\top$$

    Two thin QR decompositions and the SVD of an r x r matrix are computed, and no d_out x d_in matrix is formed. The
    entry of largest magnitude in each column of U is made positive, so that the signs are unique.

    Args:
        P: Left factor [d_out, r], r <= d_out.
        lam: Coefficients of the components [r].
        Q: Right factor [r, d_in], r <= d_in.

    Returns:
        U [d_out, r] with orthonormal columns, s [r] >= 0 in descending order and Vt [r, d_in] with orthonormal rows;
        float64.

    Examples:
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
    """Put all r_max components of every module into canonical order, in place.

    The update at rank r_max is unchanged up to rounding. At a lower rank it becomes the best approximation of that
    rank. The state of an optimiser no longer matches the components afterwards.

    Args:
        adapted: Model with an adapter.

    Raises:
        AdapterError: A module holds values that are not finite. No module is changed then.
    """
    _verify_finite(adapted)
    with torch.no_grad():
        for update in adapted.updates.values():
            U, s, Vt = canonical_svd(update.P, update.lam, update.Q)
            update.P.copy_(U)
            update.lam.copy_(s)
            update.Q.copy_(Vt)


@dataclass(frozen=True, slots=True)
class ModuleComponents:
    """The components of one adapted module in canonical order.

    Args:
        left: Left singular vectors p as columns, float32 [d_out, r].
        singular_values: Singular values sigma of the update, scale s included; float64 [r], >= 0, descending.
        right: Right singular vectors q as rows, float32 [r, d_in].
    """

    left: Floats
    singular_values: npt.NDArray[np.float64]
    right: Floats

    def balanced(self) -> LowRankUpdate:
        r"""Return the update with its singular values shared equally: $\sqrt\sigma\,p$ and $\sqrt\sigma\,q$."""
        root = np.sqrt(self.singular_values).astype(np.float32)
        return LowRankUpdate(self.left * root, root[:, None] * self.right)


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """The update `left @ right` of one adapted module, scale s included.

    Args:
        left: Left factor, float32 [d_out, r].
        right: Right factor, float32 [r, d_in].
    """

    left: Floats
    right: Floats

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.left.shape[1])


def components_of(adapted: AdaptedModel) -> dict[str, ModuleComponents]:
    """Return all r_max components of every module in canonical order, by module name.

    The model is unchanged. Inactive components are included.

    Args:
        adapted: Model with an adapter.

    Raises:
        AdapterError: A module holds values that are not finite.
    """
    _verify_finite(adapted)
    components = {}
    for name, update in adapted.updates.items():
        U, s, Vt = canonical_svd(update.P.detach(), update.lam.detach(), update.Q.detach())
        components[name] = ModuleComponents(
            left=U.float().cpu().numpy(),
            singular_values=adapted.scale * s.cpu().numpy(),
            right=Vt.float().cpu().numpy(),
        )
    return components


def install_updates(
    adapted: AdaptedModel, updates: Mapping[str, LowRankUpdate], head: Mapping[str, npt.NDArray[np.generic]]
) -> None:
    """Replace the model's adapter by the given updates, and its head by the given tensors.

    Each module gets the rank of its update, and rank 0 if it has none. Components beyond the rank become zero.

    Args:
        adapted: Model with the adapted modules of the updates, and with an r_max of at least the largest rank.
        updates: Updates by module name.
        head: Tensors by the names of `AdaptedModel.head_state`. Head tensors that are not named are unchanged.

    Raises:
        AdapterError: A module or tensor is unknown, has another shape or values that are not finite, or a rank is above
            r_max. The model is unchanged then.
    """
    tensors = adapted.head_state()
    for name, update in updates.items():
        _verify_update(name, update, adapted.shapes, adapted.r_max)
    for name, value in head.items():
        if name not in tensors:
            raise AdapterError(f"the model's head has no tensor {name}")
        if tuple(value.shape) != tuple(tensors[name].shape):
            raise AdapterError.of(f"shape of {name}", tuple(value.shape), f"{tuple(tensors[name].shape)}")
        if not np.isfinite(value).all():
            raise AdapterError(f"{name} holds values that are not finite")
    with torch.no_grad():
        for name, target in adapted.updates.items():
            rank = updates[name].rank if name in updates else 0
            for parameter in target.parameters():
                parameter.zero_()
            if rank:
                target.P[:, :rank] = torch.from_numpy(updates[name].left / np.float32(adapted.scale)).to(target.P)
                target.lam[:rank] = 1.0
                target.Q[:rank] = torch.from_numpy(updates[name].right).to(target.Q)
            target.set_rank(rank)
        for name, value in head.items():
            tensors[name].copy_(torch.from_numpy(np.asarray(value)))


def _verify_finite(adapted: AdaptedModel) -> None:
    for name, update in adapted.updates.items():
        if not all(bool(torch.isfinite(parameter).all()) for parameter in update.parameters()):
            raise AdapterError(f"the components of {name} hold values that are not finite")


def _verify_update(name: str, update: LowRankUpdate, shapes: Mapping[str, ModuleShape], r_max: int) -> None:
    if name not in shapes:
        raise AdapterError(f"the model has no adapted module {name}; one of its {len(shapes)} is {next(iter(shapes))}")
    shape = shapes[name]
    allowed = (shape.d_out, update.rank), (update.rank, shape.d_in)
    if (update.left.shape, update.right.shape) != allowed:
        raise AdapterError.of(f"shapes of {name}", (update.left.shape, update.right.shape), f"{allowed}")
    if update.rank > r_max:
        raise AdapterError.of(f"rank of {name}", update.rank, f"0 to r_max = {r_max}")
    if not (np.isfinite(update.left).all() and np.isfinite(update.right).all()):
        raise AdapterError(f"the update of {name} holds values that are not finite")


def thin_svd(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nonzero components of B A: left vectors [d_out, r], singular values [r], right vectors [r, d_in].

    Args:
        B: Left factor [d_out, k].
        A: Right factor [k, d_in].
    """
    B, A = B.double(), A.double()
    d_out, d_in = len(B), A.shape[1]
    if len(A) > min(d_out, d_in):
        # With a rank above the dimensions, the product is no larger than the factors.
        product = B @ A
        B, A = (torch.eye(d_out).double(), product) if d_out <= d_in else (product, torch.eye(d_in).double())
    U, s, Vt = canonical_svd(B, torch.ones(len(A)), A)
    # The tolerance of numpy.linalg.matrix_rank separates zeros from rounding error.
    rank = int((s > s.max() * max(d_out, d_in) * torch.finfo(s.dtype).eps).sum()) if len(s) else 0
    return U[:, :rank], s[:rank], Vt[:rank]


@torch.no_grad()
def fill_update(update: SVDUpdate, U: Tensor, s: Tensor, Vt: Tensor) -> None:
    """Set the components of a module, so that training can continue.

    Components beyond the rank get coefficient zero, and directions orthonormal to those of the others.

    Args:
        update: Update of the module, with an r_max of at least r.
        U: Orthonormal left vectors [d_out, r].
        s: Singular values [r].
        Vt: Orthonormal right vectors [r, d_in].
    """
    update.P.copy_(_completed(U, update.P))
    update.Q.copy_(_completed(Vt.T, update.Q.T).T)
    update.lam.zero_()
    update.lam[: len(s)] = s / update.scale


def _completed(columns: Tensor, spare: Tensor) -> Tensor:
    """Return `columns` and further orthonormal columns, as many as `spare` has in total."""
    basis: Tensor = torch.linalg.qr(torch.cat([columns, spare.detach().cpu().double()], dim=1))[0]
    basis = basis[:, : spare.shape[1]]
    basis[:, : columns.shape[1]] = columns
    return basis
