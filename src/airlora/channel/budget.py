"""Transfer time of a rank pattern (Eq. 6), its deadline (Eq. 7), its cost (Eq. 8) and the budget of a deadline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from airlora.channel.limits import verify_count, verify_number
from airlora.channel.settings import BITS_PER_PARAM, CAPACITY_BPS, DEADLINE_S
from airlora.errors import ChannelError
from airlora.ranks import ModuleShape, RankPattern, paper_num_params

__all__ = [
    "budget_params",
    "communication_cost",
    "is_within_deadline",
    "paper_communication_cost",
    "transfer_time_s",
    "transfer_times_s",
    "verify_within_deadline",
]

MAX_BUDGET_PARAMS = 2**50
"""Largest budget that is returned, 4 PB of FP32. Above it, floats cannot distinguish neighbouring counts."""


def transfer_time_s(num_params: int, *, capacity_bps: float, bits_per_param: float = 32.0) -> float:
    r"""Return the transfer time of a number of parameters, s (Eq. 6).

    $$T = \frac{n\,b}{C}$$

    Notation: n num_params; b bits_per_param; C capacity_bps.

    Args:
        num_params: Number of parameters to send, >= 0.
        capacity_bps: Link rate, bit/s, > 0.
        bits_per_param: Bits per parameter, above 0 and at most 64; 32 is FP32.

    Raises:
        ChannelError: A value is out of range.

    Source: AirLLM Eq. 6.

    Examples:
        >>> transfer_time_s(1000, capacity_bps=64_000.0)
        0.5
    """
    verify_count("num_params", num_params)
    verify_number("capacity_bps", capacity_bps, CAPACITY_BPS)
    verify_number("bits_per_param", bits_per_param, BITS_PER_PARAM)
    return num_params * bits_per_param / capacity_bps


def transfer_times_s(
    pattern: RankPattern, shapes: Mapping[str, ModuleShape], *, capacity_bps: float, bits_per_param: float = 32.0
) -> dict[str, float]:
    r"""Return the transfer time of each module of a pattern, s (Eq. 6).

    $$T_m = \frac{r_m (d^{in}_m + d^{out}_m + 1)\,b}{C}$$

    Notation: r_m pattern[m]; d shapes[m]; b bits_per_param; C capacity_bps.

    Args:
        pattern: Rank of each module.
        shapes: Input and output features of each module, with the keys of the pattern.
        capacity_bps: Link rate, bit/s, > 0.
        bits_per_param: Bits per parameter, above 0 and at most 64.

    Returns:
        Transfer time of each module, s, in the order of the pattern.

    Raises:
        RankPatternError: The pattern and the shapes name different modules, or a rank is too large.
        ChannelError: A value is out of range.

    Source: AirLLM Eq. 6, with true d_in and d_out (the paper writes 2 d_h).

    Examples:
        >>> transfer_times_s(RankPattern({"q": 2}), {"q": ModuleShape(4, 3)}, capacity_bps=512.0)
        {'q': 1.0}
    """
    pattern.verify(shapes)
    return {
        name: transfer_time_s(
            rank * shapes[name].params_per_rank, capacity_bps=capacity_bps, bits_per_param=bits_per_param
        )
        for name, rank in pattern.items()
    }


def communication_cost(
    pattern: RankPattern,
    shapes: Mapping[str, ModuleShape],
    *,
    capacity_bps: float,
    deadline_s: float,
    bits_per_param: float = 32.0,
    head_params: int = 0,
) -> float:
    r"""Return the communication cost of a pattern, its transfer time over the deadline (Eq. 8).

    $$\eta = \frac{b \left(\sum_m r_m (d^{in}_m + d^{out}_m + 1) + n_{head}\right)}{C\,T_{max}}$$

    Notation: r_m pattern[m]; d shapes[m]; n_head head_params; C capacity_bps; T_max deadline_s; b bits_per_param.

    Args:
        pattern: Rank of each module.
        shapes: Input and output features of each module, with the keys of the pattern.
        capacity_bps: Link rate, bit/s, > 0.
        deadline_s: Deadline T_max, s, > 0.
        bits_per_param: Bits per parameter, above 0 and at most 64.
        head_params: Parameters of a classification head that is sent with the adapter, >= 0.

    Returns:
        Cost eta. The transfer meets the deadline if it is at most 1.

    Raises:
        RankPatternError: The pattern and the shapes name different modules, or a rank is too large.
        ChannelError: A value is out of range.

    Source: AirLLM Eq. 8, with true d_in and d_out (the paper writes 2 d_h). The head is an addition.

    Examples:
        >>> communication_cost(RankPattern({"q": 2}), {"q": ModuleShape(4, 3)}, capacity_bps=512.0, deadline_s=2.0)
        0.5
    """
    return _pattern_cost(pattern, shapes, capacity_bps, deadline_s, bits_per_param, head_params)


def paper_communication_cost(
    ranks: Iterable[int], hidden_size: int, *, capacity_bps: float, deadline_s: float, bits_per_param: float = 32.0
) -> float:
    r"""Return the communication cost by the paper's equation as printed, with square projections (Eq. 8).

    $$\eta = \frac{b \sum_m r_m (2 d_h + 1)}{C\,T_{max}}$$

    This cost is for comparison with the paper's tables. `communication_cost` is the cost of a real transfer.

    Args:
        ranks: Rank of each module, >= 0.
        hidden_size: Hidden size d_h of the model, >= 1.
        capacity_bps: Link rate, bit/s, > 0.
        deadline_s: Deadline T_max, s, > 0.
        bits_per_param: Bits per parameter, above 0 and at most 64.

    Raises:
        RankPatternError: The hidden size is below 1.
        ChannelError: A value is out of range.

    Source: AirLLM Eq. 8.

    Examples:
        >>> paper_communication_cost([1, 1], hidden_size=4, capacity_bps=576.0, deadline_s=2.0)
        0.5
    """
    return _cost(paper_num_params(ranks, hidden_size), capacity_bps, deadline_s, bits_per_param)


def is_within_deadline(
    pattern: RankPattern,
    shapes: Mapping[str, ModuleShape],
    *,
    capacity_bps: float,
    deadline_s: float,
    bits_per_param: float = 32.0,
    head_params: int = 0,
) -> bool:
    r"""Return whether a pattern meets the deadline (Eq. 7), $\sum_m T_m \le T_{max}$ including the head.

    The arguments and errors are those of `communication_cost`.
    """
    return _pattern_cost(pattern, shapes, capacity_bps, deadline_s, bits_per_param, head_params) <= 1.0


def verify_within_deadline(
    pattern: RankPattern,
    shapes: Mapping[str, ModuleShape],
    *,
    capacity_bps: float,
    deadline_s: float,
    bits_per_param: float = 32.0,
    head_params: int = 0,
) -> None:
    """Raise `ChannelError` unless a pattern meets the deadline (Eq. 7).

    The arguments and other errors are those of `communication_cost`.
    """
    cost = _pattern_cost(pattern, shapes, capacity_bps, deadline_s, bits_per_param, head_params)
    if cost > 1.0:
        raise ChannelError(
            f"sending the pattern takes {cost * deadline_s:.4g} s at {capacity_bps:.4g} bit/s: "
            f"allowed is deadline_s = {deadline_s:g} at most"
        )


def budget_params(*, capacity_bps: float, deadline_s: float, bits_per_param: float = 32.0, head_params: int = 0) -> int:
    r"""Return the number of adapter parameters that a link carries before the deadline (Eq. 7 solved for the count).

    $$n = \max\left(0, \left\lfloor \frac{C\,T_{max}}{b} \right\rfloor - n_{head}\right)$$

    The result agrees exactly with `communication_cost`: n parameters cost at most 1, and n + 1 cost more than 1.

    Args:
        capacity_bps: Link rate, bit/s, > 0.
        deadline_s: Deadline T_max, s, > 0.
        bits_per_param: Bits per parameter, above 0 and at most 64.
        head_params: Parameters of a classification head that is sent first, >= 0.

    Returns:
        Number of parameters, 0 to 2^50.

    Raises:
        ChannelError: A value is out of range.

    Source: AirLLM Eq. 7.

    Examples:
        >>> budget_params(capacity_bps=1000.0, deadline_s=1.0, head_params=10)
        21
    """
    verify_count("head_params", head_params)
    verify_number("capacity_bps", capacity_bps, CAPACITY_BPS)
    verify_number("deadline_s", deadline_s, DEADLINE_S)
    verify_number("bits_per_param", bits_per_param, BITS_PER_PARAM)
    carried = math.floor(min(capacity_bps * deadline_s / bits_per_param, float(MAX_BUDGET_PARAMS)))
    # The division may round across a whole number. The cost decides, so that budget and cost agree.
    if _cost(carried, capacity_bps, deadline_s, bits_per_param) > 1.0:
        carried -= 1
    elif carried < MAX_BUDGET_PARAMS and _cost(carried + 1, capacity_bps, deadline_s, bits_per_param) <= 1.0:
        carried += 1
    return max(0, carried - int(head_params))


def _pattern_cost(
    pattern: RankPattern,
    shapes: Mapping[str, ModuleShape],
    capacity_bps: float,
    deadline_s: float,
    bits_per_param: float,
    head_params: int,
) -> float:
    verify_count("head_params", head_params)
    return _cost(pattern.num_params(shapes) + head_params, capacity_bps, deadline_s, bits_per_param)


def _cost(num_params: int, capacity_bps: float, deadline_s: float, bits_per_param: float) -> float:
    verify_number("deadline_s", deadline_s, DEADLINE_S)
    return transfer_time_s(num_params, capacity_bps=capacity_bps, bits_per_param=bits_per_param) / deadline_s
