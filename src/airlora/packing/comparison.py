r"""Comparison of two adapters as a receiver decodes them, each with the best temperature of its logits.

QAT trains few, coarsely rounded components, which can make the model over-confident: the logits are correctly ordered
and too large.  Temperature scaling corrects them and adds no bytes, since the last layer of the classification head is
part of the stream:

$$T^* = \arg\min_{T \ge 1}\ U(z / T)$$

Notation: z logits of the decoded stream on samples on which the adapter was not trained; U mean cross-entropy; T
temperature.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from airlora.adapters import AdaptedModel, LowRankUpdate, install_updates
from airlora.codec import DecodedStream, EncodeOptions, StreamHeader, decode_stream, describe, encode_stream, truncate
from airlora.packing.encoder_input import EncoderInput
from airlora.tasks import ComputeOptions, EncodedData, Predictions, predict

__all__ = ["StreamComparator", "find_temperature", "predict_decoded"]

log = logging.getLogger(__name__)

MAX_TEMPERATURE = 4.0
"""Upper end of the search. The lower end is 1, since the loss of correct predictions falls as T approaches 0."""


@dataclass(frozen=True, slots=True)
class StreamComparator:
    """Comparison of streams by their loss on samples on which the adapter was not trained.

    Args:
        adapted: Model with the adapter. It keeps its values and ranks.
        header: Stream header.
        options: Options of the encoder.
        data: Samples to measure on.
        compute: Device, batch sizes, precision and seed.
    """

    adapted: AdaptedModel
    header: StreamHeader
    options: EncodeOptions
    data: EncodedData
    compute: ComputeOptions

    def better(
        self,
        first: EncoderInput,
        second: EncoderInput,
        *,
        prefix_bytes: Sequence[float] = (),
        second_options: EncodeOptions | None = None,
    ) -> EncoderInput:
        """Return the input whose stream has the lower loss, with its logits divided by the best temperature.

        Each input is encoded, decoded and measured at its own best temperature. If the losses are equal, the result is
        `first`. A device that decodes the result needs no temperature: the last layer of the head is divided by it.

        Args:
            first: One adapter.
            second: Another adapter.
            prefix_bytes: Sizes in bytes. For each size s, a prefix of sqrt(s * n) bytes of the stream of n bytes is
                measured too. The compared loss is the mean over the stream and these prefixes.
            second_options: Options of the encoder for `second`. None uses `options`.

        Raises:
            CodecError: The encoder does not allow an option or an input.
            TrainingError: A logit is not finite.
        """
        loss, found = self._measure(first, self.options, prefix_bytes)
        other, alternative = self._measure(second, second_options or self.options, prefix_bytes)
        log.info("loss on %d samples: %.4f nats, and %.4f of the alternative", len(self.data), loss, other)
        return found if loss <= other else alternative

    def _measure(
        self, source: EncoderInput, options: EncodeOptions, prefix_bytes: Sequence[float]
    ) -> tuple[float, EncoderInput]:
        data = encode_stream(self.header, source.updates, source.head, **source.with_rounding(options))
        smallest = describe(data)["head_bytes"]
        sizes = [len(data), *(int(math.sqrt(max(size, smallest) * len(data))) for size in prefix_bytes)]
        found = [self._predict(truncate(data, size)) for size in sizes]
        names = self.data.task.logit_tensors({name: tensor.values for name, tensor in source.head.items()})
        temperature = find_temperature(found) if names else 1.0
        return _mean_loss(found, temperature), source.with_temperature(names, temperature)

    def _predict(self, data: bytes) -> Predictions:
        batch_size = self.compute.eval_batch_size
        return predict_decoded(self.adapted, decode_stream(data), self.data, self.compute.device, batch_size)


def predict_decoded(
    adapted: AdaptedModel, decoded: DecodedStream, data: EncodedData, device: torch.device, batch_size: int
) -> Predictions:
    """Return the predictions of the model with a decoded adapter.

    Args:
        adapted: Model with an adapter. It keeps its values and ranks.
        decoded: Decoded stream or prefix.
        data: Samples to predict.
        device: Device of the model.
        batch_size: Samples per forward pass.

    Raises:
        AdapterError: The stream does not fit the model.
        TrainingError: A logit is not finite.
    """
    updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
    with _restored(adapted):
        install_updates(adapted, updates, decoded.tensors)
        return predict(adapted.model, data, device, batch_size)


def find_temperature(found: Sequence[Predictions]) -> float:
    """Return the temperature from 1 to `MAX_TEMPERATURE` with the lowest mean loss over several predictions.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)
        >>> from airlora.tasks import Classification
        >>> task = Classification(label_names=("negative", "positive"))
        >>> round(find_temperature([Predictions(task, logits, [0, 0, 0, 1])]), 2)  # 4 / log 3, for odds of 3 to 1
        3.64
    """
    bounds = 0.0, math.log(MAX_TEMPERATURE)
    best = minimize_scalar(lambda log_t: _mean_loss(found, math.exp(log_t)), bounds=bounds, method="bounded")
    temperature = math.exp(float(best.x))
    return temperature if _mean_loss(found, temperature) < _mean_loss(found, 1.0) else 1.0


def _mean_loss(found: Sequence[Predictions], temperature: float) -> float:
    return float(np.mean([own.loss_at(temperature) for own in found]))


@contextmanager
def _restored(adapted: AdaptedModel) -> Iterator[None]:
    ranks, parameters = adapted.rank_pattern, adapted.trainable_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        adapted.set_ranks(ranks)
