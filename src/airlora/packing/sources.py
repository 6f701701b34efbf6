"""An adapter as the codec takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from airlora.codec import EncodeOptions, HeadTensor, ModuleUpdate, Rounding
from airlora.packing.qat import Polished
from airlora.ranks import RankPattern

__all__ = ["StreamSources"]


@dataclass(frozen=True, slots=True)
class StreamSources:
    """An adapter as the codec takes it.

    Args:
        updates: Components with their weights, by module; all weights together are 1.
        head: The head's tensors; together they are worth as much as all components, which are nothing without them.
        is_polished: Whether they were trained to make up for their rounding.
    """

    updates: dict[str, ModuleUpdate]
    head: dict[str, HeadTensor]
    is_polished: bool = False

    @property
    def has_metrics(self) -> bool:
        """Whether errors count by what a layer sees, rather than all alike."""
        return any(own.metrics is not None for own in self.updates.values())

    def rounded(self, options: EncodeOptions) -> EncodeOptions:
        """Return the options with the rounding that suits these best, see `Rounding`; fixed bits stay as they are."""
        if options.get("bits", "auto") != "auto":
            return options
        cancels = self.has_metrics and not self.is_polished
        return {**options, "rounding": Rounding.NEAREST if cancels else Rounding.RATE_DISTORTION}

    def plain(self) -> StreamSources:
        """Return these with all errors counting alike."""
        updates = {name: replace(own, metrics=None) for name, own in self.updates.items()}
        return replace(self, updates=updates)

    def cut(self, pattern: RankPattern) -> StreamSources:
        """Return what is left of it at these ranks."""
        return replace(self, updates={name: own.first(pattern[name]) for name, own in self.updates.items()})

    def replaced(self, polished: Polished) -> StreamSources:
        """Return the polished components and head in the place of these, at the same weights."""
        updates = {
            name: replace(self.updates[name].first(own.rank), U=own.left, V=own.right)
            for name, own in polished.updates.items()
        }
        head = {name: HeadTensor(polished.head[name], own.weight) for name, own in self.head.items()}
        return StreamSources(updates, head, is_polished=True)

    def tempered(self, names: Sequence[str], temperature: float) -> StreamSources:
        """Return these with the tensors `names` of the head divided by a temperature, and the logits with them."""
        head = {
            name: replace(own, values=own.values / temperature) if name in names else own
            for name, own in self.head.items()
        }
        return replace(self, head=head)
