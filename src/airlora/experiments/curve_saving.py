r"""Bytes saved at equal accuracy, as Bjontegaard compares video coders.

The mean, over the accuracies that both curves reach, of the difference of the logarithms of their bytes,

$$1 - \exp\Big(\frac{1}{a_1 - a_0} \int_{a_0}^{a_1} \ln b(a) - \ln b'(a)\, da\Big)$$

Notation: b(a), b'(a) bytes that the one and the other need for accuracy a, ln b smooth and monotone between measured
points and never falling (a worse adapter of more bytes does not count); a_0 to a_1 the accuracies of both.

Source: Bjontegaard 2001, VCEG-M33, with piecewise cubics (PCHIP) in the place of one cubic, as JVET has it since 2020.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PchipInterpolator

from airlora.experiments.statistics import half_width

if TYPE_CHECKING:
    from airlora.experiments.curve_report import CurveRow

__all__ = ["Saving", "byte_saving"]

LEAST_SHARED = 0.01
"""Curves that share less of the accuracy than this have no average saving."""


@dataclass(frozen=True)
class Saving:
    """A share of the other one's bytes.

    Args:
        mean: Over runs, by their logarithms; below 0 it costs more.
        interval: Half width of the 95 % interval of the mean over runs; none with fewer than two.
    """

    mean: float
    interval: float | None


def byte_saving(rows: Sequence[CurveRow], series: str, other: str) -> Saving | None:
    """Return the share of `other`'s bytes that `series` saves at equal accuracy, each run for itself.

    None where the curves of a run hardly share any accuracy.  A curve of few points is read too low between them, so
    that a little of a saving beside one is the other's points alone.
    """
    logarithms = []
    for run in _runs(rows, series) or [None]:
        saved = _saving(_curve(rows, series, run), _curve(rows, other, run))
        if saved is None:
            return None
        logarithms.append(saved)
    width = half_width(logarithms)
    mean = statistics.fmean(logarithms)
    # Of the exponential, to first order.
    return Saving(1.0 - math.exp(mean), None if width is None else math.exp(mean) * width)


def _runs(rows: Sequence[CurveRow], series: str) -> list[str | None]:
    return list(dict.fromkeys(point.run for row in rows if row.series == series for point in row.points))


def _curve(rows: Sequence[CurveRow], series: str, run: str | None) -> tuple[list[float], list[float]]:
    """Return accuracies and the logarithms of the bytes, both rising, of a run, or of the means."""
    own = [row for row in rows if row.series == series]
    pairs = (
        [(row.payload_bytes, row.accuracy) for row in own]
        if run is None
        else [(float(p.payload_bytes), p.accuracy) for row in own for p in row.points if p.run == run]
    )
    accuracies: list[float] = []
    logarithms: list[float] = []
    for num_bytes, accuracy in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not accuracies or accuracy > accuracies[-1]:
            accuracies.append(accuracy)
            logarithms.append(math.log(num_bytes))
    return accuracies, logarithms


def _saving(one: tuple[list[float], list[float]], other: tuple[list[float], list[float]]) -> float | None:
    if min(len(one[0]), len(other[0])) < 2:
        return None
    low, high = max(one[0][0], other[0][0]), min(one[0][-1], other[0][-1])
    if high - low < LEAST_SHARED:
        return None
    at = np.linspace(low, high, 201)
    own, others = (PchipInterpolator(*curve)(at) for curve in (one, other))
    return float(np.mean(own - others))
