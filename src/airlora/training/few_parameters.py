"""Methods of PEFT that train few parameters, measured at several sizes and precisions.

A method sends its trained parameters. What a seed draws, such as the projections of VeRA, is not sent. Below 32 bits,
every tensor is quantised uniformly and symmetrically in blocks of `BLOCK_SIZE` values. A block's step is a float16.

VB-LoRA sends its vectors, and for each part of each module the numbers of its `topk` vectors and their weights. Only
the vectors are rounded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn

from airlora.adapters import ProjectionSite, find_head
from airlora.errors import SettingsError
from airlora.ranks import ModuleShape
from airlora.tasks import EncodedData, Evaluation, evaluate, head_modules, pick_device
from airlora.training.peft_baselines import BASELINE_BITS, FULL_BITS, SCALE_BYTES, fit_peft, load_sites
from airlora.training.settings import Settings

__all__ = [
    "BLOCK_SIZE",
    "FEW_PARAMETER_METHODS",
    "FewParameterMethod",
    "FewParameterPoint",
    "measure_few_parameters",
]

BLOCK_SIZE = 256
"""Values that share a step."""

RANK = 4
"""Rank of Uni-LoRA and VB-LoRA."""

_VECTOR_LENGTH = 64  # divides the widths of common models
_SMALLEST_VECTOR = 2

_Make = Callable[[int, Sequence[ProjectionSite], Any], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class FewParameterMethod:
    """A method of PEFT.

    Args:
        title: Name of the method.
        config: Class of its configuration.
        size_name: Name of the value that sets its size.
        sizes: Values at which it is measured, in increasing order. A method without such a value has one entry, 1.
        rates: Learning rates that are tried.
        options: Function that returns the other values of the configuration for a size, the projections and the model.
        max_size: Function that returns the largest size that adapted modules of these shapes allow. None has no limit.
    """

    title: str
    config: Any
    size_name: str
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    options: _Make
    max_size: Callable[[Sequence[ModuleShape]], int] | None = None

    def fitting_sizes(self, shapes: Sequence[ModuleShape]) -> tuple[int, ...]:
        """Return the sizes that adapted modules of these shapes allow, in increasing order."""
        return tuple(size for size in self.sizes if self.max_size is None or size <= self.max_size(shapes))


def _fewest_entries(shapes: Sequence[ModuleShape]) -> int:
    return min(shape.d_in * shape.d_out for shape in shapes)


def _least_squared_rank(shapes: Sequence[ModuleShape]) -> int:
    return min(shape.max_rank for shape in shapes) ** 2


def _all_projections(sites: Sequence[ProjectionSite]) -> list[str]:
    return [site.name for site in sites]


def _unilora(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    return {"r": RANK, "theta_d_length": size, "target_modules": _all_projections(sites)}


def _vera(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    return {"r": size, "save_projection": False, "target_modules": _all_projections(sites)}


def _fourierft(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    if size > (largest := _fewest_entries([site.shape for site in sites])):
        raise SettingsError.of("n_frequency of FourierFT", size, f"at most {largest}, the entries of a projection")
    return {"n_frequency": size, "target_modules": _all_projections(sites)}


def _tinylora(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    # A vector longer than r^2 adds no freedom.
    rank = math.isqrt(size - 1) + 1
    if size > (largest := _least_squared_rank([site.shape for site in sites])):
        raise SettingsError.of("u of TinyLoRA", size, f"at most {largest}, the square of a projection's width")
    return {"r": rank, "u": size, "save_projection": False, "target_modules": _all_projections(sites)}


def _vblora(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    widths = [width for site in sites for width in (site.shape.d_in, site.shape.d_out)]
    length = math.gcd(_VECTOR_LENGTH, *widths)
    if length < _SMALLEST_VECTOR:
        raise SettingsError.of("greatest common divisor of the projections' widths", length, "2 or more for VB-LoRA")
    return {
        "r": RANK,
        "num_vectors": size,
        "vector_length": length,
        "target_modules": _all_projections(sites),
        "save_only_topk_weights": True,
    }


def _ia3(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    # Keys and values at their output, the FFN at the input of its last projection, as in the paper.
    ffn = [site.name for site in sites if site.role == "fc2"]
    return {
        "target_modules": [site.name for site in sites if site.role in ("k", "v")] + ffn,
        "feedforward_modules": ffn,
    }


def _layer_norms(size: int, sites: Sequence[ProjectionSite], model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    norms = [name for name, own in model.named_modules() if "norm" in type(own).__name__.lower()]
    if not norms:
        raise SettingsError.of("normalisation layers of the model", 0, "1 or more")
    return {"target_modules": norms}


FEW_PARAMETER_METHODS: Mapping[str, FewParameterMethod] = {
    "unilora": FewParameterMethod(
        "Uni-LoRA",
        peft.UniLoraConfig,
        "theta_d_length",
        (1000, 2500, 5000, 10_000, 20_000, 40_000),
        (0.007, 0.02, 0.06),
        _unilora,
    ),
    "vera": FewParameterMethod("VeRA", peft.VeraConfig, "r", (16, 256), (0.003, 0.01, 0.03), _vera),
    "fourierft": FewParameterMethod(
        "FourierFT",
        peft.FourierFTConfig,
        "n_frequency",
        (25, 100, 400, 1000),
        (0.01, 0.03, 0.1),
        _fourierft,
        _fewest_entries,
    ),
    "tinylora": FewParameterMethod(
        "TinyLoRA", peft.TinyLoraConfig, "u", (16, 64, 256, 1024), (0.003, 0.01, 0.03), _tinylora, _least_squared_rank
    ),
    "vblora": FewParameterMethod(
        "VB-LoRA", peft.VBLoRAConfig, "num_vectors", (16, 64, 256), (0.003, 0.01, 0.03), _vblora
    ),
    "ia3": FewParameterMethod("IA3", peft.IA3Config, "", (1,), (0.003, 0.01, 0.03), _ia3),
    "ln_tuning": FewParameterMethod(
        "LayerNorm tuning", peft.LNTuningConfig, "", (1,), (0.001, 0.003, 0.01), _layer_norms
    ),
}
"""Methods by name. LoRA and AdaLoRA have functions of their own, see `measure_peft_baseline`."""


@dataclass(frozen=True, slots=True)
class FewParameterPoint:
    """A method at one size and precision.

    Args:
        bits: Bits per parameter.
        num_params: Number of parameters that are sent, head included.
        payload_bytes: Bytes of parameters and steps, head included, without names or framing.
        evaluation: Metrics on the evaluation data.
    """

    bits: int
    num_params: int
    payload_bytes: int
    evaluation: Evaluation


def measure_few_parameters(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    method: str,
    size: int,
    learning_rate: float,
    steps: int,
    bits: Sequence[int] = BASELINE_BITS,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[FewParameterPoint]:
    """Train an adapter of a method and return its points, one per precision.

    Args:
        settings: Settings of the run. The sections `model` and `finetune` and the seed are used.
        train: Training samples.
        held_out: Evaluation samples.
        method: Key of `FEW_PARAMETER_METHODS`.
        size: Size of the method, see `FewParameterMethod.size_name`.
        learning_rate: Peak learning rate of the method's parameters. The head has `finetune.head_learning_rate`.
        steps: Number of training steps.
        bits: Bits per parameter of the points.
        on_step: Function called after every step with its number.

    Raises:
        SettingsError: The method is unknown, or does not fit the model.
        ModelError: The model has fused projections.
        TrainingError: The loss is not finite.
    """
    if method not in FEW_PARAMETER_METHODS:
        raise SettingsError.of("method", method, f"one of {', '.join(FEW_PARAMETER_METHODS)}")
    own = FEW_PARAMETER_METHODS[method]
    base, sites = load_sites(settings, train.task, own.title)
    options = dict(own.options(size, sites, base))
    with warnings.catch_warnings():
        # PEFT warns that a seed's draws are not saved. Nothing is saved here.
        warnings.simplefilter("ignore")
        config = own.config(modules_to_save=find_head(base, head_modules(settings, train.task)), **options)
    model = fit_peft(base, config, settings, train, learning_rate, steps, on_step)
    return _points(model, settings, held_out, bits)


@torch.no_grad()
def _points(model: Any, settings: Settings, held_out: EncodedData, bits: Sequence[int]) -> list[FewParameterPoint]:
    """Return a point per precision; the model keeps the last one."""
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
    rounded = [own for name, own in trained.items() if "vblora_logits" not in name]
    chosen = [own for name, own in trained.items() if "vblora_logits" in name]
    exact = [own.clone() for own in rounded]
    num_values = sum(own.numel() for own in rounded)
    num_steps = sum(math.ceil(own.numel() / BLOCK_SIZE) for own in rounded)
    device, points = pick_device(settings.device), []
    for own_bits in bits:
        for parameter, value in zip(rounded, exact, strict=True):
            parameter.copy_(value if own_bits == FULL_BITS else _rounded_in_blocks(value, own_bits))
        found = evaluate(model, held_out, device, settings.finetune.eval_batch_size)
        num_bits = num_values * own_bits + sum(_choice_bits(model, logits, own_bits) for logits in chosen)
        num_bytes = math.ceil(num_bits / 8) + (0 if own_bits == FULL_BITS else SCALE_BYTES * num_steps)
        num_params = num_values + sum(_num_weights(model, logits) for logits in chosen)
        points.append(FewParameterPoint(own_bits, num_params, num_bytes, found))
    return points


def _topk(model: Any) -> int:
    topk: int = model.peft_config["default"].topk
    return topk


def _num_weights(model: Any, logits: Tensor) -> int:
    """Return the number of free weights of VB-LoRA's chosen vectors: those of a part sum to 1."""
    return logits.shape[:-1].numel() * (_topk(model) - 1)


def _choice_bits(model: Any, logits: Tensor, bits: int) -> int:
    """Return the bits of VB-LoRA's choice of vectors and their weights."""
    index_bits = max(1, math.ceil(math.log2(logits.shape[-1])))
    return logits.shape[:-1].numel() * _topk(model) * index_bits + _num_weights(model, logits) * bits


def _rounded_in_blocks(values: Tensor, bits: int) -> Tensor:
    """Return values quantised uniformly and symmetrically, with one step per block of `BLOCK_SIZE` values."""
    top, flat = 2 ** (bits - 1) - 1, values.ravel()
    padded = nn.functional.pad(flat, (0, -len(flat) % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    steps = (padded.abs().amax(dim=1, keepdim=True) / top).half().float()
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    rounded = (padded / steps).round().clamp(-top, top) * steps
    return rounded.ravel()[: len(flat)].view_as(values)
