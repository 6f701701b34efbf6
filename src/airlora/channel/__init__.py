"""The wireless link (III-A2): its fading and its rate, and the cost of sending a rank pattern over it.

`link` draws a link per episode for the environment, from the distributions of `fading` and the rate models of `rates`
(Eq. 5). `budget` converts a rate into transfer time, cost and a budget of parameters (Eq. 6 to 8). `awgn` and `qpsk`
send symbols (Eq. 4). `settings` holds the settings, names and ranges of the package.
"""

from airlora.allocation import project_ranks
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
from airlora.channel.fading import (
    FadingModel,
    FadingProcess,
    NoFading,
    RayleighFading,
    RicianFading,
    jakes_correlation,
    make_fading,
)
from airlora.channel.limits import db_to_linear, linear_to_db
from airlora.channel.link import (
    Link,
    LinkModel,
    LinkProcess,
    LinkState,
    Range,
    make_link,
    register_link_process,
)
from airlora.channel.qpsk import demodulate_qpsk, modulate_qpsk, qpsk_bit_error_rate
from airlora.channel.rates import capacity_bps, ergodic_bps, outage_bps, shannon_bps
from airlora.channel.settings import MAX_SNR_DB, MIN_SNR_DB, ChannelSettings, DeadlineMode, FadingKind, RateModel

__all__ = [
    "MAX_SNR_DB",
    "MIN_SNR_DB",
    "ChannelSettings",
    "ComplexArray",
    "DeadlineMode",
    "FadingKind",
    "FadingModel",
    "FadingProcess",
    "Link",
    "LinkModel",
    "LinkProcess",
    "LinkState",
    "NoFading",
    "Range",
    "RateModel",
    "RayleighFading",
    "RicianFading",
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
    "make_fading",
    "make_link",
    "modulate_qpsk",
    "outage_bps",
    "paper_communication_cost",
    "project_ranks",
    "qpsk_bit_error_rate",
    "register_link_process",
    "scale_to_power",
    "shannon_bps",
    "snr",
    "transfer_time_s",
    "transfer_times_s",
    "transmit",
    "verify_power",
    "verify_within_deadline",
]
