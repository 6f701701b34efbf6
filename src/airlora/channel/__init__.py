"""The wireless link (III-A2): what it carries, how it moves, and what a rank pattern costs on it.

`awgn` and `qpsk` send symbols (Eq. 4); `fading` moves the gain; `rates` turns an SNR into bit/s (Eq. 5); `budget`
turns bit/s into time, cost and a count of numbers (Eq. 6 to 8); `deadline` cuts a pattern down to that count; `link`
draws all of it per block for the environment; `limits` says which values are allowed.
"""

from airlora.channel.awgn import ComplexArray, average_power, equalise, scale_to_power, snr, transmit, verify_power
from airlora.channel.budget import (
    budget_params,
    communication_cost,
    is_within_deadline,
    paper_communication_cost,
    transfer_time_s,
    transfer_times_s,
    verify_within_deadline,
)
from airlora.channel.deadline import DeadlineMode, project_ranks
from airlora.channel.fading import FadingKind, FadingModel, FadingProcess, jakes_correlation
from airlora.channel.limits import (
    MAX_SNR_DB,
    MIN_SNR_DB,
    db_to_linear,
    linear_to_db,
    verify_bandwidth_hz,
    verify_bits_per_param,
    verify_capacity_bps,
    verify_deadline_s,
    verify_snr_db,
)
from airlora.channel.link import LinkProcess, LinkState, Range
from airlora.channel.qpsk import demodulate_qpsk, modulate_qpsk, qpsk_bit_error_rate
from airlora.channel.rates import RateModel, capacity_bps, ergodic_bps, outage_bps, shannon_bps
from airlora.channel.settings import ChannelSettings

__all__ = [
    "MAX_SNR_DB",
    "MIN_SNR_DB",
    "ChannelSettings",
    "ComplexArray",
    "DeadlineMode",
    "FadingKind",
    "FadingModel",
    "FadingProcess",
    "LinkProcess",
    "LinkState",
    "Range",
    "RateModel",
    "average_power",
    "budget_params",
    "capacity_bps",
    "communication_cost",
    "db_to_linear",
    "demodulate_qpsk",
    "equalise",
    "ergodic_bps",
    "is_within_deadline",
    "jakes_correlation",
    "linear_to_db",
    "modulate_qpsk",
    "outage_bps",
    "paper_communication_cost",
    "project_ranks",
    "qpsk_bit_error_rate",
    "scale_to_power",
    "shannon_bps",
    "snr",
    "transfer_time_s",
    "transfer_times_s",
    "transmit",
    "verify_bandwidth_hz",
    "verify_bits_per_param",
    "verify_capacity_bps",
    "verify_deadline_s",
    "verify_power",
    "verify_snr_db",
    "verify_within_deadline",
]
