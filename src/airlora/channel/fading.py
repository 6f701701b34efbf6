r"""How the complex gain h of Eq. 4 is distributed, and how it moves from block to block.

The mean power is 1 whatever the kind, so that the mean SNR is a setting of its own:

$$h = \sqrt{\tfrac{K}{K+1}} + \sqrt{\tfrac{1}{K+1}}\,s, \quad s \sim \mathcal{CN}(0, 1), \quad E|h|^2 = 1$$

K = 0 is Rayleigh fading, K without bound is no fading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import j0

from airlora.channel.limits import (
    db_to_linear,
    verify_block_s,
    verify_choice,
    verify_doppler_hz,
    verify_k_factor_db,
    verify_number,
)
from airlora.errors import ChannelError, CheckpointError

__all__ = ["FadingKind", "FadingModel", "FadingProcess", "jakes_correlation"]

FadingKind = Literal["none", "rayleigh", "rician"]


@dataclass(frozen=True, slots=True)
class FadingModel:
    """The distribution of h.

    Args:
        kind: "none" (h = 1), "rayleigh" (no line of sight) or "rician".
        k_factor_db: Power of the line of sight over the scattered power, dB; needed by "rician", unused by the others.

    Raises:
        ChannelError: An unknown kind, "rician" without a K factor, or one outside -50 to 50 dB.

    >>> FadingModel("rician", k_factor_db=10.0).k_factor
    10.0
    """

    kind: FadingKind = "none"
    k_factor_db: float | None = None

    def __post_init__(self) -> None:
        verify_choice("fading", self.kind, get_args(FadingKind))
        if self.kind == "rician" and self.k_factor_db is None:
            raise ChannelError.of("k_factor_db", None, "a number from -50 to 50 when fading is rician")
        if self.k_factor_db is not None:
            verify_k_factor_db(self.k_factor_db)

    @property
    def k_factor(self) -> float:
        """K, linear: 0 for Rayleigh fading, infinite for none."""
        if self.kind == "none":
            return math.inf
        if self.kind == "rayleigh" or self.k_factor_db is None:
            return 0.0
        return db_to_linear(self.k_factor_db)

    @property
    def scattered_share(self) -> float:
        """Share of the mean power that is scattered and so fades: 1 / (K + 1)."""
        return 1.0 / (self.k_factor + 1.0)


def jakes_correlation(doppler_hz: float, block_s: float) -> float:
    r"""Return the correlation of the scattered gain over one block.

    $$\rho = J_0(2 \pi f_d \tau)$$

    Beyond $f_d \tau \approx 0.38$ the Bessel function swings below 0, and so may rho: the gain turns its sign.

    Args:
        doppler_hz: Largest Doppler shift f_d = v f_c / c, Hz, >= 0.
        block_s: Time tau between two gains, s, > 0.

    Returns:
        rho, from -0.403 to 1; 1 for a channel that stands still.

    Raises:
        ChannelError: A value is outside its limits.

    Source: Clarke's spectrum, in Jakes, Microwave Mobile Communications, 1974, section 1.1.

    >>> jakes_correlation(0.0, 1.0)
    1.0
    """
    verify_doppler_hz(doppler_hz)
    verify_block_s(block_s)
    return float(j0(2.0 * math.pi * doppler_hz * block_s))


class FadingProcess:
    r"""A complex gain per block, a first-order Gauss-Markov process around the line of sight.

    $$s_{t+1} = \rho\,s_t + \sqrt{1 - \rho^2}\,w_t, \quad w_t \sim \mathcal{CN}(0, 1)$$

    Notation: s_t the scattered part; rho `jakes_correlation`; the line of sight keeps phase 0. The process starts in
    its stationary law. Its autocorrelation is rho^k, which meets Clarke's J0(2 pi f_d k tau) at k = 1 and is a
    simplification beyond.

    The process takes a seed from `generator` once and draws from a generator of its own afterwards, so that nobody
    else's draws move it.

    Args:
        kind: See `FadingModel`.
        k_factor_db: See `FadingModel`.
        doppler_hz: Largest Doppler shift, Hz, >= 0; at 0 the gain keeps its first value.
        block_s: Length of a block, s, > 0.
        generator: Where the seed comes from.

    Raises:
        ChannelError: A value is outside its limits.

    Source: Wang and Chang, "On verifying the first-order Markovian assumption for a Rayleigh fading channel model",
    IEEE Trans. Veh. Technol. 45(2), 1996.
    """

    def __init__(
        self,
        kind: FadingKind,
        *,
        k_factor_db: float | None = None,
        doppler_hz: float = 0.0,
        block_s: float = 1.0,
        generator: np.random.Generator,
    ) -> None:
        self.model = FadingModel(kind, k_factor_db)
        self.correlation = jakes_correlation(doppler_hz, block_s)
        self._generator = np.random.default_rng(generator.integers(2**63, size=2))
        self._scattered = self._draw()

    @property
    def gain(self) -> complex:
        """The gain h of this block."""
        share = self.model.scattered_share
        return math.sqrt(1.0 - share) + math.sqrt(share) * self._scattered

    def step(self) -> complex:
        """Move to the next block and return its gain h."""
        innovation = math.sqrt(1.0 - self.correlation**2)
        self._scattered = self.correlation * self._scattered + innovation * self._draw()
        return self.gain

    def state_dict(self) -> dict[str, Any]:
        """Return what JSON can hold and `load_state_dict` needs to go on bit for bit."""
        return {
            "scattered": [self._scattered.real, self._scattered.imag],
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            CheckpointError: The state is damaged; the process stays as it was.
        """
        generator = np.random.default_rng(0)
        try:
            real, imaginary = state["scattered"]
            verify_number("scattered", real, -math.inf, math.inf)
            verify_number("scattered", imaginary, -math.inf, math.inf)
            generator.bit_generator.state = state["generator"]
        except (ChannelError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(f"state of the fading process is damaged: {error!r}") from error
        self._scattered = complex(real, imaginary)
        self._generator = generator

    def _draw(self) -> complex:
        real, imaginary = self._generator.standard_normal(2) * math.sqrt(0.5)
        return complex(real, imaginary)
