"""An adapter as the codec takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from airlora.codec import HeadTensor, ModuleUpdate
from airlora.ranks import RankPattern
from airlora.training.polish import Polished

__all__ = ["StreamSources"]


@dataclass(frozen=True, slots=True)
class StreamSources:
    """An adapter as the codec takes it.

    Args:
        updates: Components with their weights, by module; all weights together are 1.
        head: The head's tensors; together they are worth as much as all components, which are nothing without them.
    """

    updates: dict[str, ModuleUpdate]
    head: dict[str, HeadTensor]

    def cut(self, pattern: RankPattern) -> StreamSources:
        """Return what is left of it at these ranks."""
        return StreamSources({name: own.first(pattern[name]) for name, own in self.updates.items()}, self.head)

    def replaced(self, polished: Polished) -> StreamSources:
        """Return the polished components and head in the place of these, at the same weights."""
        updates = {
            name: replace(self.updates[name].first(own.rank), U=own.left, V=own.right)
            for name, own in polished.updates.items()
        }
        return StreamSources(
            updates, {name: HeadTensor(polished.head[name], own.weight) for name, own in self.head.items()}
        )

    def tempered(self, names: Sequence[str], temperature: float) -> StreamSources:
        """Return these with the tensors `names` of the head divided by a temperature, and the logits with them."""
        head = {
            name: replace(own, values=own.values / temperature) if name in names else own
            for name, own in self.head.items()
        }
        return StreamSources(self.updates, head)
