"""True utility models to measure losses from."""

from collections.abc import Callable

import numpy as np
import pytest

from airlora.policy import Measurements, UtilityModel


def _model(
    seed: int, num_modules: int = 5, r_max: int = 6, *, text: float = 0.0, coupling: float = 0.0, scale: float = 0.1
) -> UtilityModel:
    generator = np.random.default_rng(seed)
    gains = -np.sort(-generator.exponential(scale, (num_modules, r_max)), axis=1)
    if r_max == 6:
        # Ranks 5 and 6 share a piece between the knots 4 and 6.
        gains[:, 4:] = gains[:, 4:].mean(axis=1, keepdims=True)
    curves = np.concatenate([np.zeros((num_modules, 1)), gains.cumsum(axis=1)], axis=1)
    basis = curves / curves[:, -1:]
    pairs = np.triu(generator.normal(size=(num_modules, num_modules)) * coupling, 1)
    return UtilityModel(
        curves=curves,
        text_curves=text * generator.normal(size=(2, num_modules, 1)) * basis,
        text_mean=np.zeros(2),
        basis=basis,
        coupling=pairs + pairs.T,
    )


def _measure(
    model: UtilityModel, count: int, *, noise: float = 0.0, seed: int = 0, varied: bool = True
) -> Measurements:
    generator = np.random.default_rng(seed)
    ranks = generator.integers(0, model.r_max + 1, (count, model.num_modules))
    texts = generator.normal(size=(count, 2)) if varied else np.zeros((count, 2))
    losses = 2.0 - model.drop(ranks, texts) + noise * generator.normal(size=count)
    return Measurements(ranks, losses, texts)


@pytest.fixture(scope="session")
def true_model() -> Callable[..., UtilityModel]:
    """Concave curves; `text` and `coupling` say how strong those are."""
    return _model


@pytest.fixture(scope="session")
def measure() -> Callable[..., Measurements]:
    """Losses of random patterns, 2 nats at rank 0, at varied texts or one."""
    return _measure
