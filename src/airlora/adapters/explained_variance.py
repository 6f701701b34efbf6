r"""How much of the variance of a projection's inputs each direction explains, for EVA's allocation of ranks.

The inputs of a module over all tokens are the rows of X, singular values sigma.  X itself is never kept: the sums
$\sum x$ and $\sum x x^\top$ have all that is needed, since the eigenvalues of the second are $\sigma^2$.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from airlora.adapters.inject import AdaptedModel
from airlora.adapters.linear import linear_shape
from airlora.errors import ModelError, SettingsError, TrainingError

__all__ = ["explained_variance_ratio"]


@torch.no_grad()
def explained_variance_ratio(
    adapted: AdaptedModel,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    centred: bool = True,
    max_bytes: int = 2**31,
) -> npt.NDArray[np.float64]:
    r"""Return the share of the inputs' variance along each of the first r_max principal directions, module by module.

    $$\xi_{mk} = \frac{\sigma_{mk}^2}{\sum_j \sigma_{mj}^2}$$

    Notation: sigma_mk the k-th largest singular value of module m's inputs, one row per token that is no padding.

    The inputs are those of the model without its updates, in evaluation mode, as EVA sees them before fine-tuning;
    ranks and mode are put back afterwards.  Modules with the same inputs, such as q, k and v of a layer, have the same
    ratios.  The whole decomposition takes the place of EVA's incremental one, which stops when it has converged.

    Args:
        adapted: The model.
        batches: What the model is called with, `attention_mask` among it or else no padding; gone through once, or
            more often if the sums of all modules do not fit into `max_bytes` together.
        centred: Take the mean of the inputs off first, as PEFT's EVA does, of the same authors; else a direction
            shared by all tokens counts as variance.
        max_bytes: Memory for the sums, on the model's device; a single module may take more.

    Returns:
        Float64 [num_modules, r_max], each row falling and of sum 1 or less; zeros where all inputs are equal.

    Raises:
        SettingsError: `max_bytes` is below 1.
        TrainingError: There is no batch, or a module's inputs are not finite.
        ModelError: A module is not called on the batch's tokens, or the adapter has been taken out of the model.

    Source: Paischer et al. 2024 (arXiv:2410.07170), and `peft.tuners.lora.eva`.
    """
    if max_bytes < 1:
        raise SettingsError.of("max_bytes", max_bytes, "a whole number, 1 or more")
    if not batches:
        raise TrainingError("explained variance of no batch: give one or more")
    widths = {name: linear_shape(layer.base).d_in for name, layer in adapted.layers.items()}
    ratios: dict[str, npt.NDArray[np.float64]] = {}
    with _base_alone(adapted):
        for names in _groups(widths, max_bytes):
            for name, moments in _gather(adapted.model, names, batches).items():
                ratios[name] = moments.ratio(adapted.r_max, centred=centred)
    return np.stack([ratios[site.module_name] for site in adapted.sites])


class _Moments:
    """Sums over the rows that a module was called with."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def add(self, inputs: Tensor, kept: Tensor) -> None:
        """Take in inputs [..., d_in] where `kept`, bool [batch, length], is true."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) != kept.numel():
            raise ModelError(f"{self._name} is called on {len(rows)} vectors for a batch of {kept.numel()} tokens")
        rows = rows[kept.reshape(-1).to(rows.device)].double()
        products = rows.T @ rows
        self._count += len(rows)
        self._sum = rows.sum(0) if self._sum is None else self._sum + rows.sum(0)
        self._products = products if self._products is None else self._products.add_(products)

    def ratio(self, num_components: int, *, centred: bool) -> npt.NDArray[np.float64]:
        """Return the first ratios, float64 [num_components]."""
        if self._sum is None or self._products is None:
            raise ModelError(f"{self._name} is not called by the model")
        matrix = self._products
        if centred and self._count:
            matrix = matrix - torch.outer(self._sum, self._sum) / self._count
        if not torch.isfinite(matrix).all():
            raise TrainingError(f"the inputs of {self._name} are not finite")
        # Rounding leaves some eps of the uncentred size: where nothing else is left, all inputs are equal.
        floor = torch.finfo(matrix.dtype).eps * len(matrix) * float(self._products.trace())
        variances = torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0).cpu().numpy()
        total = float(variances.sum())
        if total <= floor:
            return np.zeros(num_components)
        ratio: npt.NDArray[np.float64] = variances[:num_components] / total
        return ratio


def _gather(model: nn.Module, names: Sequence[str], batches: Sequence[Mapping[str, Tensor]]) -> dict[str, _Moments]:
    """Return the sums of these modules' inputs over all batches."""
    moments = {name: _Moments(name) for name in names}
    kept = torch.empty(0, dtype=torch.bool)

    def hook_of(name: str) -> Any:
        return lambda module, inputs: moments[name].add(inputs[0], kept)

    handles = [model.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        for batch in batches:
            mask = batch.get("attention_mask")
            kept = torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return moments


def _groups(widths: Mapping[str, int], max_bytes: int) -> Iterator[list[str]]:
    """Yield modules whose sums, in double precision, fit into the memory together; one at least."""
    group: list[str] = []
    used = 0
    for name, width in widths.items():
        size = 8 * width * (width + 1)
        if group and used + size > max_bytes:
            yield group
            group, used = [], 0
        group.append(name)
        used += size
    yield group


@contextmanager
def _base_alone(adapted: AdaptedModel) -> Iterator[None]:
    """Have no update act and no dropout inside the block."""
    pattern, training = adapted.rank_pattern, adapted.model.training
    adapted.set_ranks([0] * len(adapted.shapes))
    adapted.model.eval()
    try:
        yield
    finally:
        adapted.set_ranks(pattern)
        adapted.model.train(training)
