r"""Explained variance of the inputs of each projection, the statistic that EVA allocates ranks by.

The rows of X are the inputs of a module, one per token, and sigma are its singular values. X is never stored: the
eigenvalues of $\sum x x^\top$ are $\sigma^2$, and $\sum x$ serves to subtract the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from airlora.adapters.injection import AdaptedModel
from airlora.adapters.svd import linear_shape
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
    r"""Return the share of input variance along each of the first r_max principal directions of every module.

    $$\xi_{mk} = \frac{\sigma_{mk}^2}{\sum_j \sigma_{mj}^2}$$

    Notation: sigma_mk k-th largest singular value of the inputs of module m, one row per token that is no padding.

    The inputs are those of the base model in evaluation mode, at rank 0. Ranks and training mode are restored
    afterwards. Modules with equal inputs, such as q, k and v of a layer, have equal ratios. The decomposition is exact,
    whereas EVA updates an incremental one until it converges.

    Args:
        adapted: Model with an adapter.
        batches: Keyword arguments of the model's calls. All tokens count if a batch has no `attention_mask`. The
            batches are iterated more than once if the sums of all modules do not fit into `max_bytes` together.
        centred: Whether the mean of the inputs is subtracted, as in PEFT's EVA. Otherwise a direction that all tokens
            share counts as variance.
        max_bytes: Memory for the sums on the model's device, bytes. The sums of one module may take more.

    Returns:
        Float64 [num_modules, r_max]. Rows are descending and add up to 1 or less. Rows of modules whose inputs are all
        equal are zero.

    Raises:
        SettingsError: `max_bytes` is below 1.
        TrainingError: There is no batch, or a module's inputs are not finite.
        ModelError: A module is not called once per token, or the adapter has been removed from the model.

    Source: Paischer et al. 2024 (arXiv:2410.07170), and `peft.tuners.lora.eva`.
    """
    if max_bytes < 1:
        raise SettingsError.of("max_bytes", max_bytes, "a whole number, 1 or more")
    if not batches:
        raise TrainingError("explained variance of no batch: give one or more")
    widths = {name: linear_shape(layer.base).d_in for name, layer in adapted.layers.items()}
    ratios: dict[str, npt.NDArray[np.float64]] = {}
    with _without_updates(adapted):
        for names in _groups(widths, max_bytes):
            for name, moments in _gather(adapted.model, names, batches).items():
                ratios[name] = moments.ratio(adapted.r_max, centred=centred)
    return np.stack([ratios[site.module_name] for site in adapted.sites])


class _Moments:
    """Sums of x and of x x^T over the inputs x of a module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def add(self, inputs: Tensor, kept: Tensor) -> None:
        """Add the inputs [..., d_in] of the tokens where `kept`, bool [batch, length], is true."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        if len(rows) != kept.numel():
            raise ModelError(f"{self._name} is called on {len(rows)} vectors for a batch of {kept.numel()} tokens")
        rows = rows[kept.reshape(-1).to(rows.device)].double()
        products = rows.T @ rows
        self._count += len(rows)
        self._sum = rows.sum(0) if self._sum is None else self._sum + rows.sum(0)
        self._products = products if self._products is None else self._products.add_(products)

    def ratio(self, num_components: int, *, centred: bool) -> npt.NDArray[np.float64]:
        """Return the ratios of the first components, float64 [num_components]."""
        if self._sum is None or self._products is None:
            raise ModelError(f"{self._name} is not called by the model")
        matrix = self._products
        if centred and self._count:
            matrix = matrix - torch.outer(self._sum, self._sum) / self._count
        if not torch.isfinite(matrix).all():
            raise TrainingError(f"the inputs of {self._name} are not finite")
        # Rounding error is proportional to the uncentred sum. A variance below it means that all inputs are equal.
        floor = torch.finfo(matrix.dtype).eps * len(matrix) * float(self._products.trace())
        variances = torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0).cpu().numpy()
        total = float(variances.sum())
        if total <= floor:
            return np.zeros(num_components)
        ratio: npt.NDArray[np.float64] = variances[:num_components] / total
        return ratio


def _gather(model: nn.Module, names: Sequence[str], batches: Sequence[Mapping[str, Tensor]]) -> dict[str, _Moments]:
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
    """Yield groups of modules whose float64 sums fit into the memory together, one module at least."""
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
def _without_updates(adapted: AdaptedModel) -> Iterator[None]:
    """Set all ranks to 0 and the model to evaluation mode inside the block."""
    pattern, training = adapted.rank_pattern, adapted.model.training
    adapted.set_ranks([0] * len(adapted.shapes))
    adapted.model.eval()
    try:
        yield
    finally:
        adapted.set_ranks(pattern)
        adapted.model.train(training)
