"""What sending a rank pattern takes: time (Eq. 6), the deadline (Eq. 7), the cost (Eq. 8) and the budget they leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from airlora.channel.limits import verify_bits_per_param, verify_capacity_bps, verify_count, verify_deadline_s
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
"""A budget beyond this (4 PB of FP32) is cut to it: above, rounding no longer tells two counts apart."""


def transfer_time_s(num_params: int, *, capacity_bps: float, bits_per_param: float = 32.0) -> float:
    r"""Return how long sending so many numbers takes, s (Eq. 6).

    $$T = \frac{n\,b}{C}$$

    Notation: n num_params; b bits_per_param; C capacity_bps.

    Args:
        num_params: Numbers to send, >= 0.
        capacity_bps: Link rate, bit/s, > 0.
        bits_per_param: Bits per number, above 0 and at most 64; 32 is FP32.

    Raises:
        ChannelError: A value is outside its limits.

    Source: AirLLM Eq. 6.

    >>> transfer_time_s(1000, capacity_bps=64_000.0)
    0.5
    """
    verify_count("num_params", num_params)
    verify_capacity_bps(capacity_bps)
    verify_bits_per_param(bits_per_param)
    return num_params * bits_per_param / capacity_bps


def transfer_times_s(
    pattern: RankPattern, shapes: Mapping[str, ModuleShape], *, capacity_bps: float, bits_per_param: float = 32.0
) -> dict[str, float]:
    r"""Return how long each module of a pattern takes, s (Eq. 6).

    $$T_m = \frac{r_m (d^{in}_m + d^{out}_m + 1)\,b}{C}$$

    Notation: r_m pattern[m]; d shapes[m]; b bits_per_param; C capacity_bps.

    Args:
        pattern: Rank per module.
        shapes: In- and out-features per module, same keys.
        capacity_bps: Link rate, bit/s, > 0.
        bits_per_param: Bits per number, above 0 and at most 64.

    Returns:
        Seconds per module, in the order of the pattern.

    Raises:
        RankPatternError: Pattern and shapes name different modules, or a rank is too large.
        ChannelError: A value is outside its limits.

    Source: AirLLM Eq. 6, with true d_in and d_out (the paper writes 2 d_h).

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
    r"""Return the share of the deadline that sending the pattern takes (Eq. 8).

    $$\eta = \frac{b \left(\sum_m r_m (d^{in}_m + d^{out}_m + 1) + n_{head}\right)}{C\,T_{max}}$$

    Notation: r_m pattern[m]; d shapes[m]; n_head head_params; C capacity_bps; T_max deadline_s; b bits_per_param.

    Args:
        pattern: Rank per module.
        shapes: In- and out-features per module, same keys.
        capacity_bps: Link rate, bit/s, > 0.
        deadline_s: Time allowed, s, > 0.
        bits_per_param: Bits per number, above 0 and at most 64.
        head_params: Numbers of a trained head that travels with the adapter, >= 0.

    Returns:
        A ratio; the transfer meets the deadline if it is <= 1.

    Raises:
        RankPatternError: Pattern and shapes name different modules, or a rank is too large.
        ChannelError: A value is outside its limits.

    Source: AirLLM Eq. 8, with true d_in and d_out (the paper writes 2 d_h); the head is our addition.

    >>> communication_cost(RankPattern({"q": 2}), {"q": ModuleShape(4, 3)}, capacity_bps=512.0, deadline_s=2.0)
    0.5
    """
    verify_count("head_params", head_params)
    return _cost(pattern.num_params(shapes) + head_params, capacity_bps, deadline_s, bits_per_param)


def paper_communication_cost(
    ranks: Iterable[int], hidden_size: int, *, capacity_bps: float, deadline_s: float, bits_per_param: float = 32.0
) -> float:
    r"""Return the paper's own cost, which takes every projection as square (Eq. 8 to the letter).

    $$\eta = \frac{b \sum_m r_m (2 d_h + 1)}{C\,T_{max}}$$

    Use it only beside the paper's tables; `communication_cost` is what a transfer really takes.

    Args:
        ranks: Rank per module, >= 0.
        hidden_size: d_h, >= 1.
        capacity_bps: Link rate, bit/s, > 0.
        deadline_s: Time allowed, s, > 0.
        bits_per_param: Bits per number, above 0 and at most 64.

    Raises:
        RankPatternError: The hidden size is below 1.
        ChannelError: A value is outside its limits.

    Source: AirLLM Eq. 8.

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
    r"""Return whether the pattern arrives in time (Eq. 7): $\sum_m T_m \le T_{max}$, the head counted.

    Arguments and errors are those of `communication_cost`.
    """
    cost = communication_cost(
        pattern,
        shapes,
        capacity_bps=capacity_bps,
        deadline_s=deadline_s,
        bits_per_param=bits_per_param,
        head_params=head_params,
    )
    return cost <= 1.0


def verify_within_deadline(
    pattern: RankPattern,
    shapes: Mapping[str, ModuleShape],
    *,
    capacity_bps: float,
    deadline_s: float,
    bits_per_param: float = 32.0,
    head_params: int = 0,
) -> None:
    """Raise `ChannelError` unless the pattern arrives in time (Eq. 7).

    Arguments and other errors are those of `communication_cost`.
    """
    cost = communication_cost(
        pattern,
        shapes,
        capacity_bps=capacity_bps,
        deadline_s=deadline_s,
        bits_per_param=bits_per_param,
        head_params=head_params,
    )
    if cost > 1.0:
        raise ChannelError(
            f"sending the pattern takes {cost * deadline_s:.4g} s at {capacity_bps:.4g} bit/s: "
            f"allowed is deadline_s = {deadline_s:g} at most"
        )


def budget_params(*, capacity_bps: float, deadline_s: float, bits_per_param: float = 32.0, head_params: int = 0) -> int:
    r"""Return how many numbers of an adapter the link carries in time (Eq. 7 solved for the count).

    $$n = \max\left(0, \left\lfloor \frac{C\,T_{max}}{b} \right\rfloor - n_{head}\right)$$

    It agrees with `communication_cost` to the last number: n of them cost at most 1, n + 1 more than 1.

    Args:
        capacity_bps: Link rate, bit/s, > 0.
        deadline_s: Time allowed, s, > 0.
        bits_per_param: Bits per number, above 0 and at most 64.
        head_params: Numbers of a trained head that travels first, >= 0.

    Returns:
        A whole number from 0 to 2^50.

    Raises:
        ChannelError: A value is outside its limits.

    Source: AirLLM Eq. 7.

    >>> budget_params(capacity_bps=1000.0, deadline_s=1.0, head_params=10)
    21
    """
    verify_count("head_params", head_params)
    verify_capacity_bps(capacity_bps)
    verify_deadline_s(deadline_s)
    verify_bits_per_param(bits_per_param)
    carried = math.floor(min(capacity_bps * deadline_s / bits_per_param, float(MAX_BUDGET_PARAMS)))
    # The division may round across a whole number; the cost decides, so that both tell the same story.
    if _cost(carried, capacity_bps, deadline_s, bits_per_param) > 1.0:
        carried -= 1
    elif carried < MAX_BUDGET_PARAMS and _cost(carried + 1, capacity_bps, deadline_s, bits_per_param) <= 1.0:
        carried += 1
    return max(0, carried - int(head_params))


def _cost(num_params: int, capacity_bps: float, deadline_s: float, bits_per_param: float) -> float:
    verify_deadline_s(deadline_s)
    return transfer_time_s(num_params, capacity_bps=capacity_bps, bits_per_param=bits_per_param) / deadline_s
