r"""An adapter taken apart into rank-one components, and put together from any of them.

$$\Delta W_m = s\,P_m \Lambda_m Q_m = \sum_k \sigma_{m,k}\,p_{m,k}\,q_{m,k}^\top$$

In canonical order (`canonical_svd`) the sum over the first r components is the best update of rank r, so a module's
components are sent in that order, and a list that ends anywhere is an adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from airlora.adapters.canonical import canonical_svd
from airlora.adapters.inject import AdaptedModel
from airlora.errors import AdapterError
from airlora.ranks import ModuleShape

__all__ = ["LowRankUpdate", "ModuleComponents", "components_of", "install_updates"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModuleComponents:
    """The components of one module, most singular value first.

    Args:
        left: p, orthonormal columns, [d_out, r].
        singular_values: sigma, the adapter's scale s included, [r], >= 0 and descending.
        right: q, orthonormal rows, [r, d_in].
    """

    left: Floats
    singular_values: npt.NDArray[np.float64]
    right: Floats

    def balanced(self) -> LowRankUpdate:
        r"""Return the same update as two factors of equal size, $\sqrt\sigma\,p$ and $\sqrt\sigma\,q$."""
        root = np.sqrt(self.singular_values).astype(np.float32)
        return LowRankUpdate(self.left * root, root[:, None] * self.right)


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """An update of one module, `left @ right`, the adapter's scale included.

    Args:
        left: [d_out, r].
        right: [r, d_in].
    """

    left: Floats
    right: Floats

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.left.shape[1])


def components_of(adapted: AdaptedModel) -> dict[str, ModuleComponents]:
    """Return all r_max components of every module in canonical order, whatever ranks are in force.

    Raises:
        AdapterError: A module holds values that are not finite.
    """
    found = {}
    for name, update in adapted.updates.items():
        P, lam, Q = update.P.detach(), update.lam.detach(), update.Q.detach()
        if not all(bool(torch.isfinite(part).all()) for part in (P, lam, Q)):
            raise AdapterError(f"the components of {name} hold values that are not finite")
        U, s, Vt = canonical_svd(P, lam, Q)
        found[name] = ModuleComponents(
            left=U.float().cpu().numpy(),
            singular_values=adapted.scale * s.cpu().numpy(),
            right=Vt.float().cpu().numpy(),
        )
    return found


def install_updates(
    adapted: AdaptedModel, updates: Mapping[str, LowRankUpdate], head: Mapping[str, npt.NDArray[np.generic]]
) -> None:
    """Make the model compute with these updates and this head; modules left out have none.

    Every module's rank becomes that of its update; components beyond it are zero.

    Args:
        adapted: A model with the adapter's modules, and r_max no smaller than any rank.
        updates: By module name.
        head: By the names of `AdaptedModel.head_state`; tensors left out stay as they are.

    Raises:
        AdapterError: A module or tensor is unknown, has another shape or values that are not finite, or a rank is above
            r_max; the model is as it was.
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
            for part in (target.P, target.lam, target.Q):
                part.zero_()
            if rank:
                target.P[:, :rank] = torch.from_numpy(updates[name].left / np.float32(adapted.scale)).to(target.P)
                target.lam[:rank] = 1.0
                target.Q[:rank] = torch.from_numpy(updates[name].right).to(target.Q)
            target.set_rank(rank)
        for name, value in head.items():
            tensors[name].copy_(torch.from_numpy(np.asarray(value)))


def _verify_update(name: str, update: LowRankUpdate, shapes: Mapping[str, ModuleShape], r_max: int) -> None:
    if name not in shapes:
        raise AdapterError(f"the model has no adapted module {name}; one of its {len(shapes)} is {next(iter(shapes))}")
    shape = shapes[name]
    wanted = (shape.d_out, update.rank), (update.rank, shape.d_in)
    if (update.left.shape, update.right.shape) != wanted:
        raise AdapterError.of(f"shapes of {name}", (update.left.shape, update.right.shape), f"{wanted}")
    if update.rank > r_max:
        raise AdapterError.of(f"rank of {name}", update.rank, f"0 to r_max = {r_max}")
    if not (np.isfinite(update.left).all() and np.isfinite(update.right).all()):
        raise AdapterError(f"the update of {name} holds values that are not finite")
