r"""Low-rank updates in SVD form (Eq. 2), and the linear layers that carry them.

$$W = W_0 + s\, P\, \Lambda\, Q$$

| variable | in the paper | shape |
|---|---|---|
| `P` | $P$ | [d_out, r_max], columns p_k |
| `lam` | diagonal of $\Lambda$ | [r_max] |
| `Q` | $Q$ | [r_max, d_in], rows q_k |
| `scale` | (none, 1) | scalar s, independent of the rank |

Rank r activates the first r components. The other components keep their values and cost no computation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal, SupportsIndex

import torch
import torch.nn.functional as F  # noqa: N812 - the name used in PyTorch's documentation
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from airlora.errors import RankPatternError, SettingsError
from airlora.ranks import ModuleShape

__all__ = [
    "SVDFusedLinear",
    "SVDLayer",
    "SVDLinear",
    "SVDResidualLinear",
    "SVDUpdate",
    "add_to_weight",
    "is_linear",
    "linear_shape",
    "orthogonality_penalty",
    "weight_matrix",
]


def is_linear(module: nn.Module) -> bool:
    """Return whether the module is an `nn.Linear` or a `Conv1D` that an update can be attached to.

    The output projection inside `nn.MultiheadAttention` is excluded: PyTorch reads its weight and never calls it.
    """
    return isinstance(module, (nn.Linear, Conv1D)) and not isinstance(module, NonDynamicallyQuantizableLinear)


def linear_shape(layer: nn.Module) -> ModuleShape:
    """Return in- and out-features of an `nn.Linear` or a `Conv1D` (GPT-2's layer with a transposed weight).

    Raises:
        TypeError: The layer is of another class.
    """
    if isinstance(layer, Conv1D):
        return ModuleShape(int(layer.nx), int(layer.nf))
    if isinstance(layer, nn.Linear):
        return ModuleShape(layer.in_features, layer.out_features)
    raise TypeError(f"{type(layer).__name__} is neither nn.Linear nor Conv1D")


def weight_matrix(layer: nn.Module) -> Tensor:
    """Return the layer's weight as a matrix [d_out, d_in] in float64, detached."""
    weight = layer.get_parameter("weight").detach().double()
    return weight.T if isinstance(layer, Conv1D) else weight


def add_to_weight(layer: nn.Module, update: Tensor) -> None:
    """Add a dense update to the layer's weight, in place.

    Args:
        layer: `nn.Linear` or `Conv1D`.
        update: Matrix [d_out, d_in]. The sum is computed in float64 and rounded to the weight's dtype.
    """
    weight = layer.get_parameter("weight")
    oriented = update.T if isinstance(layer, Conv1D) else update
    with torch.no_grad():
        weight.copy_(weight.double() + oriented.to(weight.device).double())


class SVDUpdate(nn.Module):
    r"""The update $s\,P \Lambda Q$ of one projection (Eq. 2).

    A new update is zero and has rank r_max: lam is 0, P has orthonormal columns and Q has orthonormal rows.

    Args:
        d_in: In-features of the projection.
        d_out: Out-features of the projection.
        r_max: Number of components, 1 to min(d_in, d_out).
        scale: Scale s of the update, finite and above 0.
        dropout: Probability of zeroing an input feature during training, 0 <= dropout < 1.
        dtype: Floating-point dtype of P, lam and Q. It may differ from the base model's.
        generator: CPU generator that draws P and Q.

    Raises:
        RankPatternError: r_max is below 1 or larger than a dimension.
        SettingsError: scale, dropout or dtype is not allowed.

    Source: AirLLM Eq. 2; the form and its initialisation are those of Zhang et al. 2023 (AdaLoRA).

    Examples:
        >>> update = SVDUpdate(6, 4, r_max=3, generator=torch.Generator().manual_seed(0))
        >>> update.set_rank(2)
        >>> update.rank, update(torch.ones(5, 6)).shape
        (2, torch.Size([5, 4]))
    """

    P: nn.Parameter
    lam: nn.Parameter
    Q: nn.Parameter

    def __init__(
        self,
        d_in: int,
        d_out: int,
        r_max: int,
        *,
        scale: float = 1.0,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shape = ModuleShape(d_in, d_out)
        if not 1 <= r_max <= self.shape.max_rank:
            allowed = f"1 to {self.shape.max_rank}, the smaller dimension of the layer ({d_in} -> {d_out})"
            raise RankPatternError.of("r_max", r_max, allowed)
        if not (math.isfinite(scale) and scale > 0):
            raise SettingsError.of("scale", scale, "a finite number above 0")
        if not 0 <= dropout < 1:
            raise SettingsError.of("dropout", dropout, "a number from 0 to below 1")
        if not dtype.is_floating_point:
            raise SettingsError.of("dtype", dtype, "a floating-point type")
        self.r_max = r_max
        self.scale = scale
        self.dropout = dropout
        self._rank = r_max
        # QR decomposition is not implemented in half precision: draw in float32 or wider, then round.
        exact = torch.promote_types(dtype, torch.float32)
        p = nn.init.orthogonal_(torch.empty(d_out, r_max, dtype=exact), generator=generator)
        q = nn.init.orthogonal_(torch.empty(r_max, d_in, dtype=exact), generator=generator)
        self.P = nn.Parameter(p.to(dtype))
        self.lam = nn.Parameter(torch.zeros(r_max, dtype=dtype))
        self.Q = nn.Parameter(q.to(dtype))

    @property
    def rank(self) -> int:
        """Number of active components."""
        return self._rank

    def set_rank(self, rank: SupportsIndex) -> None:
        """Activate the first `rank` components.

        Args:
            rank: Number of active components, 0 to r_max.

        Raises:
            RankPatternError: The rank is no whole number or outside 0 to r_max.
        """
        if isinstance(rank, bool) or not isinstance(rank, SupportsIndex) or not 0 <= int(rank) <= self.r_max:
            raise RankPatternError.of("rank", rank, f"a whole number, 0 to {self.r_max}")
        self._rank = int(rank)

    def active(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of the active components: P_r [d_out, r], lam_r [r], Q_r [r, d_in]."""
        if self._rank == self.r_max:
            return self.P, self.lam, self.Q
        return self.P[:, : self._rank], self.lam[: self._rank], self.Q[: self._rank]

    def forward(self, x: Tensor) -> Tensor:
        r"""Return $s\,P_r \Lambda_r Q_r x$; the number of operations is proportional to the rank.

        Args:
            x: Inputs [..., d_in].

        Returns:
            Tensor [..., d_out] in the update's dtype, or in autocast's.
        """
        P, lam, Q = self.active()
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(P.dtype)
        if self.training and self.dropout > 0:
            x = F.dropout(x, self.dropout)
        return F.linear(F.linear(x, Q) * (self.scale * lam), P)

    def dense(self) -> Tensor:
        r"""Return $s\,P_r \Lambda_r Q_r$ as a matrix [d_out, d_in] that gradients flow through."""
        P, lam, Q = self.active()
        return (P * (self.scale * lam)) @ Q

    def factors(self) -> tuple[Tensor, Tensor]:
        r"""Return $s\,P_r \Lambda_r$ [d_out, r] and $Q_r$ [r, d_in] in float64, detached."""
        P, lam, Q = (tensor.detach().double() for tensor in self.active())
        return P * (self.scale * lam), Q

    def orthogonality_penalty(self) -> Tensor:
        r"""Return the deviation of the active P_r and Q_r from orthonormality (Eq. 3), a scalar >= 0.

        $$\|P_r^\top P_r - I\|_F^2 + \|Q_r Q_r^\top - I\|_F^2$$
        """
        P, _, Q = self.active()
        # Autocast would compute the products in half precision, whose rounding error exceeds the penalty.
        with torch.autocast(P.device.type, enabled=False):
            exact = torch.promote_types(P.dtype, torch.float32)
            P, Q = P.to(exact), Q.to(exact)
            identity = torch.eye(self._rank, dtype=exact, device=P.device)
            return (P.T @ P - identity).square().sum() + (Q @ Q.T - identity).square().sum()

    def extra_repr(self) -> str:
        """Return the sizes that `print(model)` shows."""
        d_in, d_out = self.shape.d_in, self.shape.d_out
        return f"d_in={d_in}, d_out={d_out}, rank={self._rank}, r_max={self.r_max}, scale={self.scale}"


class SVDLayer(nn.Module, ABC):
    """Base class of the layers that replace a linear layer: the frozen `base` and one or more updates."""

    base: nn.Module

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)

    @property
    def weight(self) -> Any:
        """Weight W0 of the base layer. Some models read a layer's `weight` for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """Bias of the base layer, or None."""
        return self.base.bias

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B [d_out, r] and A [r, d_in] in float64, detached; B A is the update of the layer's weight."""

    def dense(self) -> Tensor:
        """Return the update of the layer's weight as a matrix [d_out, d_in] in float64, detached."""
        B, A = self.factors()
        return B @ A


class SVDLinear(SVDLayer):
    """A linear layer with one update: `base(x) + update(x)` (Eq. 2).

    Args:
        base: `nn.Linear` or `Conv1D`. Its parameters are frozen.
        update: Update with the in- and out-features of the base layer.

    Raises:
        RankPatternError: The shapes of update and layer differ.
    """

    def __init__(self, base: nn.Module, update: SVDUpdate) -> None:
        super().__init__(base)
        _verify_shape(update.shape, linear_shape(base))
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., d_out] for x [..., d_in], in the base layer's dtype."""
        out: Tensor = self.base(x)
        return out + self.update(x).to(out.dtype) if self.update.rank else out

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factors of the update."""
        return self.update.factors()


class SVDResidualLinear(SVDLayer):
    r"""A linear layer whose update acts on its input or on its output.

    $$W = W_0\,(I + s\,P \Lambda Q)\ \text{("in")},\qquad W = (I + s\,P \Lambda Q)\,W_0\ \text{("out")}$$

    This is Eq. 2 with W_0 P in place of P, or with Q W_0 in place of Q. A component then has 2 d_model parameters
    instead of d_model + d_ffn, because the receiver multiplies by its own copy of W_0. The bias is unchanged.

    Args:
        base: `nn.Linear` or `Conv1D`. Its parameters are frozen.
        update: Square update on the layer's in-features ("in") or on its out-features ("out").
        side: Side of the layer that the update acts on, "in" or "out".

    Raises:
        RankPatternError: The update does not have the width of that side.

    Source: Wu et al. 2024 (ReFT) edit what layers read and write by low-rank maps. Here the maps are linear and act on
        the FFN's projections, so that they can be merged into the weight.
    """

    def __init__(self, base: nn.Module, update: SVDUpdate, side: Literal["in", "out"]) -> None:
        super().__init__(base)
        shape = linear_shape(base)
        width = shape.d_in if side == "in" else shape.d_out
        _verify_shape(update.shape, ModuleShape(width, width))
        self.update = update
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., d_out] for x [..., d_in], in the base layer's dtype."""
        if self.side == "in":
            x = x + self.update(x).to(x.dtype) if self.update.rank else x
        out: Tensor = self.base(x)
        if self.side == "in" or not self.update.rank:
            return out
        change: Tensor = self.update(out if self.bias is None else out - self.bias)
        return out + change.to(out.dtype)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the update's factors with W_0 multiplied into B ("in") or into A ("out")."""
        B, A = self.update.factors()
        weight = weight_matrix(self.base)
        return (weight @ B, A) if self.side == "in" else (B, A @ weight)


class SVDFusedLinear(SVDLayer):
    """A linear layer whose output holds several projections side by side, each with its own update and rank.

    Args:
        base: `nn.Linear` or `Conv1D`, such as GPT-2's `c_attn`. Its parameters are frozen.
        updates: Updates by name of the projection, in the order of the output slices. Their out-features add up to the
            layer's.

    Raises:
        RankPatternError: The shapes of the updates do not add up to the layer's.
    """

    def __init__(self, base: nn.Module, updates: Mapping[str, SVDUpdate]) -> None:
        super().__init__(base)
        self._widths = [update.shape.d_out for update in updates.values()]
        for update in updates.values():
            _verify_shape(ModuleShape(update.shape.d_in, sum(self._widths)), linear_shape(base))
        self.updates = nn.ModuleDict(updates)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., d_out] for x [..., d_in], in the base layer's dtype."""
        out: Tensor = self.base(x)
        updates = self._updates()
        if not any(update.rank for update in updates):
            return out
        slices = zip(torch.split(out, self._widths, dim=-1), updates, strict=True)
        return torch.cat([old + update(x).to(out.dtype) if update.rank else old for old, update in slices], dim=-1)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B as a block-diagonal matrix of the updates' left factors, and A as their right factors stacked."""
        blocks, rows = zip(*(update.factors() for update in self._updates()), strict=True)
        B: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return B, torch.cat(rows)

    def _updates(self) -> list[SVDUpdate]:
        return [update for update in self.updates.values() if isinstance(update, SVDUpdate)]


def orthogonality_penalty(updates: Iterable[SVDUpdate], weight: float) -> Tensor:
    """Return the penalty of Eq. 3 summed over the updates and multiplied by `weight`.

    Args:
        updates: Updates of all adapted modules. Updates of rank 0 contribute nothing.
        weight: Factor of the penalty, >= 0. At 0 nothing is computed.

    Returns:
        Scalar to add to the loss.
    """
    penalties = [update.orthogonality_penalty() for update in updates if update.rank] if weight else []
    if not penalties:
        return torch.zeros(())
    device = penalties[0].device
    return weight * torch.stack([penalty.to(device) for penalty in penalties]).sum()


def _verify_shape(update: ModuleShape, layer: ModuleShape) -> None:
    if update != layer:
        raise RankPatternError.of("shape of the update", update, str(layer))
