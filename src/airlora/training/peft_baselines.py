"""Baselines: PEFT's LoRA and AdaLoRA, trained from the same base model with the batches of a run.

`train_adalora` trains AdaLoRA for a budget of parameters, as the paper does. `measure_peft_baseline` trains an adapter
for a rank and evaluates it at several fixed precisions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor
from transformers import get_scheduler

from airlora.adapters import ProjectionSite, find_head, find_projections, on_residual_side
from airlora.errors import ModelError, SettingsError, TrainingError
from airlora.ranks import RankPattern
from airlora.tasks import (
    BatchOrder,
    EncodedData,
    Evaluation,
    Predictions,
    Task,
    evaluate,
    head_modules,
    load_base,
    pick_autocast,
    pick_device,
    predict,
)
from airlora.training.processes import num_processes, run_jobs
from airlora.training.settings import Settings, with_values

__all__ = [
    "BASELINE_BITS",
    "AdaLoraResult",
    "BaselinePoint",
    "PeftMethod",
    "TrainedBaseline",
    "measure_peft_baseline",
    "train_adalora",
    "train_adalora_sweep",
    "train_baseline",
]

PeftMethod = Literal["lora", "rslora", "adalora"]
"""LoRA uses one rank for all modules; rsLoRA is LoRA with the factor alpha / sqrt(r) in place of alpha / r. AdaLoRA
distributes the same number of parameters over the modules."""

BASELINE_BITS = (32, 8, 6, 4)
"""Bits per parameter at which a trained baseline is evaluated."""

MIN_ADALORA_STEPS = 2
"""Minimum number of steps for which PEFT's allocator has a schedule."""

SCALE_BYTES = 2
"""Size of a quantisation scale, a float16 per component vector or row of the head."""

FULL_BITS = 32
"""Bits per parameter without quantisation."""

RSLORA_REFERENCE_RANK = 8
"""Rank at which rsLoRA gives the update the factor `adapter.scale`."""

ADALORA_START = 1.5
"""Ratio of AdaLoRA's initial to its final rank, as in its paper and PEFT's defaults (12 and 8)."""

_ADAPTER = "default"  # PEFT's name of an unnamed adapter


@dataclass(frozen=True, slots=True)
class AdaLoraResult:
    """Result of AdaLoRA for one budget.

    Args:
        rank_pattern: Remaining rank of each module.
        num_params: Number of adapter parameters at these ranks, without the head.
        evaluation: Metrics on the evaluation data.
    """

    rank_pattern: RankPattern
    num_params: int
    evaluation: Evaluation


@dataclass(frozen=True)
class TrainedBaseline:
    """A PEFT adapter in memory after its training.

    Args:
        method: Kind of adapter.
        settings: Settings of the training.
        model: PEFT's model.
        sites: Adapted projections, in order.
    """

    method: PeftMethod
    settings: Settings
    model: Any
    sites: tuple[ProjectionSite, ...]

    def prune(self, budget_params: int) -> RankPattern:
        """Set the smallest singular values of AdaLoRA to zero until a budget holds, and return the remaining ranks.

        Args:
            budget_params: Maximum number of adapter parameters, without the head.

        Raises:
            SettingsError: The method is not AdaLoRA, which alone has singular values.
        """
        if self.method != "adalora":
            raise SettingsError.of("baseline to prune", self.method, "adalora")
        return _prune_to(self.model, self.sites, budget_params)

    @property
    def rank_pattern(self) -> RankPattern:
        """Rank of each module."""
        kept = [int(((A.abs().amax(dim=1) > 0) & (B.abs().amax(dim=0) > 0)).sum()) for A, B in self._factors()]
        return RankPattern({site.name: rank for site, rank in zip(self.sites, kept, strict=True)})

    @property
    def num_params(self) -> int:
        """Number of adapter parameters that are sent: d_in + d_out + 1 per component, without the 1 for LoRA."""
        own = 1 if self.method == "adalora" else 0
        ranks = self.rank_pattern
        return sum(ranks[site.name] * (site.shape.params_per_rank - 1 + own) for site in self.sites)

    def predict(self, data: EncodedData) -> Predictions:
        """Return the outputs for every sample, in the precision of training."""
        device = pick_device(self.settings.device)
        with pick_autocast(self.settings.finetune.precision, device)():
            return predict(self.model, data, device, self.settings.finetune.eval_batch_size)

    def _factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        for site in self.sites:
            layer = self.model.base_model.model.get_submodule(site.name)
            A, B = _weight(layer.lora_A[_ADAPTER]), _weight(layer.lora_B[_ADAPTER])
            yield (A * layer.lora_E[_ADAPTER], B) if _ADAPTER in getattr(layer, "lora_E", {}) else (A, B)


def train_baseline(
    settings: Settings,
    train: EncodedData,
    *,
    method: PeftMethod,
    budget_params: int,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> TrainedBaseline:
    """Train a PEFT adapter for a budget of parameters and return it.

    LoRA and rsLoRA get the largest rank that fits the budget, but at least 1. AdaLoRA starts at 1.5 times the rank of
    the budget, but at most at r_max.

    Args:
        settings: Settings of the run. The sections `model`, `adapter` and `finetune` and the seed are used.
        train: Training samples.
        method: Kind of adapter.
        budget_params: Maximum number of adapter parameters, without the head.
        steps: Number of training steps.
        on_step: Function called after every step with its number.

    Raises:
        SettingsError: The method is unknown, or AdaLoRA has fewer than 2 steps.
        ModelError: The model has fused projections.
        TrainingError: The loss is not finite.
    """
    if method not in get_args(PeftMethod):
        raise SettingsError.of("baseline", method, f"one of {', '.join(get_args(PeftMethod))}")
    if method == "adalora":
        _, sites = load_sites(settings, train.task, "AdaLoRA")
        mean_rank = budget_params / sum(site.shape.params_per_rank for site in sites)
        start = _starting_at(settings, min(settings.adapter.r_max, math.ceil(ADALORA_START * mean_rank)))
        model, sites = _fit_adalora(start, train, budget_params, steps, on_step)
        trained = TrainedBaseline(method, settings, model, sites)
        trained.prune(budget_params)
        return trained
    _, sites = load_sites(settings, train.task, "LoRA")
    rank = max(1, budget_params // sum(site.shape.params_per_rank - 1 for site in sites))
    model = _fit_lora(settings, train, rank, steps, on_step, rank_stabilised=method == "rslora")
    return TrainedBaseline(method, settings, model, sites)


@dataclass(frozen=True, slots=True)
class BaselinePoint:
    """A baseline at one precision.

    Args:
        method: Name of the method.
        rank: Rank for which the adapter was trained; the mean rank of AdaLoRA.
        bits: Bits per parameter.
        num_components: Number of rank-one components that are sent.
        payload_bytes: Bytes of parameters and scales, head included, without names or framing.
        evaluation: Metrics on the evaluation data.
    """

    method: str
    rank: int
    bits: int
    num_components: int
    payload_bytes: int
    evaluation: Evaluation


def train_adalora(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    budget_params: int,
    steps: int,
    eval_precision: str = "float32",
    on_step: Callable[[int], None] = lambda step: None,
) -> AdaLoraResult:
    """Train PEFT's AdaLoRA for a budget of parameters and return its result.

    The loss has PEFT's penalty for components that are not orthogonal. PEFT's schedule keeps rank r_max for a tenth of
    the steps and prunes until 60 % of them. PEFT's budget is a number of singular values; the target is `budget_params`
    over the mean size of a component. If the remaining components exceed `budget_params`, those of smallest singular
    value are masked at the end. `lora_alpha = scale * r_max` gives the update the factor `adapter.scale`, since PEFT
    divides by the initial rank.

    Args:
        settings: Settings of the run. The sections `model`, `adapter` and `finetune` and the seed are used.
        train: Training samples.
        held_out: Evaluation samples.
        budget_params: Maximum number of adapter parameters, without the head.
        steps: Number of training steps.
        eval_precision: Precision of the evaluation, as `finetune.precision`.
        on_step: Function called after every step with its number.

    Raises:
        SettingsError: There are fewer than 2 steps.
        ModelError: The model has fused projections, which PEFT's AdaLoRA cannot split.
        TrainingError: The loss is not finite.
    """
    model, sites = _fit_adalora(settings, train, budget_params, steps, on_step)
    pattern = _prune_to(model, sites, budget_params)
    device = pick_device(settings.device)
    with pick_autocast(eval_precision, device)():
        evaluation = evaluate(model, held_out, device, settings.finetune.eval_batch_size)
    num_params = pattern.num_params({site.name: site.shape for site in sites})
    if settings.adapter.ffn_update == "residual":
        # PEFT adapts the weights; the pattern takes the names of the run's updates.
        pattern = RankPattern({on_residual_side(site).name: pattern[site.name] for site in sites})
    return AdaLoraResult(pattern, num_params, evaluation)


def train_adalora_sweep(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    budgets_params: Sequence[int],
    steps: int,
    eval_precision: str = "float32",
    on_step: Callable[[int], None] = lambda step: None,
) -> list[AdaLoraResult]:
    """Return the result of `train_adalora` for every budget, in order.

    On a CPU, as many budgets are trained at once as the settings allow threads. On a GPU, they are trained in sequence.

    Args:
        settings: Settings of the run.
        train: Training samples.
        held_out: Evaluation samples.
        budgets_params: Maximum numbers of adapter parameters, without the head.
        steps: Number of training steps per budget.
        eval_precision: Precision of the evaluation, as `finetune.precision`.
        on_step: Function called from time to time with the number of steps taken for all budgets together.

    Raises:
        SettingsError: There are fewer than 2 steps.
        ModelError: The model has fused projections, which PEFT's AdaLoRA cannot split.
        TrainingError: A loss is not finite, or a process was killed, for example for lack of memory.
    """
    jobs = [
        partial(_adalora_job, settings, train, held_out, budget, steps, eval_precision) for budget in budgets_params
    ]
    return run_jobs(jobs, num_processes(settings), on_step=on_step)


def _adalora_job(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    budget_params: int,
    steps: int,
    eval_precision: str,
    count_step: Callable[[], None],
) -> AdaLoraResult:
    return train_adalora(
        settings,
        train,
        held_out,
        budget_params=budget_params,
        steps=steps,
        eval_precision=eval_precision,
        on_step=lambda _: count_step(),
    )


def measure_peft_baseline(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    method: PeftMethod,
    rank: int,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[BaselinePoint]:
    """Train a PEFT adapter for a rank and return its points at the precisions of `BASELINE_BITS`.

    `lora_alpha` gives the update the factor `adapter.scale`. Below 32 bits, every vector of a component and every row
    of the head is quantised uniformly and symmetrically, with its largest magnitude at the end of the range.

    Args:
        settings: Settings of the run. The sections `model`, `adapter` and `finetune` and the seed are used.
        train: Training samples.
        held_out: Evaluation samples.
        method: Kind of adapter.
        rank: Rank of every module. AdaLoRA gets the number of parameters of this rank.
        steps: Number of training steps.
        on_step: Function called after every step with its number.

    Raises:
        SettingsError: The method is unknown, or the rank is below 1.
        ModelError: The model has fused projections.
        TrainingError: The loss is not finite.
    """
    if method not in get_args(PeftMethod):
        raise SettingsError.of("baseline", method, f"one of {', '.join(get_args(PeftMethod))}")
    if rank < 1:
        raise SettingsError.of("rank of a baseline", rank, "1 or more")
    if method != "adalora":
        model = _fit_lora(settings, train, rank, steps, on_step, rank_stabilised=method == "rslora")
    else:
        start = _starting_at(settings, math.ceil(ADALORA_START * rank))
        _, sites = load_sites(settings, train.task, "AdaLoRA")
        budget_params = rank * sum(site.shape.params_per_rank for site in sites)
        model, _ = _fit_adalora(start, train, budget_params, steps, on_step)
    return _measure_rounded(model, settings, held_out, method, rank)


def _starting_at(settings: Settings, rank: int) -> Settings:
    """Return settings with which AdaLoRA starts at a rank."""
    return with_values(settings, {"adapter.r_max": max(1, rank), "policy.constant_rank": 1})


def _orthogonality(model: Any) -> Tensor:
    """Return AdaLoRA's penalty: the mean of ||A A^T - I||_F and ||B^T B - I||_F over all modules, times its weight.

    PEFT adds it to the loss that a model computes itself, of labels. Here the task computes the loss.
    """
    norms = []
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    weight: float = model.peft_config[_ADAPTER].orth_reg_weight
    return weight * torch.stack(norms).mean()


def _fit_adalora(
    settings: Settings, train: EncodedData, budget_params: int, steps: int, on_step: Callable[[int], None]
) -> tuple[Any, tuple[ProjectionSite, ...]]:
    """Return PEFT's model with the components that its allocator keeps, and the adapted projections."""
    if steps < MIN_ADALORA_STEPS:
        raise SettingsError.of("steps of AdaLoRA", steps, f"{MIN_ADALORA_STEPS} or more: PEFT's allocator needs them")
    model, sites = load_sites(settings, train.task, "AdaLoRA")
    config = AdaLoraConfig(
        init_r=settings.adapter.r_max,
        target_r=1,
        lora_alpha=settings.adapter.scale * settings.adapter.r_max,
        lora_dropout=settings.adapter.dropout,
        tinit=steps // 10,
        tfinal=int(0.4 * steps),
        deltaT=max(1, steps // 60),
        total_step=steps,
        target_modules=[site.name for site in sites],
        modules_to_save=find_head(model, head_modules(settings, train.task)),
    )
    mean_size = np.mean([site.shape.params_per_rank for site in sites])
    # PEFT's allocator fails if it has nothing to mask.
    budget = max(1, min(int(budget_params / mean_size), settings.adapter.r_max * len(sites) - 1))
    rate = settings.finetune.adalora_learning_rate
    return fit_peft(model, config, settings, train, rate, steps, on_step, budget=budget), sites


def _fit_lora(
    settings: Settings,
    train: EncodedData,
    rank: int,
    steps: int,
    on_step: Callable[[int], None],
    *,
    rank_stabilised: bool,
) -> Any:
    model, sites = load_sites(settings, train.task, "LoRA")
    # PEFT types alpha as an integer and accepts any number.
    alpha: Any = settings.adapter.scale * (math.sqrt(RSLORA_REFERENCE_RANK) if rank_stabilised else rank)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=rank_stabilised,
        lora_dropout=settings.adapter.dropout,
        target_modules=[site.name for site in sites],
        modules_to_save=find_head(model, head_modules(settings, train.task)),
    )
    return fit_peft(model, config, settings, train, settings.finetune.lora_learning_rate, steps, on_step)


def load_sites(settings: Settings, task: Task, method: str) -> tuple[Any, tuple[ProjectionSite, ...]]:
    """Return the base model and its projections.

    Raises:
        ModelError: The model has fused projections, which PEFT cannot split.
    """
    model, _ = load_base(settings, task)
    sites = find_projections(model, settings.adapter.target_modules)
    if any(site.suffix is not None for site in sites):
        raise ModelError(f"{method}: {settings.model.name} has fused projections, which PEFT's {method} cannot split")
    return model, sites


def fit_peft(
    model: Any,
    config: PeftConfig,
    settings: Settings,
    train: EncodedData,
    learning_rate: float,
    steps: int,
    on_step: Callable[[int], None],
    *,
    budget: int | None = None,
) -> Any:
    """Return PEFT's model after training; `budget` is the number of singular values that AdaLoRA keeps."""
    device, tuning = pick_device(settings.device), settings.finetune
    autocast = pick_autocast(tuning.precision, device)
    order = BatchOrder(train.lengths, tuning.batch_size, settings.seed)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(settings.seed)
        peft_model = get_peft_model(model, config).to(device)
        if budget is not None:
            peft_model.base_model.rankallocator.target_bgt = budget
        trained = {name: p for name, p in peft_model.named_parameters() if p.requires_grad}
        head = [p for name, p in trained.items() if "modules_to_save" in name]
        components = [p for name, p in trained.items() if "modules_to_save" not in name]
        optimizer = torch.optim.AdamW(
            [{"params": components, "lr": learning_rate}, {"params": head, "lr": tuning.head_learning_rate}],
            weight_decay=tuning.weight_decay,
        )
        scheduler = get_scheduler(
            tuning.scheduler_name,
            optimizer,
            num_warmup_steps=round(tuning.warmup_fraction * steps),
            num_training_steps=steps,
        )
        for step in range(1, steps + 1):
            peft_model.train()
            with autocast():
                loss = train.task.batch_loss(peft_model, train.batch(order.take(), device)).float()
            if not torch.isfinite(loss):
                raise TrainingError(f"loss = {float(loss)} at step {step} of the baseline: allowed is a finite number")
            if budget is not None:
                loss = loss + _orthogonality(peft_model)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(components + head, tuning.max_grad_norm)
            optimizer.step()
            scheduler.step()
            if budget is not None:
                peft_model.base_model.update_and_allocate(step)
            on_step(step)
    return peft_model


@torch.no_grad()
def _prune_to(model: Any, sites: Sequence[ProjectionSite], budget_params: int) -> RankPattern:
    """Zero the smallest singular values until the budget holds, and return the remaining ranks."""
    values: Mapping[str, Tensor] = {
        site.name: model.base_model.model.get_submodule(site.name).lora_E[_ADAPTER] for site in sites
    }
    sizes = {site.name: site.shape.params_per_rank for site in sites}
    kept = [
        (abs(float(value)), site.name, row)
        for site in sites
        for row, value in enumerate(values[site.name].flatten())
        if float(value) != 0.0
    ]
    total = sum(sizes[name] for _, name, _ in kept)
    ranks = dict.fromkeys(sizes, 0)
    for _, name, row in sorted(kept):
        if total > budget_params:
            values[name][row] = 0.0
            total -= sizes[name]
        else:
            ranks[name] += 1
    return RankPattern(ranks)


@torch.no_grad()
def _measure_rounded(
    model: Any, settings: Settings, held_out: EncodedData, method: str, rank: int
) -> list[BaselinePoint]:
    """Return a point per precision; the model keeps the last one."""
    device = pick_device(settings.device)
    pairs, head = [_folded(layer) for layer in _layers(model)], _head(model)
    kept = [(A.abs().amax(dim=1) > 0) & (B.abs().amax(dim=0) > 0) for A, B in pairs]
    # Rows of A, columns of B and rows of the head's matrices have a scale each.
    tensors = [(tensor, axis) for A, B in pairs for tensor, axis in ((A, 0), (B, 1))] + [(part, 0) for part in head]
    exact = [tensor.clone() for tensor, _ in tensors]
    num_components = sum(int(mask.sum()) for mask in kept)
    num_values = sum(int(mask.sum()) * (A.shape[1] + B.shape[0]) for (A, B), mask in zip(pairs, kept, strict=True))
    num_values += sum(part.numel() for part in head)
    num_scales = 2 * num_components + sum(len(part) if part.dim() > 1 else 1 for part in head)
    points = []
    for bits in BASELINE_BITS:
        for (tensor, axis), value in zip(tensors, exact, strict=True):
            tensor.copy_(value if bits == FULL_BITS else _rounded(value, bits, axis))
        found = evaluate(model, held_out, device, settings.finetune.eval_batch_size)
        num_bytes = math.ceil(num_values * bits / 8) + (0 if bits == FULL_BITS else SCALE_BYTES * num_scales)
        points.append(BaselinePoint(method, rank, bits, num_components, num_bytes, found))
    return points


def _layers(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if _ADAPTER in getattr(module, "lora_A", {}))


def _folded(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A [r, d_in] and B [d_out, r] of a layer, after moving AdaLoRA's singular values into A."""
    A, B = _weight(layer.lora_A[_ADAPTER]), _weight(layer.lora_B[_ADAPTER])
    if _ADAPTER in getattr(layer, "lora_E", {}):
        values = layer.lora_E[_ADAPTER]
        A.mul_(values)
        values.fill_(1.0)
    return A, B


def _weight(part: Any) -> Tensor:
    return cast("Tensor", part.weight if isinstance(part, torch.nn.Module) else part)


def _head(model: Any) -> list[Tensor]:
    return [part for name, part in model.named_parameters() if "modules_to_save" in name and part.requires_grad]


def _rounded(values: Tensor, bits: int, axis: int) -> Tensor:
    """Return values quantised uniformly and symmetrically, with one step size per slice along `axis`."""
    top = 2 ** (bits - 1) - 1
    others = [other for other in range(values.dim()) if other != axis or values.dim() == 1]
    steps = (values.abs().amax(dim=others, keepdim=True) / top).half().float()
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    return (values / steps).round().clamp(-top, top) * steps
