"""The adapter in the form that the stream encoder reads: weighted components and tensors of the classification head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from airlora.adapters import AdaptedModel, components_of
from airlora.codec import DenseTensor, EncodeOptions, ErrorMetric, ModuleUpdate, Rounding
from airlora.packing.error_metrics import measure_metrics
from airlora.packing.importance import find_measure, measure_importance
from airlora.packing.qat import QatResult
from airlora.ranks import RankPattern
from airlora.tasks import ComputeOptions, EncodedData

__all__ = ["EncoderInput", "make_encoder_input"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """Components and classification head of an adapter, with their importance.

    Args:
        updates: Components and their importance by module name. The importance of all components sums to 1.
        head: Tensors of the classification head. Their importance sums to 1, since components have no effect without
            them.
        is_fine_tuned: Whether the values result from quantisation-aware fine-tuning.
    """

    updates: dict[str, ModuleUpdate]
    head: dict[str, DenseTensor]
    is_fine_tuned: bool = False

    @property
    def has_metrics(self) -> bool:
        """Whether rounding errors are weighted by second moments of activations and gradients."""
        return any(own.metrics is not None for own in self.updates.values())

    def with_rounding(self, options: EncodeOptions) -> EncodeOptions:
        """Return the options with the best rounding for this input (see `Rounding`); fixed bits keep theirs."""
        if options.get("bits", "auto") != "auto":
            return options
        is_nearest = self.has_metrics and not self.is_fine_tuned
        return {**options, "rounding": Rounding.NEAREST if is_nearest else Rounding.RATE_DISTORTION}

    def without_metrics(self) -> EncoderInput:
        """Return the input with equally weighted rounding errors."""
        updates = {name: replace(own, metrics=None) for name, own in self.updates.items()}
        return replace(self, updates=updates)

    def truncated(self, pattern: RankPattern) -> EncoderInput:
        """Return the input with the first components of every module, as many as its rank in the pattern."""
        return replace(self, updates={name: own.first(pattern[name]) for name, own in self.updates.items()})

    def fine_tuned(self, found: QatResult) -> EncoderInput:
        """Return the input with components and head from quantisation-aware fine-tuning, of unchanged importance."""
        updates = {
            name: replace(self.updates[name].first(own.rank), U=own.left, V=own.right)
            for name, own in found.updates.items()
        }
        head = {name: DenseTensor(found.head[name], own.importance) for name, own in self.head.items()}
        return EncoderInput(updates, head, is_fine_tuned=True)

    def with_temperature(self, names: Sequence[str], temperature: float) -> EncoderInput:
        """Return the input with the named head tensors divided by a temperature.

        Args:
            names: Tensors of the layer that computes the logits, which are divided with it.
            temperature: Divisor, > 0.
        """
        head = {
            name: replace(own, values=own.values / temperature) if name in names else own
            for name, own in self.head.items()
        }
        return replace(self, head=head)


def make_encoder_input(
    adapted: AdaptedModel, importance: str, compute: ComputeOptions, *, calibration: EncodedData | None = None
) -> EncoderInput:
    """Return the components of an adapter with their importance, and its classification head.

    If the measure reads calibration samples, the result also holds weights of rounding errors, see `measure_metrics`.

    Args:
        adapted: Model with the trained adapter. It keeps its values and ranks.
        importance: Key of `IMPORTANCE_MEASURES`.
        compute: Device and batch size.
        calibration: Samples on which the adapter was not trained. None for a measure that needs no data.

    Raises:
        AdapterError: The adapter holds values that are not finite.
        SettingsError: The measure is unknown, or needs data and there are none.
        TrainingError: A gradient or an activation is not finite.
    """
    log.info("importance measure: %s", importance)
    components = components_of(adapted)
    ranks = adapted.rank_pattern
    values = measure_importance(adapted, calibration, compute.device, compute.batch_size, importance)
    metrics: Mapping[str, tuple[ErrorMetric, ErrorMetric]] = {}
    if calibration is not None and find_measure(importance).needs_data:
        metrics = measure_metrics(adapted, calibration, compute.device, compute.batch_size)
    adapted.set_ranks(ranks)
    values = values / max(float(values.sum()), 1e-300)
    updates = {}
    for (name, module), weights in zip(components.items(), values, strict=True):
        singular, whole = module.singular_values, module.balanced()
        # Components beyond the rank of the update hold rounding errors alone.
        rank = int((singular > 1e-7 * max(float(singular.max(initial=0.0)), 1e-300)).sum())
        updates[name] = ModuleUpdate(whole.left, whole.right, weights, metrics.get(name)).first(rank)
    # Copies: the model's own tensors change when a decoded adapter is measured.
    head = {name: value.detach().float().cpu().numpy().copy() for name, value in adapted.head_state().items()}
    return EncoderInput(updates, {name: DenseTensor(value, 1.0 / len(head)) for name, value in head.items()})
