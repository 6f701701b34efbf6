r"""What a stream that was just made comes to on the receiver's side, and what that says of its sources.

Components that are few and rough, trained on to make up for it, may get too sure of themselves: their logits point the
right way and are too large.  One number mends that and costs no byte, since the last layer of the head is sent anyway,

$$T^* = \arg\min_{T \ge 1}\ U(z / T)$$

with z the logits of the decoded stream on samples that the adapter was not fitted to.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", for the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from airlora.adapters import AdaptedModel, LowRankUpdate, install_updates
from airlora.codec import DecodedStream, EncodeOptions, StreamHeader, decode_stream, describe, encode_stream, truncate
from airlora.packing.sources import StreamSources
from airlora.tasks import ComputeOptions, EncodedData, Predictions, predict

__all__ = ["Judge", "find_temperature", "predict_decoded"]

LARGEST_TEMPERATURE = 4.0
"""T is sought from 1 up to it: on samples that are few and all right, no logits are too large."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares what streams come to on samples that the adapter was not fitted to.

    Args:
        adapted: The model, which is left as it was.
        header: Of the streams.
        options: How they are coded, if nothing else is said.
        data: The samples.
        compute: Device, batch sizes, precision and seed.
    """

    adapted: AdaptedModel
    header: StreamHeader
    options: EncodeOptions
    data: EncodedData
    compute: ComputeOptions

    def better(
        self,
        first: StreamSources,
        second: StreamSources,
        *,
        cuts: Sequence[float] = (),
        second_options: EncodeOptions | None = None,
    ) -> StreamSources:
        """Return the sources whose stream has the lower loss, each at its best temperature; the first if level.

        Args:
            first: An adapter.
            second: Another one.
            cuts: Sizes in bytes between which and the whole stream it may be cut: halfway to each, on a scale of
                ratios, is measured too and all count alike.
            second_options: How the second is coded.
        """
        loss, found = self._measured(first, self.options, cuts)
        other, alternative = self._measured(second, second_options or self.options, cuts)
        return found if loss <= other else alternative

    def _measured(
        self, sources: StreamSources, options: EncodeOptions, cuts: Sequence[float]
    ) -> tuple[float, StreamSources]:
        data = encode_stream(self.header, sources.updates, sources.head, **sources.rounded(options))
        smallest = describe(data)["head_bytes"]
        sizes = [len(data), *(int(math.sqrt(max(size, smallest) * len(data))) for size in cuts)]
        found = [self._predict(truncate(data, size)) for size in sizes]
        names = self.data.task.logit_tensors({name: tensor.values for name, tensor in sources.head.items()})
        temperature = find_temperature(found) if names else 1.0
        return _mean_loss(found, temperature), sources.tempered(names, temperature)

    def _predict(self, data: bytes) -> Predictions:
        batch_size = self.compute.eval_batch_size
        return predict_decoded(self.adapted, decode_stream(data), self.data, self.compute.device, batch_size)


def predict_decoded(
    adapted: AdaptedModel, decoded: DecodedStream, data: EncodedData, device: torch.device, batch_size: int
) -> Predictions:
    """Return the logits that the decoded adapter gives; the model is left as it was.

    Raises:
        AdapterError: The stream is of another adapter.
        TrainingError: A logit is not finite.
    """
    updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
    with _left_as_it_was(adapted):
        install_updates(adapted, updates, decoded.tensors)
        return predict(adapted.model, data, device, batch_size)


def find_temperature(found: Sequence[Predictions]) -> float:
    """Return T*, the one that is best for the mean over several streams' losses.

    >>> logits = torch.tensor([[4.0, 0.0]] * 4)
    >>> from airlora.tasks import Classification
    >>> task = Classification(label_names=("negative", "positive"))
    >>> round(find_temperature([Predictions(task, logits, [0, 0, 0, 1])]), 2)  # 4 / log 3, for odds of 3 to 1
    3.64
    """
    bounds = 0.0, math.log(LARGEST_TEMPERATURE)
    best = minimize_scalar(lambda log: _mean_loss(found, math.exp(log)), bounds=bounds, method="bounded")
    temperature = math.exp(float(best.x))
    return temperature if _mean_loss(found, temperature) < _mean_loss(found, 1.0) else 1.0


def _mean_loss(found: Sequence[Predictions], temperature: float) -> float:
    return float(np.mean([own.loss_at(temperature) for own in found]))


@contextmanager
def _left_as_it_was(adapted: AdaptedModel) -> Iterator[None]:
    ranks, parameters = adapted.rank_pattern, adapted.trainable_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        adapted.set_ranks(ranks)
