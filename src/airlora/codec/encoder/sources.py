"""Input of the encoder: the components of every module and the dense tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.format.header import StreamHeader
from airlora.errors import CodecError

__all__ = ["DenseTensor", "ModuleUpdate", "verify_sources"]


@dataclass(frozen=True, slots=True)
class ModuleUpdate:
    r"""Rank-one components of one adapted module, in the order in which they are sent.

    The weight update is $\Delta W = U V$ with all scales included.

    Args:
        U: Left factors, [d_out, r].
        V: Right factors, [r, d_in].
        importance: Importance w_k of each component, [r], 0 or more: the increase of the loss if component k is not
            sent. A relative squared error e of its u or v increases the loss by w_k e.
        metrics: Error metrics of u and of v. None uses the Euclidean norm for both.

    Raises:
        CodecError: The shapes do not match, a value is not finite or an importance is negative.
    """

    U: NDArray[Any]
    V: NDArray[Any]
    importance: NDArray[Any]
    metrics: tuple[ErrorMetric, ErrorMetric] | None = None

    def __post_init__(self) -> None:
        if self.U.ndim != 2 or self.V.ndim != 2 or self.U.shape[1] != self.V.shape[0]:
            raise CodecError.of("shapes of U and V", (self.U.shape, self.V.shape), "[d_out, r] and [r, d_in]")
        if self.importance.shape != (self.V.shape[0],):
            raise CodecError.of("shape of importance", self.importance.shape, f"({self.V.shape[0]},)")
        for name, values in (("U", self.U), ("V", self.V), ("importance", self.importance)):
            if not np.isfinite(values).all():
                raise CodecError(f"{name}: contains values that are not finite")
        if (self.importance < 0).any():
            raise CodecError.of("importance", float(self.importance.min()), "numbers of 0 or more")
        sizes = (self.U.shape[0], self.V.shape[1])
        if self.metrics is not None and (found := tuple(metric.size for metric in self.metrics)) != sizes:
            raise CodecError.of("sizes of metrics", found, f"{sizes}, which are d_out and d_in")

    @property
    def metric_pair(self) -> tuple[ErrorMetric | None, ErrorMetric | None]:
        """Error metrics of u and of v. None stands for the Euclidean norm."""
        return (None, None) if self.metrics is None else self.metrics

    def first(self, rank: int) -> ModuleUpdate:
        """Return the update with its first `rank` components only."""
        return replace(self, U=self.U[:, :rank], V=self.V[:rank], importance=self.importance[:rank])

    def balance(self) -> NDArray[np.float64]:
        """Return the factors c that make the norms of c u and v / c equal in their metrics, float [r].

        The factor of a component is 1 if one of its vectors is zero.
        """
        pairs = zip((self.U.T, self.V), self.metric_pair, strict=True)
        u, v = (np.sqrt(squared_norms(rows.astype(np.float32), metric)) for rows, metric in pairs)
        is_nonzero = (u > 0) & (v > 0)
        return np.where(is_nonzero, np.sqrt(v / np.where(is_nonzero, u, 1)), 1.0)

    def balanced(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the rows c u [r, d_out] and v / c [r, d_in] with c from `balance`."""
        c = self.balance()[:, None]
        u, v = self.U.T.astype(np.float32), self.V.astype(np.float32)
        return u * c.astype(np.float32), v * (1 / c).astype(np.float32)


@dataclass(frozen=True, slots=True)
class DenseTensor:
    """Parameter tensor that is sent as a whole, such as the weight of a classification head.

    Args:
        values: Values of the tensor, any shape.
        importance: Increase of the loss if the tensor is not sent, 0 or more.

    Raises:
        CodecError: The tensor is empty, a value is not finite or the importance is negative or infinite.
    """

    values: NDArray[Any]
    importance: float

    def __post_init__(self) -> None:
        if self.values.size == 0 or not np.isfinite(self.values).all():
            raise CodecError("dense tensor: is empty or contains values that are not finite")
        if not 0 <= self.importance < float("inf"):
            raise CodecError.of("importance", self.importance, "a finite number of 0 or more")


def verify_sources(
    header: StreamHeader, updates: Mapping[str, ModuleUpdate], tensors: Mapping[str, DenseTensor]
) -> None:
    """Verify that the header lists every module and tensor with its shape, and that r_max is not exceeded.

    Raises:
        CodecError: A module or tensor does not match the header.
    """
    for name, update in updates.items():
        shape = header.modules.get(name)
        if shape is None:
            raise CodecError.of("module", name, "a module that the header lists")
        found = (update.U.shape[0], update.V.shape[1])
        if found != (shape.d_out, shape.d_in):
            raise CodecError.of(f"d_out and d_in of {name}", found, str((shape.d_out, shape.d_in)))
        if update.V.shape[0] > header.r_max:
            raise CodecError.of(f"components of {name}", update.V.shape[0], f"at most r_max = {header.r_max}")
    shapes = dict(header.tensors)
    if header.basis is not None:
        shapes |= {name: (length,) for name, length in header.basis.chunks.items()}
    for name, tensor in tensors.items():
        if tensor.values.shape != (wanted := shapes.get(name)):
            allowed = "a tensor that the header lists" if wanted is None else str(wanted)
            raise CodecError.of(f"shape of {name}", tensor.values.shape, allowed)
