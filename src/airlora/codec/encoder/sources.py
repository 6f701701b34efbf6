"""What is to be sent, as its maker hands it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.encoder.metric import ErrorMetric, squared_norms
from airlora.codec.format.header import StreamHeader
from airlora.errors import CodecError

__all__ = ["HeadTensor", "ModuleUpdate", "verify_sources"]


@dataclass(frozen=True, slots=True)
class ModuleUpdate:
    r"""The rank-one components of one module, best first: $\Delta W = U V$ with every scale inside.

    Args:
        U: Shape [d_out, r].
        V: Shape [r, d_in].
        weights: w_k, shape [r], >= 0: the loss that is added if component k is not sent, and, times a relative squared
            error of its u or v, the loss that this error adds.
        metrics: In which the errors of u and of v count; None: the Euclidean one.

    Raises:
        CodecError: Shapes do not fit or a value is not finite.
    """

    U: NDArray[Any]
    V: NDArray[Any]
    weights: NDArray[Any]
    metrics: tuple[ErrorMetric, ErrorMetric] | None = None

    def __post_init__(self) -> None:
        if self.U.ndim != 2 or self.V.ndim != 2 or self.U.shape[1] != self.V.shape[0]:
            raise CodecError.of("shapes of U and V", (self.U.shape, self.V.shape), "[d_out, r] and [r, d_in]")
        if self.weights.shape != (self.V.shape[0],):
            raise CodecError.of("shape of weights", self.weights.shape, f"({self.V.shape[0]},)")
        for name, values in (("U", self.U), ("V", self.V), ("weights", self.weights)):
            if not np.isfinite(values).all():
                raise CodecError(f"{name}: holds values that are not finite")
        if (self.weights < 0).any():
            raise CodecError.of("weights", float(self.weights.min()), "numbers of 0 or more")
        if self.metrics is not None and (sizes := tuple(metric.size for metric in self.metrics)) != (
            self.U.shape[0],
            self.V.shape[1],
        ):
            raise CodecError.of("sizes of metrics", sizes, f"d_out and d_in, {self.U.shape[0]} and {self.V.shape[1]}")

    @property
    def metric_pair(self) -> tuple[ErrorMetric | None, ErrorMetric | None]:
        """The metrics of u and v."""
        return (None, None) if self.metrics is None else self.metrics

    def first(self, rank: int) -> ModuleUpdate:
        """Return its first `rank` components."""
        return replace(self, U=self.U[:, :rank], V=self.V[:rank], weights=self.weights[:rank])

    def balance(self) -> NDArray[np.float64]:
        """Return c, [r], with |c u| = |v / c| in the metrics; 1 where a vector is zero."""
        pairs = zip((self.U.T, self.V), self.metric_pair, strict=True)
        u, v = (np.sqrt(squared_norms(rows.astype(np.float32), metric)) for rows, metric in pairs)
        present = (u > 0) & (v > 0)
        return np.where(present, np.sqrt(v / np.where(present, u, 1)), 1.0)

    def balanced(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return c u and v / c as rows, [r, d_out] and [r, d_in], with c of `balance`."""
        c = self.balance()[:, None]
        u, v = self.U.T.astype(np.float32), self.V.astype(np.float32)
        return u * c.astype(np.float32), v * (1 / c).astype(np.float32)


@dataclass(frozen=True, slots=True)
class HeadTensor:
    """A tensor of the head.

    Args:
        values: Any shape.
        weight: The loss that is added if it is not sent, >= 0.

    Raises:
        CodecError: A value is not finite, or the weight is negative.
    """

    values: NDArray[Any]
    weight: float

    def __post_init__(self) -> None:
        if self.values.size == 0 or not np.isfinite(self.values).all():
            raise CodecError("a tensor of the head: is empty or holds values that are not finite")
        if not 0 <= self.weight < float("inf"):
            raise CodecError.of("weight", self.weight, "a number of 0 or more")


def verify_sources(
    header: StreamHeader, updates: Mapping[str, ModuleUpdate], tensors: Mapping[str, HeadTensor]
) -> None:
    """Raise `CodecError` unless every source is in the header, of its shape and within r_max."""
    for name, update in updates.items():
        shape = header.modules.get(name)
        if shape is None:
            raise CodecError.of("module", name, "one of the header's")
        found = (update.U.shape[0], update.V.shape[1])
        if found != (shape.d_out, shape.d_in):
            raise CodecError.of(f"d_out and d_in of {name}", found, str((shape.d_out, shape.d_in)))
        if update.V.shape[0] > header.r_max:
            raise CodecError.of(f"components of {name}", update.V.shape[0], f"at most r_max = {header.r_max}")
    for name, tensor in tensors.items():
        if tensor.values.shape != header.tensors.get(name):
            raise CodecError.of(
                f"shape of {name}", tensor.values.shape, str(header.tensors.get(name, "no such tensor"))
            )
