"""From a trained adapter to a stream: importance, quantisation-aware fine-tuning, coding."""

from airlora.packing.importance import measure_explained_variance, measure_importance
from airlora.packing.pack import Packing, pack_adapter, stream_sources

__all__ = [
    "Packing",
    "measure_explained_variance",
    "measure_importance",
    "pack_adapter",
    "stream_sources",
]
