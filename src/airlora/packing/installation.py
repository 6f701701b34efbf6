"""Adaptation of a base model for the adapter in a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from torch import nn

from airlora.adapters import AdaptedModel, FfnUpdate, inject
from airlora.codec import StreamHeader
from airlora.errors import AdapterError

__all__ = ["adapt_for_stream", "drawn_modules", "head_modules_of", "update_form"]


MAX_DRAWN = 4
"""Largest number of poolers in a header. Each takes time to draw."""


def adapt_for_stream(model: nn.Module, header: StreamHeader) -> AdaptedModel:
    """Add the updates to a base model that a stream has components for, at rank 0.

    Args:
        model: Base model.
        header: Header of the stream.

    Raises:
        AdapterError: The metadata of the stream are invalid.
        ModelError: The model has other modules, or already carries an adapter.
    """
    adapted = inject(
        model,
        r_max=header.r_max,
        seed=0,
        scale=1.0,
        target_modules=_names(header, "target_modules"),
        head_modules=head_modules_of(header),
        ffn_update=update_form(header),
    )
    adapted.set_ranks([0] * len(adapted.shapes))
    return adapted


def head_modules_of(header: StreamHeader) -> list[str] | None:
    """Return the selection of the head in the metadata of a stream; raises `AdapterError` if they are invalid."""
    return _names(header, "head_modules")


def update_form(header: StreamHeader) -> FfnUpdate:
    """Return the side of the FFN's updates in the metadata of a stream; raises `AdapterError` if it is invalid."""
    found = _settings(header).get("adapter.ffn_update", "weight")
    if found in get_args(FfnUpdate):
        return cast(FfnUpdate, found)
    raise AdapterError(f"adapter: its header has ffn_update = {found!r}: allowed is 'weight' or 'residual'")


def drawn_modules(header: StreamHeader) -> list[str]:
    """Return the poolers that the sender has drawn, see `draw_modules`; raises `AdapterError` for other modules."""
    names: Any = header.metadata.get("drawn", [])
    is_list = isinstance(names, list) and all(isinstance(own, str) and "pooler" in own.split(".") for own in names)
    if not is_list or len(set(names)) < len(names) or len(names) > MAX_DRAWN:
        raise AdapterError(
            f"adapter: its header has drawn modules {names!r}: allowed is a list of up to {MAX_DRAWN} different poolers"
        )
    return list(names)


def _settings(header: StreamHeader) -> Mapping[str, Any]:
    chosen = header.metadata.get("set", {})
    if not isinstance(chosen, dict):
        raise AdapterError(f"adapter: its header has settings {chosen!r}: allowed is an object")
    return chosen


def _names(header: StreamHeader, name: str) -> list[str] | None:
    found = _settings(header).get(f"adapter.{name}")
    if found is not None and not (isinstance(found, list) and all(isinstance(part, str) for part in found)):
        raise AdapterError(f"adapter: its header has {name} = {found!r}: allowed is a list of names")
    return found
