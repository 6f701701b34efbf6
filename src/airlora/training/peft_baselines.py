"""What PEFT's own adapters come to when they are trained at a rank and sent whole, at a fixed precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from peft import LoraConfig
from torch import Tensor

from airlora.adapters import find_head
from airlora.errors import SettingsError
from airlora.tasks import EncodedData, evaluate, pick_device
from airlora.training.adalora import fit_adalora, fit_peft, load_sites
from airlora.training.settings import Settings, with_values

__all__ = ["BASELINE_BITS", "BaselinePoint", "PeftMethod", "measure_peft_baseline"]

PeftMethod = Literal["lora", "adalora"]
"""PEFT's LoRA of one rank everywhere, or its AdaLoRA, which spreads the same budget."""

BASELINE_BITS = (32, 8, 4)
"""Precisions at which a trained baseline is measured."""

SCALE_BYTES = 2
"""A float16 per component vector, or per row of the head, below 32 bits."""

FULL_BITS = 32

ADAPTER = "default"
"""PEFT's name of an adapter that was given none."""

ADALORA_START = 1.5
"""AdaLoRA's rank at the start over that at the end, as in its paper and PEFT's default (12 and 8)."""


@dataclass(frozen=True, slots=True)
class BaselinePoint:
    """A baseline at one precision.

    Args:
        method: Which.
        rank: That it was trained for; AdaLoRA's is the mean.
        bits: Of every number.
        num_components: Rank-one components that are sent.
        payload_bytes: Numbers and their scales, head included; no names, no framing.
        accuracy: On the evaluation data.
        loss: Likewise, nats per sample.
    """

    method: str
    rank: int
    bits: int
    num_components: int
    payload_bytes: int
    accuracy: float
    loss: float


def measure_peft_baseline(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    method: PeftMethod,
    rank: int,
    num_labels: int,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[BaselinePoint]:
    """Return a PEFT adapter trained for a rank, measured at every precision of `BASELINE_BITS`.

    `lora_alpha` gives the update the same factor as ours.  Below 32 bits every component's vectors and every row of
    the head are rounded to equal steps up to their largest number.

    Args:
        settings: Sections `model`, `adapter`, `finetune`, and the seed.
        train: Training data.
        held_out: Evaluation data.
        method: Which adapter.
        rank: Of every module; AdaLoRA's budget is that of this rank.
        num_labels: Classes.
        steps: Training steps.
        on_step: Called after every step with its number.

    Raises:
        SettingsError: An unknown method, or no rank.
        ModelError: The model has fused projections.
        TrainingError: The loss is not finite.
    """
    if method not in get_args(PeftMethod):
        raise SettingsError.of("baseline", method, f"one of {', '.join(get_args(PeftMethod))}")
    if rank < 1:
        raise SettingsError.of("rank of a baseline", rank, "1 or more")
    if method == "lora":
        model = _fit_lora(settings, train, rank, num_labels, steps, on_step)
    else:
        start = with_values(settings, {"adapter.r_max": math.ceil(ADALORA_START * rank), "policy.constant_rank": 1})
        _, sites = load_sites(settings, num_labels, "AdaLoRA")
        budget = rank * sum(site.shape.params_per_rank for site in sites)
        model, _ = fit_adalora(start, train, budget_params=budget, num_labels=num_labels, steps=steps, on_step=on_step)
    return _measure_rounded(model, settings, held_out, method, rank)


def _fit_lora(
    settings: Settings,
    train: EncodedData,
    rank: int,
    num_labels: int,
    steps: int,
    on_step: Callable[[int], None],
) -> Any:
    model, sites = load_sites(settings, num_labels, "LoRA")
    config = LoraConfig(
        r=rank,
        lora_alpha=settings.adapter.scale * rank,
        lora_dropout=settings.adapter.dropout,
        target_modules=[site.name for site in sites],
        modules_to_save=find_head(model, settings.adapter.head_modules),
    )
    return fit_peft(model, config, settings, train, settings.finetune.lora_learning_rate, steps, on_step)


@torch.no_grad()
def _measure_rounded(
    model: Any, settings: Settings, held_out: EncodedData, method: str, rank: int
) -> list[BaselinePoint]:
    """Return a point per precision; the model is left at the last."""
    device = pick_device(settings.device)
    pairs, head = [_folded(layer) for layer in _layers(model)], _head(model)
    kept = [(A.abs().amax(dim=1) > 0) & (B.abs().amax(dim=0) > 0) for A, B in pairs]
    # Every vector with a scale of its own: rows of A, columns of B, rows of the head's matrices.
    parts = [(part, axis) for A, B in pairs for part, axis in ((A, 0), (B, 1))] + [(part, 0) for part in head]
    exact = [part.clone() for part, _ in parts]
    num_components = sum(int(mask.sum()) for mask in kept)
    num_values = sum(int(mask.sum()) * (A.shape[1] + B.shape[0]) for (A, B), mask in zip(pairs, kept, strict=True))
    num_values += sum(part.numel() for part in head)
    num_scales = 2 * num_components + sum(len(part) if part.dim() > 1 else 1 for part in head)
    points = []
    for bits in BASELINE_BITS:
        for (part, axis), value in zip(parts, exact, strict=True):
            part.copy_(value if bits == FULL_BITS else _rounded(value, bits, axis))
        found = evaluate(model, held_out, device, settings.finetune.eval_batch_size)
        num_bytes = math.ceil(num_values * bits / 8) + (0 if bits == FULL_BITS else SCALE_BYTES * num_scales)
        points.append(BaselinePoint(method, rank, bits, num_components, num_bytes, found.accuracy, found.loss))
    return points


def _layers(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if ADAPTER in getattr(module, "lora_A", {}))


def _folded(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A [r, d_in] and B [d_out, r] of a layer, AdaLoRA's singular values moved into A."""
    A, B = _weight(layer.lora_A[ADAPTER]), _weight(layer.lora_B[ADAPTER])
    if ADAPTER in getattr(layer, "lora_E", {}):
        values = layer.lora_E[ADAPTER]
        A.mul_(values)
        values.fill_(1.0)
    return A, B


def _weight(part: Any) -> Tensor:
    return cast("Tensor", part.weight if isinstance(part, torch.nn.Module) else part)


def _head(model: Any) -> list[Tensor]:
    return [part for name, part in model.named_parameters() if "modules_to_save" in name and part.requires_grad]


def _rounded(values: Tensor, bits: int, axis: int) -> Tensor:
    """Return values rounded to equal steps, symmetric about 0, a step per slice along `axis` (one for a vector)."""
    top = 2 ** (bits - 1) - 1
    others = [other for other in range(values.dim()) if other != axis or values.dim() == 1]
    steps = (values.abs().amax(dim=others, keepdim=True) / top).half().float()
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    return (values / steps).round().clamp(-top, top) * steps
