r"""The low-rank update in SVD form (Eq. 2), and the layers that carry it.

$$W = W_0 + s\, P\, \Lambda\, Q$$

| here | in the paper | shape |
|---|---|---|
| `P` | P | [d_out, r_max], columns p_k |
| `lam` | diagonal of Lambda | [r_max] |
| `Q` | Q | [r_max, d_in], rows q_k |
| `scale` | (none, 1) | number s; it does not depend on the rank |

The rank is a cut: the first r components are active, the others keep their values and cost nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal, SupportsIndex

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's documentation gives it
from torch import Tensor, nn

from airlora.adapters.linear import linear_shape, weight_matrix
from airlora.errors import RankPatternError, SettingsError
from airlora.ranks import ModuleShape

__all__ = ["SVDFusedLinear", "SVDLayer", "SVDLinear", "SVDResidualLinear", "SVDUpdate", "orthogonality_penalty"]


class SVDUpdate(nn.Module):
    r"""The update $s\,P \Lambda Q$ of one projection (Eq. 2).

    It starts as zero (lam = 0; P has orthonormal columns, Q orthonormal rows) and at rank r_max.

    Args:
        d_in: In-features of the projection.
        d_out: Out-features.
        r_max: Components held, 1 to min(d_in, d_out).
        scale: s, a finite number above 0.
        dropout: Share of the inputs set to zero while training, 0 <= dropout < 1.
        dtype: Of P, lam and Q; it may differ from the base model's.
        generator: Source of the random P and Q, on the CPU.

    Raises:
        RankPatternError: r_max is below 1 or larger than a dimension.
        SettingsError: scale, dropout or dtype is not allowed.

    Source: AirLLM Eq. 2; Zhang et al. 2023 (AdaLoRA) for the form and the start.

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
        # QR does not exist in half precision: draw in float32 or better, then round.
        exact = torch.promote_types(dtype, torch.float32)
        p = nn.init.orthogonal_(torch.empty(d_out, r_max, dtype=exact), generator=generator)
        q = nn.init.orthogonal_(torch.empty(r_max, d_in, dtype=exact), generator=generator)
        self.P = nn.Parameter(p.to(dtype))
        self.lam = nn.Parameter(torch.zeros(r_max, dtype=dtype))
        self.Q = nn.Parameter(q.to(dtype))

    @property
    def rank(self) -> int:
        """How many components are active."""
        return self._rank

    def set_rank(self, rank: SupportsIndex) -> None:
        """Make the first `rank` components the active ones; raises `RankPatternError` outside 0 to r_max."""
        if isinstance(rank, bool) or not isinstance(rank, SupportsIndex) or not 0 <= int(rank) <= self.r_max:
            raise RankPatternError.of("rank", rank, f"a whole number, 0 to {self.r_max}")
        self._rank = int(rank)

    def active(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of the active parts: P_r [d_out, r], lam_r [r], Q_r [r, d_in]."""
        if self._rank == self.r_max:
            return self.P, self.lam, self.Q
        return self.P[:, : self._rank], self.lam[: self._rank], self.Q[: self._rank]

    def forward(self, x: Tensor) -> Tensor:
        r"""Return $s\,P_r \Lambda_r Q_r x$ [..., d_out] for x [..., d_in]; the work is proportional to the rank.

        The result has the update's dtype, or autocast's; `SVDLinear` casts it to that of the base layer's output.
        """
        P, lam, Q = self.active()
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(P.dtype)
        if self.training and self.dropout > 0:
            x = F.dropout(x, self.dropout)
        return F.linear(F.linear(x, Q) * (self.scale * lam), P)

    def dense(self) -> Tensor:
        r"""Return $s\,P_r \Lambda_r Q_r$ as a matrix [d_out, d_in]."""
        P, lam, Q = self.active()
        return (P * (self.scale * lam)) @ Q

    def factors(self) -> tuple[Tensor, Tensor]:
        r"""Return $s\,P_r \Lambda_r$ [d_out, r] and $Q_r$ [r, d_in] in float64, detached."""
        P, lam, Q = (part.detach().double() for part in self.active())
        return P * (self.scale * lam), Q

    def orthogonality_penalty(self) -> Tensor:
        r"""Return how far the active P_r and Q_r are from orthonormal (Eq. 3); a scalar, >= 0.

        $$\|P_r^\top P_r - I\|_F^2 + \|Q_r Q_r^\top - I\|_F^2$$
        """
        P, _, Q = self.active()
        # Autocast would round the products to half precision, where 1 - 1 is noise.
        with torch.autocast(P.device.type, enabled=False):
            exact = torch.promote_types(P.dtype, torch.float32)
            P, Q = P.to(exact), Q.to(exact)
            identity = torch.eye(self._rank, dtype=exact, device=P.device)
            return (P.T @ P - identity).square().sum() + (Q @ Q.T - identity).square().sum()

    def extra_repr(self) -> str:
        """Return the numbers that `print(model)` shows."""
        d_in, d_out = self.shape.d_in, self.shape.d_out
        return f"d_in={d_in}, d_out={d_out}, rank={self._rank}, r_max={self.r_max}, scale={self.scale}"


class SVDLayer(nn.Module, ABC):
    """What a base layer is replaced by: the frozen `base`, and one update or several beside it."""

    base: nn.Module

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)

    @property
    def weight(self) -> Any:
        """W0, without the update: some models look at a layer's `weight` for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """The base layer's bias, or None."""
        return self.base.bias

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the update of the whole layer's weight as a matrix [d_out, d_in]."""

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B [d_out, r] and A [r, d_in] with B A the update of the weight, in float64, detached."""


class SVDLinear(SVDLayer):
    """A linear layer with an update: `base(x) + update(x)` (Eq. 2).

    Args:
        base: `nn.Linear` or `Conv1D`; it is frozen.
        update: Of the same in- and out-features.

    Raises:
        RankPatternError: The update has another shape than the layer.
    """

    def __init__(self, base: nn.Module, update: SVDUpdate) -> None:
        super().__init__(base)
        _verify_shape(update.shape, linear_shape(base))
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., d_out] for x [..., d_in], in the base layer's dtype."""
        out: Tensor = self.base(x)
        return out + self.update(x).to(out.dtype) if self.update.rank else out

    def dense(self) -> Tensor:
        """Return the update [d_out, d_in]."""
        return self.update.dense()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the update's factors."""
        return self.update.factors()


class SVDResidualLinear(SVDLayer):
    r"""A linear layer whose update acts on its input or on its output.

    $$W = W_0\,(I + s\,P \Lambda Q)\ \text{("in")},\qquad W = (I + s\,P \Lambda Q)\,W_0\ \text{("out")}$$

    It is the update of Eq. 2 with W_0 P in the place of P, or Q W_0 in that of Q: a component takes 2 d_model numbers
    instead of d_model + d_ffn, and the base model, which the receiver has, does the rest.  The bias is not changed.

    Args:
        base: `nn.Linear` or `Conv1D`; it is frozen.
        update: From the layer's in-features to themselves, or from its out-features to themselves.
        side: "in" or "out".

    Raises:
        RankPatternError: The update has another shape.

    Source: the low-rank edits of what layers read and write are those of Wu et al. 2024 (ReFT), here on the FFN's
    projections and linear, so that they can be merged into the weight.
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

    def dense(self) -> Tensor:
        """Return the update of the weight [d_out, d_in]."""
        weight, update = weight_matrix(self.base), self.update.dense()
        product: Tensor = weight @ update.double() if self.side == "in" else update.double() @ weight
        return product.to(self.update.P.dtype)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return B [d_out, r] and A [r, d_in]; the one on the side of the base's weight is multiplied by it."""
        B, A = self.update.factors()
        weight = weight_matrix(self.base)
        return (weight @ B, A) if self.side == "in" else (B, A @ weight)


class SVDFusedLinear(SVDLayer):
    """A linear layer that holds several projections side by side in its output, each with its own update and rank.

    Args:
        base: `nn.Linear` or `Conv1D`, such as GPT-2's `c_attn`; it is frozen.
        parts: Name of the part to its update, in the order of the output slices; together as wide as the output.

    Raises:
        RankPatternError: The parts do not add up to the layer.
    """

    def __init__(self, base: nn.Module, parts: Mapping[str, SVDUpdate]) -> None:
        super().__init__(base)
        for update in parts.values():
            total = sum(part.shape.d_out for part in parts.values())
            _verify_shape(ModuleShape(update.shape.d_in, total), linear_shape(base))
        self.parts = nn.ModuleDict(parts)
        self._widths = [update.shape.d_out for update in parts.values()]

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output [..., d_out] for x [..., d_in], in the base layer's dtype."""
        out: Tensor = self.base(x)
        updates = self._updates()
        if not any(update.rank for update in updates):
            return out
        slices = torch.split(out, self._widths, dim=-1)
        return torch.cat(
            [
                part + update(x).to(out.dtype) if update.rank else part
                for part, update in zip(slices, updates, strict=True)
            ],
            dim=-1,
        )

    def dense(self) -> Tensor:
        """Return the updates one below the other [d_out, d_in]."""
        return torch.cat([update.dense() for update in self._updates()])

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the blocks of B on a diagonal, and the rows of A one below the other."""
        blocks, rows = zip(*(update.factors() for update in self._updates()), strict=True)
        B: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return B, torch.cat(rows)

    def _updates(self) -> list[SVDUpdate]:
        return [part for part in self.parts.values() if isinstance(part, SVDUpdate)]


def orthogonality_penalty(updates: Iterable[SVDUpdate], weight: float) -> Tensor:
    """Return `weight` times the penalty of Eq. 3 summed over the modules; a scalar to add to the loss.

    At weight 0 nothing is computed, and at rank 0 a module costs nothing.
    """
    penalties = [update.orthogonality_penalty() for update in updates if update.rank] if weight else []
    if not penalties:
        return torch.zeros(())
    device = penalties[0].device
    return weight * torch.stack([penalty.to(device) for penalty in penalties]).sum()


def _verify_shape(update: ModuleShape, layer: ModuleShape) -> None:
    if update != layer:
        raise RankPatternError.of("shape of the update", update, str(layer))
