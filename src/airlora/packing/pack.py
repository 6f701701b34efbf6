"""From a trained adapter to a stream: what components are worth, polishing, coding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from airlora.adapters import AdaptedModel, ModuleComponents, components_of
from airlora.codec import (
    BitWidth,
    DenseTensor,
    EncodeOptions,
    ErrorMetric,
    ModuleUpdate,
    StreamHeader,
    StreamPreview,
    encode_delta,
    encode_stream,
    preview_stream,
    verify_base_stream,
)
from airlora.errors import SettingsError
from airlora.packing.comparison import Judge
from airlora.packing.error_metrics import measure_metrics
from airlora.packing.importance import (
    measure_balanced,
    measure_importance,
    measure_loss_rises,
    measure_path,
    measure_taylor,
)
from airlora.packing.qat import Polished, polish
from airlora.packing.sources import StreamSources
from airlora.progress import ProgressReporter, SilentProgress
from airlora.tasks import ComputeOptions, EncodedData

__all__ = [
    "Importance",
    "Packing",
    "StreamSources",
    "pack_adapter",
    "stream_sources",
    "weigh_components",
]

Importance = Literal["balanced", "path", "gradient", "combined", "taylor", "measured", "singular"]
"""What a component's weight is made of, see `weigh_components`."""

MEASURED_FLOOR = 0.05
"""Share of the weights, by singular value, that `measured` gives beside what it measures, which may be nothing."""

SMALLEST_CUT_BYTES = 2000.0
"""Polishing draws no smaller cut: below it, little but the head has come."""

POLISH_ROOM = 2.25
"""Bytes of the stream whose components are polished, chosen with all errors counting alike, over those of the stream
where errors cancel.  By errors that cancel, hardly anything of a wide component may seem good enough; what trains under
its rounding wants more."""

AIM_EVERY = 5
"""Of so many roundings while polishing one finds anew what the size that is asked for allows; others keep its price."""

WHOLE_SHARE = 0.5
"""Share of the steps of polishing that take the whole of a stream that may be cut: most links carry it in the end."""

FEATURE_WEIGHT = 5.0
"""How much the steps that take the whole follow the outputs of the adapter's layers."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How an adapter is packed.

    Args:
        bits: "auto" plans the precision of every component; a number is the same for all.
        max_distortion: For "auto": share of the weights that may be lost by rounding and by what is not sent.
        max_bytes: For "auto": about how large the stream may become, in the place of `max_distortion`.
        layers: For "auto": how often a number may be sent, each time finer; more than 1 makes prefixes better.  Four
            reach from a stream of many times the link's bytes down to a few kilobytes; one too many costs nothing.
        polish_steps: Steps of `polish` before it is coded; 0: none.
        whole: Polish for the whole stream alone, in one layer: better there, worse wherever it is cut.
        importance: See `weigh_components`; None: `balanced` for what is polished or made to be taken whole, `path` for
            other streams, whose beginnings have to do with few components as they are.
    """

    bits: BitWidth = "auto"
    max_distortion: float = 0.1
    max_bytes: int | None = None
    layers: int = 4
    polish_steps: int = 0
    whole: bool = False
    importance: Importance | None = None

    def options(self, *, has_head: bool) -> EncodeOptions:
        """Return what the codec is asked for."""
        return {
            "bits": self.bits,
            # The head counts as much as all components, and its own loss is next to nothing at any price.
            "max_distortion": self.max_distortion / (2.0 if has_head else 1.0),
            "max_bytes": self.max_bytes,
            "layers": self.num_layers,
        }

    @property
    def num_layers(self) -> int:
        """How often a number may be sent."""
        return 1 if self.whole else self.layers

    @property
    def weighed_by(self) -> Importance:
        """What components are weighed by."""
        is_path = self.num_layers > 1 and not self.polish_steps
        return self.importance or ("path" if is_path else "balanced")

    def __post_init__(self) -> None:
        if self.importance is not None and self.importance not in get_args(Importance):
            raise SettingsError.of("importance", self.importance, f"one of {', '.join(get_args(Importance))}")
        if self.polish_steps < 0:
            raise SettingsError.of("polish steps", self.polish_steps, "a whole number, 0 or more")
        if not 0.0 < self.max_distortion < 1.0:
            raise SettingsError.of("distortion", self.max_distortion, "a number above 0 and below 1")
        if self.max_bytes is not None and self.bits != "auto":
            raise SettingsError.of("size", self.max_bytes, "given with bits = auto: a fixed precision has its size")
        if self.polish_steps and self.bits != "auto":
            raise SettingsError.of("polish steps", self.polish_steps, "0 with a fixed number of bits")


def weigh_components(
    components: Mapping[str, ModuleComponents], measured: npt.NDArray[np.float64] | None, importance: Importance
) -> dict[str, npt.NDArray[np.float64]]:
    r"""Return what every component is worth, [r] per module; all weights together are 1.

    | importance | weight | costs |
    |---|---|---|
    | balanced | the geometric mean of `path` and `gradient` | 5 passes |
    | path | what it takes off the loss on the way from no component to all, see `measure_path` | 4 passes |
    | gradient | $\overline{g^2}$: squared gradient of its gate, to second order what the loss gains | a pass |
    | combined | $\sigma \sqrt{\overline{g^2}}$: the geometric mean of `singular` and `gradient` | a pass |
    | singular | $\sigma^2$: what the update loses without it | nothing |
    | taylor | $\lvert\overline{g}\rvert$: to first order how much the loss changes without it | a pass |
    | measured | how much the loss rises without it, on few samples | a forward pass each |

    A pass is forward and backward over the calibration samples.  The gradient says how much the loss leans on a
    component, but from few batches and near the minimum alone; the way there says what it does among few others; the
    singular value knows nothing of the loss and no noise.

    Args:
        components: In canonical order.
        measured: What `measure_balanced`, `measure_path`, `measure_importance` (gradient, combined), `measure_taylor`
            or `measure_loss_rises` gives, [num_modules, r]; not needed by `singular`.
        importance: Which.

    Raises:
        SettingsError: `measured` is needed and missing.
    """
    squares = {name: module.singular_values**2 for name, module in components.items()}
    if importance == "singular":
        return _normalised(squares)
    if measured is None:
        raise SettingsError(f"importance {importance!r} is measured, and so needs calibration data")
    rows = dict(zip(components, measured, strict=True))
    if importance == "combined":
        return _normalised({name: np.sqrt(squares[name] * row) for name, row in rows.items()})
    if importance == "measured":
        rises, floor = _normalised({name: np.maximum(row, 0.0) for name, row in rows.items()}), _normalised(squares)
        return _normalised({name: rises[name] + MEASURED_FLOOR * floor[name] for name in rows})
    return _normalised(rows)


def _normalised(weights: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, npt.NDArray[np.float64]]:
    total = max(sum(float(value.sum()) for value in weights.values()), 1e-300)
    return {name: value / total for name, value in weights.items()}


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
    """Return the stream of an adapter; the adapter is left as it was.

    Args:
        adapted: The model with the trained adapter.
        header: See `stream_header`.
        packing: How.
        compute: Device, batch sizes, precision and seed.
        calibration: Samples that the adapter was not fitted to, for gradients, and to see whether polishing has helped;
            importance `singular` needs none.
        train: Training data, for polishing.
        since: A stream that the device holds: only what changed is sent, unless the whole is smaller.
        watcher: Is told of the progress of polishing.

    Raises:
        AdapterError: The adapter is not finite.
        SettingsError: Data are needed and missing.
        CodecError: What is asked for is not allowed.
    """
    told = watcher or SilentProgress()
    if since is not None:
        verify_base_stream(since, header)
    sources = stream_sources(adapted, packing.weighed_by, compute, calibration=calibration)
    asked = options = packing.options(has_head=bool(sources.head))
    if packing.polish_steps:
        if train is None:
            raise SettingsError.of("polish steps", packing.polish_steps, "0 without training data")
        plan = preview_stream(header, sources.updates, sources.head, **options)
        if packing.max_bytes is None:
            # At the price that the components were planned at: what was left out stays out.
            options = {"lagrange_multiplier": plan.lagrange_multiplier, "layers": packing.num_layers}
        # Where nothing but the head is worth its bytes there is nothing to polish.
        if plan.items:
            if sources.has_metrics:
                plan = _roomier(header, sources, plan, options)
            told.phase("polishing", packing.polish_steps)
            before = sources
            polished = polish(
                adapted,
                train,
                plan,
                _Coder(header, before, options),
                compute,
                steps=packing.polish_steps,
                min_bytes=SMALLEST_CUT_BYTES,
                whole_share=1.0 if packing.whole else WHOLE_SHARE,
                feature_weight=FEATURE_WEIGHT,
                on_step=lambda step, loss: told.step(step, {"loss": loss}),
            )
            sources = before.replaced(polished)
            if calibration is not None:
                judge = Judge(adapted, header, options, calibration, compute)
                cuts = () if packing.whole else (SMALLEST_CUT_BYTES,)
                sources = judge.better(sources, before, cuts=cuts, second_options=asked)
                # What polishing has not helped is coded as if there had been none.
                options = options if sources.is_polished else asked
    options = sources.rounded(options)
    if since is not None:
        return encode_delta(since, header, sources.updates, sources.head, **options)
    return encode_stream(header, sources.updates, sources.head, **options)


def _roomier(
    header: StreamHeader, sources: StreamSources, plan: StreamPreview, options: EncodeOptions
) -> StreamPreview:
    """Return what is polished where `plan` would be sent, see `POLISH_ROOM`."""
    plain, size = sources.plain(), len(encode_stream(header, sources.updates, sources.head, **options))
    room = int(POLISH_ROOM * size)
    finer = preview_stream(header, plain.updates, plain.head, max_bytes=room, layers=options["layers"])
    return finer if finer.items else plan


@dataclass
class _Coder:
    """What the encoder makes of components while they are polished.

    Args:
        header: Of the stream.
        sources: The adapter as it was.
        options: How it will be coded.
    """

    header: StreamHeader
    sources: StreamSources
    options: EncodeOptions
    _num_calls: int = 0
    _price: float | None = None

    def __call__(self, polished: Polished) -> StreamPreview:
        own = self.sources.replaced(polished)
        options = self.options
        if self._num_calls % AIM_EVERY:
            options = {"lagrange_multiplier": self._price, "layers": options["layers"]}
        found = preview_stream(self.header, own.updates, own.head, **own.rounded(options))
        self._num_calls, self._price = self._num_calls + 1, found.lagrange_multiplier
        return found


def stream_sources(
    adapted: AdaptedModel,
    importance: Importance,
    compute: ComputeOptions,
    *,
    calibration: EncodedData | None = None,
) -> StreamSources:
    """Return the adapter's components, weighed, and its head; the arguments are those of `pack_adapter`.

    With calibration data errors count by what a layer sees, see `measure_metrics`; `singular` stays as plain as it is.
    """
    components = components_of(adapted)
    measured = None
    metrics: Mapping[str, tuple[ErrorMetric, ErrorMetric]] = {}
    if importance != "singular" and calibration is not None:
        was = adapted.rank_pattern
        measured = _MEASURES[importance](adapted, calibration, compute.device, compute.batch_size)
        metrics = measure_metrics(adapted, calibration, compute.device, compute.batch_size)
        adapted.set_ranks(was)
    weights = weigh_components(components, measured, importance)
    updates = {}
    for name, module in components.items():
        singular, whole = module.singular_values, module.balanced()
        # Beyond a module's rank there is only rounding.
        rank = int((singular > 1e-7 * max(float(singular.max(initial=0.0)), 1e-300)).sum())
        updates[name] = ModuleUpdate(whole.left, whole.right, weights[name], metrics.get(name)).first(rank)
    head = adapted.head_state()
    return StreamSources(
        updates,
        {name: DenseTensor(value.detach().float().cpu().numpy(), 1.0 / len(head)) for name, value in head.items()},
    )


_MEASURES: dict[Importance, Callable[..., npt.NDArray[np.float64]]] = {
    "balanced": measure_balanced,
    "path": measure_path,
    "combined": measure_importance,
    "gradient": measure_importance,
    "taylor": measure_taylor,
    "measured": measure_loss_rises,
}
