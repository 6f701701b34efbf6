"""AdaLoRA at several budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from airlora.tasks import EncodedData
from airlora.training.adalora import AdaLoraResult, train_adalora
from airlora.training.processes import num_processes, run_jobs
from airlora.training.settings import Settings

__all__ = ["train_adalora_sweep"]


def train_adalora_sweep(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    budgets_params: Sequence[int],
    num_labels: int,
    steps: int,
    eval_precision: str = "float32",
    on_step: Callable[[int], None] = lambda step: None,
) -> list[AdaLoraResult]:
    """Return `train_adalora` at every budget, in order.

    On a CPU as many run at once as the settings allow threads; a GPU takes one after the other.

    Args:
        settings: See `train_adalora`.
        train: Training data.
        held_out: Evaluation data.
        budgets_params: Numbers that may be sent, head not included.
        num_labels: Classes.
        steps: Training steps at each budget.
        eval_precision: See `train_adalora`.
        on_step: Called now and then with the number of steps taken at all budgets together.

    Raises:
        ModelError: See `train_adalora`.
        TrainingError: A loss is not finite, or a process was killed, as by a lack of memory.
    """
    jobs = [
        partial(_train_one, settings, train, held_out, budget, num_labels, steps, eval_precision)
        for budget in budgets_params
    ]
    return run_jobs(jobs, num_processes(settings), on_step=on_step)


def _train_one(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    budget_params: int,
    num_labels: int,
    steps: int,
    eval_precision: str,
    count_step: Callable[[], None],
) -> AdaLoraResult:
    return train_adalora(
        settings,
        train,
        held_out,
        budget_params=budget_params,
        num_labels=num_labels,
        steps=steps,
        eval_precision=eval_precision,
        on_step=lambda _: count_step(),
    )
