"""AdaLoRA at several budgets at once, one process and one thread each."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from airlora.config import Settings
from airlora.errors import TrainingError
from airlora.training.adalora import AdaLoraResult, train_adalora
from airlora.training.batches import EncodedData
from airlora.training.precision import available_threads, pick_device, set_threads

__all__ = ["train_adalora_sweep"]

POLL_S = 1.0


def train_adalora_sweep(
    settings: Settings,
    train: EncodedData,
    held_out: EncodedData,
    *,
    budgets_params: Sequence[int],
    num_labels: int,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[AdaLoraResult]:
    """Return `train_adalora` at every budget, in order.

    A small model gains little from a second thread (1.1 times the speed on two cores) and all from a second process,
    so on a CPU as many run at once as the settings allow threads.  A GPU takes one after the other.  As always with
    processes that are spawned, a script that calls this needs its `if __name__ == "__main__":`.

    Args:
        settings: See `train_adalora`.
        train: Training data.
        held_out: Evaluation data.
        budgets_params: Numbers that may be sent, head not included.
        num_labels: Classes.
        steps: Training steps at each budget.
        on_step: Called now and then with the number of steps taken at all budgets together.

    Raises:
        ModelError: See `train_adalora`.
        TrainingError: A loss is not finite, or a process was killed, as by a lack of memory.
    """
    num_processes = min(len(budgets_params), settings.num_threads or available_threads())
    arguments = {"num_labels": num_labels, "steps": steps}
    if num_processes < 2 or pick_device(settings.device).type != "cpu":
        return [
            train_adalora(
                settings,
                train,
                held_out,
                budget_params=budget,
                on_step=lambda step, before=index * steps: on_step(before + step),  # type: ignore[misc]
                **arguments,
            )
            for index, budget in enumerate(budgets_params)
        ]
    context = multiprocessing.get_context("spawn")
    count, stop = context.Value("i", 0), context.Event()
    with ProcessPoolExecutor(num_processes, context, _start_process, (count, stop)) as pool:
        try:
            futures = [
                pool.submit(_train_one, settings, train, held_out, budget_params=budget, **arguments)
                for budget in budgets_params
            ]
            return _results(futures, lambda: on_step(count.value))
        except BrokenProcessPool as error:
            raise TrainingError("a process that trained AdaLoRA was killed; is there enough memory?") from error
        finally:
            # The processes look at it after every step: leaving the pool then takes a moment, not minutes.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _results(futures: list[Future[AdaLoraResult]], tick: Callable[[], None]) -> list[AdaLoraResult]:
    waiting: set[Future[AdaLoraResult]] = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        tick()
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """The parent no longer wants the result."""


_shared: dict[str, Any] = {}


def _start_process(count: Any, stop: multiprocessing.synchronize.Event) -> None:
    # Ctrl-C reaches every process of the terminal; the parent tells these ones when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared.update(count=count, stop=stop)


def _train_one(settings: Settings, train: EncodedData, held_out: EncodedData, **arguments: Any) -> AdaLoraResult:
    set_threads(1)

    def count_step(_: int) -> None:
        if _shared["stop"].is_set():
            raise _StoppedError
        with _shared["count"].get_lock():
            _shared["count"].value += 1

    return train_adalora(settings, train, held_out, on_step=count_step, **arguments)
