"""Packing a trained adapter into a stream: importance, quantisation-aware fine-tuning (QAT), encoding."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from airlora.adapters import AdaptedModel
from airlora.codec import (
    BitWidth,
    EncodeOptions,
    StreamHeader,
    StreamPreview,
    encode_delta,
    encode_stream,
    preview_stream,
    verify_base_stream,
)
from airlora.errors import SettingsError
from airlora.packing.comparison import StreamComparator
from airlora.packing.encoder_input import EncoderInput, make_encoder_input
from airlora.packing.importance import find_measure
from airlora.packing.qat import QatResult, run_qat
from airlora.progress import ProgressReporter, SilentProgress
from airlora.tasks import ComputeOptions, EncodedData

__all__ = ["Packing", "pack_adapter"]

log = logging.getLogger(__name__)

MIN_PREFIX_BYTES = 2000.0
"""Smallest prefix that QAT trains for. Shorter prefixes hold little more than the classification head."""

WHOLE_SEGMENT_BYTES = 4096
"""Size of the first segments of a stream for receivers of the whole. Each segment less saves 34 bytes."""

QAT_CANDIDATE_RATIO = 2.25
"""QAT trains the components of a stream this many times larger than requested, chosen with equally weighted errors.
Error-cancelling rounding alone would leave too few components of wide modules to train."""

WHOLE_STREAM_SHARE = 0.5
"""Share of QAT steps that train the whole stream, which most links deliver in the end. Others train a prefix."""

FEATURE_WEIGHT = 5.0
"""Weight of the distance between the outputs of the layers, in the QAT steps that train the whole stream."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Options of packing an adapter into a stream.

    Args:
        bits: Bits per parameter: 32, 16, 8 or 4 for all components, or "auto" to choose a precision for each.
        max_distortion: For "auto": share of the total importance that may be lost by rounding and by components that
            are not sent, above 0 and below 1.
        max_bytes: For "auto": approximate size of the stream, bytes. It replaces `max_distortion`.
        layers: For "auto": largest number of times that a parameter is sent, each time finer. More layers make better
            prefixes, from many kilobytes down to a few. A layer that the stream does not need adds no bytes.
        qat_steps: Steps of quantisation-aware fine-tuning before encoding, >= 0.
        whole: Whether to optimise for receivers of the whole stream: QAT trains no prefixes, and there is one layer.
            The whole stream gets better and its prefixes worse.
        importance: Key of `IMPORTANCE_MEASURES`. None selects `balanced_gradient` for streams with QAT or one layer,
            and `integrated_gradient` for others, whose prefixes hold few components.

    Raises:
        SettingsError: A value is not allowed.
    """

    bits: BitWidth = "auto"
    max_distortion: float = 0.1
    max_bytes: int | None = None
    layers: int = 4
    qat_steps: int = 0
    whole: bool = False
    importance: str | None = None

    def options(self, *, has_head: bool) -> EncodeOptions:
        """Return the options of the encoder for an adapter with or without a classification head."""
        options: EncodeOptions = {
            "bits": self.bits,
            # The head has half of the total importance, and hardly any distortion at any size.
            "max_distortion": self.max_distortion / (2.0 if has_head else 1.0),
            "max_bytes": self.max_bytes,
            "layers": self.num_layers,
        }
        return {**options, "min_segment_bytes": WHOLE_SEGMENT_BYTES} if self.whole else options

    @property
    def num_layers(self) -> int:
        """Largest number of times that a parameter is sent."""
        return 1 if self.whole else self.layers

    @property
    def resolved_importance(self) -> str:
        """Importance measure in use: `importance`, or its default for these options."""
        has_short_prefixes = self.num_layers > 1 and not self.qat_steps
        return self.importance or ("integrated_gradient" if has_short_prefixes else "balanced_gradient")

    def __post_init__(self) -> None:
        if self.importance is not None:
            find_measure(self.importance)
        if self.qat_steps < 0:
            raise SettingsError.of("qat_steps", self.qat_steps, "a whole number, 0 or more")
        if not 0.0 < self.max_distortion < 1.0:
            raise SettingsError.of("distortion", self.max_distortion, "a number above 0 and below 1")
        if self.max_bytes is not None and self.bits != "auto":
            raise SettingsError(
                f"size = {self.max_bytes}: needs bits = auto, since {self.bits} bits determine the size"
            )
        if self.qat_steps and self.bits != "auto":
            raise SettingsError.of("qat_steps", self.qat_steps, "0 if the number of bits is fixed")


def pack_adapter(
    adapted: AdaptedModel,
    header: StreamHeader,
    packing: Packing,
    compute: ComputeOptions,
    *,
    calibration: EncodedData | None = None,
    train: EncodedData | None = None,
    since: bytes | None = None,
    watcher: ProgressReporter | None = None,
) -> bytes:
    """Return an adapter as a stream.

    Args:
        adapted: Model with the trained adapter. It keeps its values and ranks.
        header: Stream header, see `stream_header`.
        packing: Options of packing.
        compute: Device, batch sizes, precision and seed.
        calibration: Samples on which the adapter was not trained, for importance and for comparing the stream with and
            without QAT. None for an importance measure that needs no data.
        train: Training data for QAT.
        since: Complete stream that the device holds. The result is the delta to the new one, or the whole stream if
            that is smaller.
        watcher: Receiver of the progress of QAT.

    Raises:
        AdapterError: The adapter holds values that are not finite.
        SettingsError: Data are needed and there are none.
        CodecError: The encoder does not allow an option, or `since` cannot be read.
    """
    if since is not None:
        verify_base_stream(since, header)
    source = make_encoder_input(adapted, packing.resolved_importance, compute, calibration=calibration)
    options = packing.options(has_head=bool(source.head))
    if packing.qat_steps:
        if train is None:
            raise SettingsError.of("qat_steps", packing.qat_steps, "0 without training data")
        source, options = _fine_tune(
            adapted, header, packing, compute, source, options, train, calibration, watcher or SilentProgress()
        )
    options = source.with_rounding(options)
    if since is not None:
        return encode_delta(since, header, source.updates, source.head, **options)
    return encode_stream(header, source.updates, source.head, **options)


def _fine_tune(
    adapted: AdaptedModel,
    header: StreamHeader,
    packing: Packing,
    compute: ComputeOptions,
    source: EncoderInput,
    options: EncodeOptions,
    train: EncodedData,
    calibration: EncodedData | None,
    watcher: ProgressReporter,
) -> tuple[EncoderInput, EncodeOptions]:
    """Return the fine-tuned input and its options, or those given where QAT cannot help or has not helped."""
    preview = preview_stream(header, source.updates, source.head, **options)
    if not preview.items:
        log.info("no QAT: the stream holds the classification head alone")
        return source, options
    qat_options = options
    if packing.max_bytes is None:
        # The Lagrange multiplier is that of the stream before QAT, so that the choice of components stays the same.
        qat_options = {**options, "max_bytes": None, "lagrange_multiplier": preview.lagrange_multiplier}
    if source.has_metrics:
        preview = _qat_candidates(header, source, preview, qat_options)
    watcher.phase("quantisation-aware fine-tuning", packing.qat_steps)
    found = run_qat(
        adapted,
        train,
        preview,
        _RateControlledPreview(header, source, qat_options),
        compute,
        steps=packing.qat_steps,
        min_prefix_bytes=MIN_PREFIX_BYTES,
        whole_stream_share=1.0 if packing.whole else WHOLE_STREAM_SHARE,
        feature_weight=FEATURE_WEIGHT,
        on_step=lambda step, loss: watcher.step(step, {"loss": loss}),
    )
    tuned = source.fine_tuned(found)
    if calibration is not None:
        comparator = StreamComparator(adapted, header, qat_options, calibration, compute)
        prefixes = () if packing.whole else (MIN_PREFIX_BYTES,)
        tuned = comparator.better(tuned, source, prefix_bytes=prefixes, second_options=options)
        log.info("QAT for %d steps: %s", packing.qat_steps, "kept" if tuned.is_fine_tuned else "no better, discarded")
    return tuned, qat_options if tuned.is_fine_tuned else options


def _qat_candidates(
    header: StreamHeader, source: EncoderInput, preview: StreamPreview, options: EncodeOptions
) -> StreamPreview:
    """Return the preview of the components that QAT trains where `preview` would be sent, see `QAT_CANDIDATE_RATIO`."""
    plain, size = source.without_metrics(), len(encode_stream(header, source.updates, source.head, **options))
    max_bytes = int(QAT_CANDIDATE_RATIO * size)
    larger = preview_stream(header, plain.updates, plain.head, max_bytes=max_bytes, layers=options["layers"])
    return larger if larger.items else preview


@dataclass
class _RateControlledPreview:
    """Callable that returns the preview of the stream during QAT and holds the size of the first one.

    The first call searches for the Lagrange multiplier. Each call then multiplies it by the size of its items relative
    to that of the first call: the size falls more slowly than the multiplier rises, so it does not oscillate.

    Args:
        header: Stream header.
        source: Adapter before QAT.
        options: Options of the encoder. A given Lagrange multiplier is kept.
    """

    header: StreamHeader
    source: EncoderInput
    options: EncodeOptions
    _wanted_bytes: float = 0.0
    _multiplier: float | None = None

    def __call__(self, current: QatResult) -> StreamPreview:
        source = self.source.fine_tuned(current)
        options = self.options
        if self._multiplier is not None:
            options = {"lagrange_multiplier": self._multiplier, "layers": options["layers"]}
        preview = preview_stream(self.header, source.updates, source.head, **source.with_rounding(options))
        if self.options.get("max_bytes") is not None and preview.lagrange_multiplier is not None:
            num_bytes = sum(item.num_bytes for item in preview.items)
            self._wanted_bytes = self._wanted_bytes or num_bytes
            ratio = num_bytes / self._wanted_bytes if self._wanted_bytes else 1.0
            self._multiplier = preview.lagrange_multiplier * min(max(ratio, 0.5), 2.0)
        return preview
