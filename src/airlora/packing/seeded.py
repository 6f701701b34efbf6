r"""Training of an adapter whose components are read from the coefficients of a seeded basis, under its own rounding.

$$(U_m, V_m) = S(Q(\theta)), \qquad \frac{\partial L}{\partial \theta} := S^\top \frac{\partial L}{\partial (U, V)}$$

Notation: θ coefficients of the chunks that the receiver has; S linear map of the seeded basis from coefficients to the
factors of all modules; Q rounding by the encoder of the stream. The gradient passes the rounding unchanged
(straight-through estimator). The tensors of the classification head are rounded likewise.

The encoder rounds anew at every step. Its Lagrange multiplier, and with it all steps of the quantiser, follow from the
size of the stream. They are searched for every `RATE_UPDATE_INTERVAL` steps.

Source: Li et al. 2025, "Uni-LoRA", for the shared coefficients; Bengio et al. 2013 for the straight-through estimator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from airlora.adapters import AdaptedModel
from airlora.codec import DenseTensor, SeededBasis, StreamHeader, encode_stream, preview_stream
from airlora.errors import SettingsError

__all__ = ["RATE_UPDATE_INTERVAL", "SeededForm", "encode_coefficients"]

RATE_UPDATE_INTERVAL = 10
"""Steps between two searches of the Lagrange multiplier that holds the stream at its size."""

MAX_SIZE_CORRECTIONS = 8
"""Most searches for the multiplier at which the complete stream has its size."""

SIZE_TOLERANCE = 0.01
"""Share of its size that a stream may be smaller by, without another search."""

INITIAL_BOUND = 0.005
"""Coefficients are drawn uniformly between this value and its negative."""


class SeededForm:
    """Coefficients of a seeded basis in place of the components of an adapted model.

    Before a forward pass, `write` puts the components that belong to the coefficients into the model. After a backward
    pass, `collect` turns the gradient of the components into that of the coefficients. Components and head of the model
    are overwritten by both.

    Args:
        adapted: Model whose r_max is the rank of the basis.
        header: Header of its streams, with the basis.
        stream_bytes: Size of the stream that the coefficients are rounded for, bytes. None does not round.
        seed: Seed of the initial coefficients.

    Attributes:
        chunks: Coefficients of every chunk before rounding, float32 [D_b].
        head: Tensors of the classification head before rounding, by name.
        stream_bytes: Size of the stream, bytes, or None.

    Raises:
        SettingsError: The header has no basis, or its rank is not r_max.
    """

    def __init__(
        self, adapted: AdaptedModel, header: StreamHeader, *, stream_bytes: int | None = None, seed: int = 0
    ) -> None:
        if header.basis is None or header.basis.rank != adapted.r_max:
            found = None if header.basis is None else header.basis.rank
            raise SettingsError.of("rank of the seeded basis", found, f"r_max = {adapted.r_max}")
        self._adapted, self._header, self._basis = adapted, header, header.basis
        self.stream_bytes = stream_bytes
        device = next(iter(adapted.updates.values())).P.device
        num_chunks = len(self._basis.sizes)
        indices = [own.reshape(num_chunks, -1).astype(np.int32) for own in self._basis.indices(adapted.shapes)]
        self._indices = torch.from_numpy(np.concatenate(indices, axis=1)).to(device)
        self._device = device
        generator = torch.Generator().manual_seed(seed)
        drawn = (torch.rand(self._basis.size, generator=generator) * 2 - 1) * INITIAL_BOUND
        self.chunks = [nn.Parameter(own.to(device)) for own in torch.split(drawn, [*self._basis.sizes])]
        self._num_written = num_chunks
        self._model_head = {
            f"{module}.{name}": own
            for module in adapted.head_names
            for name, own in adapted.model.get_submodule(module).named_parameters()
        }
        self.head = {name: nn.Parameter(own.detach().float().clone()) for name, own in self._model_head.items()}
        self._rate = None if stream_bytes is None else _RateControl(header, stream_bytes)
        adapted.set_ranks([self._basis.rank] * len(adapted.shapes))
        for update in adapted.updates.values():
            update.lam.requires_grad_(False)
            update.lam.data.fill_(1.0)

    @property
    def coefficients(self) -> Tensor:
        """Coefficients of all chunks before rounding, float32 [D]."""
        return torch.cat([own.detach() for own in self.chunks])

    @torch.no_grad()
    def write(self, *, rounded: bool, is_rate_due: bool = False, num_chunks: int | None = None) -> None:
        """Put the components that belong to the coefficients, and the head, into the model.

        Args:
            rounded: Whether to round them as the stream does. Nothing is rounded without a size of the stream.
            is_rate_due: Whether to search for the Lagrange multiplier anew.
            num_chunks: Number of chunks that the receiver has. None stands for all.
        """
        coefficients, head = self.coefficients, {name: own.detach() for name, own in self.head.items()}
        if rounded and self._rate is not None:
            tensors = self._tensors()
            if is_rate_due or self._rate.multiplier is None:
                self._rate.search(tensors)
            coefficients, head = self._decoded(self._rate.decoded(tensors))
        self._num_written = len(self.chunks) if num_chunks is None else num_chunks
        scale = self._adapted.scale
        for update, first, count in self._places():
            indices = self._indices[: self._num_written, first : first + count]
            entries = coefficients[indices].sum(dim=0).view(self._basis.rank, -1)
            update.P.copy_(entries[:, : update.shape.d_out].T / scale)
            update.Q.copy_(entries[:, update.shape.d_out :])
        for name, own in self._model_head.items():
            own.copy_(head[name])

    @torch.no_grad()
    def collect(self) -> None:
        """Set the gradients of coefficients and head from those in the model, and clear the latter.

        Chunks that were not written have no gradient.
        """
        gradient, scale = torch.zeros(self._basis.size, device=self._device), self._adapted.scale
        for update, first, count in self._places():
            if update.P.grad is not None and update.Q.grad is not None:
                entries = torch.cat([update.P.grad.T / scale, update.Q.grad], dim=1).float().ravel()
                for indices in self._indices[: self._num_written, first : first + count]:
                    gradient.index_add_(0, indices, entries)
            update.P.grad = update.Q.grad = None
        gradients = torch.split(gradient, [*self._basis.sizes])
        for number, (chunk, own) in enumerate(zip(self.chunks, gradients, strict=True)):
            chunk.grad = own if number < self._num_written else None
        for name, own in self._model_head.items():
            self.head[name].grad = None if own.grad is None else own.grad.float()
            own.grad = None

    def encode(self) -> bytes:
        """Return the stream of the coefficients and the head, at most as large as `stream_bytes` if that is possible.

        Afterwards `write` rounds as this stream does.

        Raises:
            SettingsError: The form has no size.
        """
        if self._rate is None:
            raise SettingsError.of("size of the stream", None, "a number of bytes")
        return self._rate.encode(self._tensors())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the rate control. Coefficients and head are parameters."""
        return {} if self._rate is None else self._rate.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        if self._rate is not None:
            self._rate.load_state_dict(state)

    def _places(self) -> Iterator[tuple[Any, int, int]]:
        """Yield every update with the number of its first entry and of its entries."""
        first = 0
        for update in self._adapted.updates.values():
            count = self._basis.rank * (update.shape.d_in + update.shape.d_out)
            yield update, first, count
            first += count

    def _tensors(self) -> dict[str, DenseTensor]:
        """Return chunks and head as the encoder reads them."""
        # A head may also have buffers, which are not trained.
        head = self._adapted.head_state() | self.head
        return _encoder_tensors(
            self._basis,
            self.coefficients.cpu().numpy(),
            {name: own.detach().float().cpu().numpy() for name, own in head.items()},
        )

    def _decoded(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return coefficients and head on the model's device. What the stream does not hold is 0."""
        device = self._device
        chunks = [tensors.get(name, np.zeros(size, np.float32)) for name, size in self._basis.chunks.items()]
        head = {
            name: torch.from_numpy(tensors[name]).to(device) if name in tensors else torch.zeros_like(own)
            for name, own in self.head.items()
        }
        return torch.from_numpy(np.concatenate(chunks)).to(device), head


def encode_coefficients(
    header: StreamHeader,
    coefficients: npt.NDArray[np.float32],
    head: Mapping[str, npt.NDArray[np.float32]],
    *,
    max_bytes: int,
) -> bytes:
    """Return the stream of trained coefficients, at most as large as `max_bytes` if that is possible.

    Args:
        header: Header of the stream, with the basis.
        coefficients: Coefficients before rounding, float32 [D].
        head: Tensors of the classification head by name.
        max_bytes: Size of the stream, bytes.

    Raises:
        SettingsError: The header has no basis.
        CodecError: The coefficients do not fit the basis, or the size is not allowed.
    """
    if header.basis is None:
        raise SettingsError.of("rank of the seeded basis", None, "that of the coefficients")
    return _RateControl(header, max_bytes).encode(_encoder_tensors(header.basis, coefficients, head))


def _encoder_tensors(
    basis: SeededBasis, coefficients: npt.NDArray[np.float32], head: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, DenseTensor]:
    """Return chunks and head as the encoder reads them.

    The importance of all coefficients sums to 1, as that of the head. A chunk has the share of its energy, so that all
    chunks have the same step.
    """
    chunks = basis.split(coefficients)
    energies = {name: float(np.square(own, dtype=np.float64).sum()) for name, own in chunks.items()}
    total = sum(energies.values()) or 1.0
    return {
        **{name: DenseTensor(own, 1.0 / len(head)) for name, own in head.items()},
        **{name: DenseTensor(own, energies[name] / total) for name, own in chunks.items()},
    }


class _RateControl:
    """Search for the Lagrange multiplier at which a stream has its size.

    The encoder estimates the size of a stream before it searches. The difference to the size found corrects the next
    search.

    Args:
        header: Header of the stream.
        stream_bytes: Size of the stream, bytes.
    """

    def __init__(self, header: StreamHeader, stream_bytes: int) -> None:
        self.multiplier: float | None = None
        self._header, self._stream_bytes, self._wanted_bytes = header, stream_bytes, stream_bytes

    def search(self, tensors: Mapping[str, DenseTensor]) -> bytes:
        """Search for the multiplier, and return the stream."""
        preview = preview_stream(self._header, {}, tensors, max_bytes=self._wanted_bytes)
        self.multiplier = preview.lagrange_multiplier
        data = encode_stream(self._header, {}, tensors, lagrange_multiplier=self.multiplier)
        wanted = self._wanted_bytes + self._stream_bytes - len(data)
        # A size that no multiplier reaches must not move the next searches without end.
        self._wanted_bytes = min(max(1, wanted), 2 * self._stream_bytes)
        return data

    def encode(self, tensors: Mapping[str, DenseTensor]) -> bytes:
        """Return the largest stream that is small enough, or else the smallest, and keep its multiplier."""
        wanted = self._wanted_bytes = self._stream_bytes
        found: list[tuple[bytes, float | None]] = []
        for _ in range(MAX_SIZE_CORRECTIONS):
            found.append((self.search(tensors), self.multiplier))
            if (1 - SIZE_TOLERANCE) * wanted <= len(found[-1][0]) <= wanted:
                break
        data, self.multiplier = max(found, key=lambda own: (len(own[0]) <= wanted, -abs(len(own[0]) - wanted)))
        return data

    def decoded(self, tensors: Mapping[str, DenseTensor]) -> dict[str, npt.NDArray[np.float32]]:
        """Return chunks and head after rounding."""
        return preview_stream(self._header, {}, tensors, lagrange_multiplier=self.multiplier).tensors

    def state_dict(self) -> dict[str, Any]:
        return {"multiplier": self.multiplier, "wanted_bytes": self._wanted_bytes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.multiplier, self._wanted_bytes = state["multiplier"], state["wanted_bytes"]
