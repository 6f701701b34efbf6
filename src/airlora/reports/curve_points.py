"""Points of a curve of the primary metric against bytes, their means over runs, and savings at equal quality."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from airlora.errors import SettingsError
from airlora.reports.statistics import half_width
from airlora.tasks import Metric

__all__ = [
    "CURVE_METHODS",
    "PEFT_METHODS",
    "CurvePoint",
    "CurveRow",
    "Lead",
    "Saving",
    "best_within",
    "byte_saving",
    "lead_within",
    "pareto_front",
    "summarise_curve",
]

CURVE_METHODS = {
    "stream": "prefixes of one stream with quantisation-aware fine-tuning",
    "sized": "one stream per size, with quantisation-aware fine-tuning for receivers of the whole stream",
    "seeded": "one stream per size, of coefficients that a seed spreads over all components, trained under rounding",
    "unpolished": "prefixes of one stream without quantisation-aware fine-tuning",
    "singular": "prefixes of one stream with importance by singular value",
    "constant": "the adapter with one rank for all modules, largest singular values first",
    "full": "the whole adapter in float32",
    "adalora": "PEFT AdaLoRA, trained at each rank",
    "lora": "PEFT LoRA, trained at each rank",
    "unilora": "PEFT Uni-LoRA: one vector that all modules share, trained at each length",
    "vera": "PEFT VeRA: two scaling vectors per module, trained at each rank",
    "fourierft": "PEFT FourierFT: coefficients of a sparse spectrum per module, trained at each number",
    "tinylora": "PEFT TinyLoRA: a vector per module, trained at each length",
    "vblora": "PEFT VB-LoRA: a bank of vectors that all modules choose from, trained at each number",
    "ia3": "PEFT IA3: scales of keys, values and the FFN",
    "ln_tuning": "PEFT LayerNorm tuning",
}
"""Methods by name, with their description."""

PEFT_METHODS = tuple(name for name, text in CURVE_METHODS.items() if text.startswith("PEFT"))
"""Methods that train an adapter of PEFT."""


@dataclass(frozen=True)
class CurvePoint:
    """Primary metric and loss of one adapter at one size.

    Args:
        run: Folder of the run.
        job: Job that measured the point: a method, and the rank or size of what it trains or packs.
        series: Line of the figure: a method, and its precision if that is fixed.
        label: Name of the point within its series, equal for all runs.
        payload_bytes: Size of the payload, bytes. For PEFT's adapters, that of parameters and scales.
        num_components: Number of rank-one components.
        accuracy: Value of the primary metric of the task.
        loss: Mean loss.
        cpu_seconds: CPU time of the job's training or packing, which its points share.
        fingerprint: Digest of version, adapter, data and settings. A point with another digest is measured again.
    """

    run: str
    job: str
    series: str
    label: str
    payload_bytes: int
    num_components: int
    accuracy: float
    loss: float
    cpu_seconds: float = 0.0
    fingerprint: str = ""


@dataclass(frozen=True)
class CurveRow:
    """Means over runs of the points with one series and label.

    Args:
        series: Line of the figure.
        label: Name of the point within its series.
        num_runs: Number of runs.
        payload_bytes: Mean size of the payload, bytes.
        num_components: Mean number of components.
        accuracy: Mean value of the primary metric.
        accuracy_interval: Half width of its 95 % confidence interval. None for one run.
        loss: Mean loss.
        loss_interval: Half width of the 95 % confidence interval of the loss. None for one run.
        metric: Primary metric of the task.
        points: Points of the runs.
    """

    series: str
    label: str
    num_runs: int
    payload_bytes: float
    num_components: float
    accuracy: float
    accuracy_interval: float | None
    loss: float
    loss_interval: float | None
    metric: Metric
    points: tuple[CurvePoint, ...] = ()

    @property
    def method(self) -> str:
        """Key of `CURVE_METHODS`."""
        return self.series.split()[0]

    @property
    def bits(self) -> int:
        """Bits per parameter; 0 for a series without a fixed precision."""
        return int(self.series.split()[1]) if " " in self.series else 0

    @property
    def cpu_seconds(self) -> float:
        """Mean CPU time of the training or packing."""
        return statistics.fmean(point.cpu_seconds for point in self.points) if self.points else 0.0

    @property
    def score(self) -> float:
        """Value of the primary metric, negated if lower is better."""
        return self.metric.oriented(self.accuracy)

    @property
    def text(self) -> str:
        """Value of the primary metric as text."""
        return self.metric.text(self.accuracy)


def summarise_curve(points: Sequence[CurvePoint], metric: Metric) -> list[CurveRow]:
    """Return the means of the points that every run has, in the order of methods, precision and bytes.

    Args:
        points: Points of all runs.
        metric: Primary metric of the task.

    Raises:
        SettingsError: No point was measured on every run.
    """
    num_runs = len({point.run for point in points})
    groups: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault((point.series, point.label), []).append(point)
    rows = [
        CurveRow(
            series,
            label,
            len(group),
            statistics.fmean(point.payload_bytes for point in group),
            statistics.fmean(point.num_components for point in group),
            statistics.fmean(point.accuracy for point in group),
            half_width([point.accuracy for point in group]),
            statistics.fmean(point.loss for point in group),
            half_width([point.loss for point in group]),
            metric,
            tuple(group),
        )
        for (series, label), group in groups.items()
        if len(group) == num_runs
    ]
    if not rows:
        raise SettingsError("curve: no size was measured on every run; give larger sizes or other methods")
    order = list(CURVE_METHODS)
    return sorted(rows, key=lambda row: (order.index(row.method), -row.bits, row.payload_bytes))


def pareto_front(rows: Sequence[CurveRow], quantity: str = "loss") -> list[CurveRow]:
    """Return the rows that no row of at most as many bytes excels, by increasing bytes.

    Args:
        rows: Rows to choose from.
        quantity: "loss", or "accuracy" for the primary metric.
    """
    front: list[CurveRow] = []
    for row in sorted(rows, key=lambda row: (row.payload_bytes, -_quality(row, quantity))):
        if not front or _quality(row, quantity) > _quality(front[-1], quantity):
            front.append(row)
    return front


def _quality(row: CurveRow, quantity: str) -> float:
    """Return a value that is larger for a better row."""
    return -row.loss if quantity == "loss" else row.score


def best_within(rows: Sequence[CurveRow], methods: Collection[str], max_bytes: float) -> CurveRow | None:
    """Return the row of least loss of some methods within a size, or None if they have none so small.

    Args:
        rows: Result of `summarise_curve`.
        methods: Keys of `CURVE_METHODS`.
        max_bytes: Largest size, bytes.
    """
    own = [row for row in rows if row.method in methods and row.payload_bytes <= max_bytes]
    return min(own, key=lambda row: row.loss, default=None)


@dataclass(frozen=True)
class Lead:
    """Difference of two losses.

    Args:
        mean: Mean over runs of the difference in each run, nats.
        interval: Half width of its 95 % confidence interval. None for one run.
    """

    mean: float
    interval: float | None


def lead_within(
    rows: Sequence[CurveRow], methods: Collection[str], others: Collection[str], max_bytes: float
) -> Lead | None:
    """Return the loss of the best row of `methods` within a size minus that of `others`, or None if one has no row.

    The best rows are those of least mean loss. Both have the same runs, so the interval is that of paired differences.

    Args:
        rows: Result of `summarise_curve`.
        methods: Keys of `CURVE_METHODS`.
        others: Keys of `CURVE_METHODS`.
        max_bytes: Largest size, bytes.
    """
    own, other = best_within(rows, methods, max_bytes), best_within(rows, others, max_bytes)
    if own is None or other is None:
        return None
    losses = {point.run: point.loss for point in other.points}
    differences = [point.loss - losses[point.run] for point in own.points]
    return Lead(statistics.fmean(differences), half_width(differences))


MIN_COMMON_RANGE = 0.01
"""Smallest width of the range of the primary metric or loss that two curves must share for an average saving."""


@dataclass(frozen=True)
class Saving:
    """Share of the bytes of another curve that a curve saves.

    Args:
        mean: Mean over runs, of the logarithms of the bytes. Negative if the curve needs more bytes.
        interval: Half width of the 95 % confidence interval of the mean. None for one run.
    """

    mean: float
    interval: float | None


def byte_saving(
    rows: Sequence[CurveRow], series: Collection[str], other: Collection[str], *, quantity: str = "accuracy"
) -> Saving | None:
    r"""Return the share of the bytes of `other` that `series` saves at an equal primary metric or loss, over all runs.

    $$1 - \exp\Big(\frac{1}{a_1 - a_0} \int_{a_0}^{a_1} \ln b(a) - \ln b'(a)\, da\Big)$$

    The result is None if the two curves of a run have hardly any range in common. Interpolation between few points
    underestimates the metric, which slightly favours the curve with more points.

    Notation: b(a), b'(a) bytes of `series` and `other` at metric a, with ln b monotone and smooth between measured
    points; a_0, a_1 ends of the range of the metric of both.

    Args:
        rows: Result of `summarise_curve`.
        series: Series or methods whose saving is computed. Together they have the best of their rows at every size.
        other: Series or methods to compare with.
        quantity: "accuracy" for the primary metric, or "loss".

    Source: Bjontegaard 2001, VCEG-M33, with piecewise cubics (PCHIP) instead of one cubic, as in JVET since 2020.
    """
    logarithms = []
    for run in _runs(rows, series) or [None]:
        saved = _saving(_curve(rows, series, run, quantity), _curve(rows, other, run, quantity))
        if saved is None:
            return None
        logarithms.append(saved)
    width = half_width(logarithms)
    mean = statistics.fmean(logarithms)
    # The interval of the exponential, to first order.
    return Saving(1.0 - math.exp(mean), None if width is None else math.exp(mean) * width)


def _belongs(row: CurveRow, series: Collection[str]) -> bool:
    return row.series in series or row.method in series


def _runs(rows: Sequence[CurveRow], series: Collection[str]) -> list[str | None]:
    return list(dict.fromkeys(point.run for row in rows if _belongs(row, series) for point in row.points))


def _curve(
    rows: Sequence[CurveRow], series: Collection[str], run: str | None, quantity: str
) -> tuple[list[float], list[float]]:
    """Return qualities and logarithms of bytes of a run, or of the means over runs, both increasing."""
    own = [row for row in rows if _belongs(row, series)]
    if run is None:
        pairs = [(row.payload_bytes, _quality(row, quantity)) for row in own]
    else:
        pairs = [
            (float(point.payload_bytes), -point.loss if quantity == "loss" else row.metric.oriented(point.accuracy))
            for row in own
            for point in row.points
            if point.run == run
        ]
    qualities: list[float] = []
    logarithms: list[float] = []
    for num_bytes, quality in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not qualities or quality > qualities[-1]:
            qualities.append(quality)
            logarithms.append(math.log(num_bytes))
    return qualities, logarithms


def _saving(one: tuple[list[float], list[float]], other: tuple[list[float], list[float]]) -> float | None:
    if min(len(one[0]), len(other[0])) < 2:
        return None
    low, high = max(one[0][0], other[0][0]), min(one[0][-1], other[0][-1])
    if high - low < MIN_COMMON_RANGE:
        return None
    at = np.linspace(low, high, 201)
    own, others = (PchipInterpolator(*curve)(at) for curve in (one, other))
    return float(np.mean(own - others))
