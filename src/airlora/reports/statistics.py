"""Confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student_t

__all__ = ["half_width"]


def half_width(values: Sequence[float]) -> float | None:
    """Return the half width of the 95 % confidence interval of a mean, by Student's t; None for fewer than two values.

    Examples:
        >>> round(half_width([1.0, 3.0]), 1)
        12.7
    """
    if len(values) < 2:
        return None
    return float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
