"""PEFT's own AdaLoRA, trained at a parameter budget: the paper's baseline."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import AdaLoraConfig, PeftConfig, get_peft_model
from transformers import get_scheduler

from airlora.adapters import ProjectionSite, find_head, find_projections, on_residual_side
from airlora.errors import ModelError, SettingsError, TrainingError
from airlora.ranks import RankPattern
from airlora.tasks import BatchOrder, EncodedData, Evaluation, evaluate, load_base, pick_autocast, pick_device
from airlora.training.settings import Settings

__all__ = ["AdaLoraResult", "fit_adalora", "fit_peft", "load_sites", "train_adalora"]


LEAST_STEPS = 2
"""Below, PEFT's allocator has no schedule."""


@dataclass(frozen=True, slots=True)
class AdaLoraResult:
    """What AdaLoRA came to at one budget.

    Args:
        rank_pattern: Ranks that it kept, per module.
        num_params: Numbers in them, true count, head not included.
        evaluation: On the evaluation data.
    """

    rank_pattern: RankPattern
    num_params: int
    evaluation: Evaluation


def train_adalora(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    budget_params: int,
    num_labels: int,
    steps: int,
    eval_precision: str = "float32",
    on_step: Callable[[int], None] = lambda step: None,
) -> AdaLoraResult:
    """Return AdaLoRA trained from the same base model for a budget of numbers.

    It is PEFT's implementation with its own schedule: full rank r_max for a tenth of the steps, pruned until 60 %,
    then fixed.  PEFT counts a budget in singular values, all alike; ours is in numbers and modules differ in size, so
    the count of singular values is the budget over the mean size, and the smallest singular values are masked at the
    end should their sum still be above the budget.  `lora_alpha = scale * r_max` gives its update the same factor as
    ours, since PEFT divides by the initial rank.  Batches, schedule and precision are those of the settings.

    Args:
        settings: Sections `model`, `adapter`, `finetune`, and the seed.
        train: Training data.
        held_out: Evaluation data.
        budget_params: Numbers that may be sent, head not included.
        num_labels: Classes.
        steps: Training steps.
        eval_precision: Of the evaluation, as `finetune.precision`: that of what it is compared with.
        on_step: Called after every step with its number.

    Raises:
        SettingsError: Fewer than 2 steps.
        ModelError: The model has fused projections, which PEFT's AdaLoRA cannot split.
        TrainingError: The loss is not finite.
    """
    model, sites = fit_adalora(
        settings, train, budget_params=budget_params, num_labels=num_labels, steps=steps, on_step=on_step
    )
    pattern = _prune_to(model, sites, budget_params)
    device = pick_device(settings.device)
    with pick_autocast(eval_precision, device)():
        evaluation = evaluate(model, held_out, device, settings.finetune.eval_batch_size)
    num_params = pattern.num_params({site.name: site.shape for site in sites})
    if settings.adapter.ffn_update == "residual":  # PEFT's are on the weights: under the names of the run's own
        pattern = RankPattern({on_residual_side(site).name: pattern[site.name] for site in sites})
    return AdaLoraResult(pattern, num_params, evaluation)


def fit_adalora(
    settings: Settings,
    train: EncodedData,
    *,
    budget_params: int,
    num_labels: int,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[Any, tuple[ProjectionSite, ...]]:
    """Return PEFT's model and its projections, as many components left as its allocator keeps; see `train_adalora`."""
    if steps < LEAST_STEPS:
        raise SettingsError.of("steps of AdaLoRA", steps, f"{LEAST_STEPS} or more: PEFT's allocator needs them")
    model, sites = load_sites(settings, num_labels, "AdaLoRA")
    sizes = np.asarray([site.shape.params_per_rank for site in sites])
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
        modules_to_save=find_head(model, settings.adapter.head_modules),
    )
    # PEFT's allocator fails where nothing at all is to be masked.
    most = settings.adapter.r_max * len(sites) - 1
    budget = max(1, min(int(budget_params / sizes.mean()), most))

    def prepare(peft_model: Any) -> None:
        peft_model.base_model.rankallocator.target_bgt = budget

    rate = settings.finetune.adalora_learning_rate
    return fit_peft(model, config, settings, train, rate, steps, on_step, prepare=prepare), sites


def load_sites(settings: Settings, num_labels: int, method: str) -> tuple[Any, tuple[ProjectionSite, ...]]:
    """Return the base model and the projections that `method` of PEFT adapts; raises `ModelError` for fused ones."""
    model, _ = load_base(settings, num_labels)
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
    prepare: Callable[[Any], None] = lambda peft_model: None,
) -> Any:
    """Return PEFT's model after `steps`, with the batches, schedule and precision of the settings.

    Args:
        model: The base model.
        config: Of the adapter.
        settings: Section `finetune`, and the seed.
        train: Training data.
        learning_rate: Of the adapter; the head has `finetune.head_learning_rate`.
        steps: How many.
        on_step: Called after every step with its number.
        prepare: Is given PEFT's model before the first step.

    Raises:
        TrainingError: The loss is not finite.
    """
    device = pick_device(settings.device)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(settings.seed)
        peft_model = get_peft_model(model, config).to(device)
        prepare(peft_model)
        _train(peft_model, settings, train, learning_rate, steps, device, on_step)
    return peft_model


def _train(
    model: Any,
    settings: Settings,
    train: EncodedData,
    learning_rate: float,
    steps: int,
    device: torch.device,
    on_step: Callable[[int], None],
) -> None:
    tuning = settings.finetune
    components = [p for name, p in model.named_parameters() if p.requires_grad and "lora_" in name]
    head = [p for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    optimizer = torch.optim.AdamW(
        [
            {"params": components, "lr": learning_rate},
            {"params": head, "lr": tuning.head_learning_rate},
        ],
        weight_decay=tuning.weight_decay,
    )
    scheduler = get_scheduler(
        "constant_with_warmup" if tuning.decay == "constant" else tuning.decay,
        optimizer,
        num_warmup_steps=round(tuning.warmup_fraction * steps),
        num_training_steps=steps,
    )
    autocast = pick_autocast(tuning.precision, device)
    order = BatchOrder(train.lengths, tuning.batch_size, settings.seed)
    for step in range(1, steps + 1):
        model.train()
        with autocast():
            loss = model(**train.batch(order.take(), device)).loss.float()
        if not torch.isfinite(loss):
            raise TrainingError(f"loss = {float(loss)} at step {step} of the baseline: allowed is a finite number")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(components + head, tuning.max_grad_norm)
        optimizer.step()
        scheduler.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        on_step(step)


@torch.no_grad()
def _prune_to(model: Any, sites: Sequence[ProjectionSite], budget_params: int) -> RankPattern:
    """Zero the singular values of least size until the budget holds, and return what is left."""
    values: Mapping[str, torch.Tensor] = {
        site.name: model.base_model.model.get_submodule(site.name).lora_E["default"] for site in sites
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
