"""Independent jobs in processes of one thread each, with progress and an end in sight."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import islice
from typing import Any, TypeVar

from airlora.errors import TrainingError
from airlora.tasks import available_threads, pick_device, set_threads
from airlora.training.settings import Settings

__all__ = ["Job", "num_processes", "run_jobs"]

POLL_S = 1.0

T = TypeVar("T")

Job = Callable[[Callable[[], None]], T]
"""Something to run: it calls its argument after every step and returns its result; picklable."""


def num_processes(settings: Settings) -> int:
    """Return how many jobs of one thread run at once: as many as the settings allow threads; on a GPU one."""
    if pick_device(settings.device).type != "cpu":
        return 1
    return settings.num_threads or available_threads()


def run_jobs(
    jobs: Sequence[Job[T]],
    num_processes: int,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_result: Callable[[int, T], None] = lambda index, result: None,
) -> list[T]:
    """Return the results of all jobs, in their order.

    A small model gains little from a second thread and all from a second process.  As always with processes that are
    spawned, a script that calls this needs its `if __name__ == "__main__":`.

    Args:
        jobs: What to run; partial functions of a module, so that another process can import them.
        num_processes: How many at once; 1 runs them here, one after the other.
        on_step: Called now and then with the number of steps taken in all jobs together.
        on_result: Called with a job's place and result as soon as it is there.

    Raises:
        TrainingError: A process was killed, as by a lack of memory; and whatever a job raises.
    """
    if num_processes < 2 or len(jobs) < 2:
        return _run_here(jobs, on_step, on_result)
    context = multiprocessing.get_context("spawn")
    # Plain shared memory: a lock would stay closed for ever after a process that was killed while it held it.
    counts = [context.RawValue("q", 0) for _ in range(min(num_processes, len(jobs)))]
    stop = context.RawValue("b", 0)
    with ExitStack() as stack:
        # A pool each: one pool of several starts its later processes without telling its watcher, which then hears of
        # their death only when another one's job is done.
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, _start_process, (count, stop))) for count in counts
        ]
        try:
            return _gather(pools, jobs, lambda: on_step(sum(count.value for count in counts)), on_result)
        except BrokenProcessPool as error:
            raise TrainingError("a process was killed; is there enough memory for all of them at once?") from error
        finally:
            # The processes look at it every second: leaving the pools then takes a moment, not minutes.
            stop.value = 1


def _run_here(jobs: Sequence[Job[T]], on_step: Callable[[int], None], on_result: Callable[[int, T], None]) -> list[T]:
    taken = 0

    def count_step() -> None:
        nonlocal taken
        taken += 1
        on_step(taken)

    results = []
    for index, job in enumerate(jobs):
        results.append(job(count_step))
        on_result(index, results[-1])
    return results


def _gather(
    pools: list[ProcessPoolExecutor],
    jobs: Sequence[Job[T]],
    tick: Callable[[], None],
    on_result: Callable[[int, T], None],
) -> list[T]:
    results: dict[int, T] = {}
    next_jobs = iter(enumerate(jobs))
    running: dict[Future[T], tuple[int, ProcessPoolExecutor]] = {}

    def start_next(pool: ProcessPoolExecutor) -> None:
        for index, job in islice(next_jobs, 1):
            running[pool.submit(_run_one, job)] = (index, pool)

    for pool in pools:
        start_next(pool)
    while running:
        done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        # A failure must not take with it what came out beside it.
        for future in sorted(done, key=lambda future: future.exception() is not None):
            index, pool = running.pop(future)
            results[index] = future.result()
            start_next(pool)
            on_result(index, results[index])
        tick()
    return [results[index] for index in range(len(jobs))]


_shared: dict[str, Any] = {}


def _start_process(count: Any, stop: Any) -> None:
    # Ctrl-C reaches every process of the terminal; the parent tells these ones when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared.update(count=count)
    threading.Thread(target=_end_when_unwanted, args=(stop,), daemon=True).start()


def _end_when_unwanted(stop: Any) -> None:
    """End this process, whatever it does, soon after its parent says stop or is gone without a word."""
    parent = multiprocessing.parent_process()
    while not stop.value and parent is not None and parent.is_alive():
        time.sleep(POLL_S)
    os._exit(1)


def _run_one(job: Job[T]) -> T:
    set_threads(1)

    def count_step() -> None:
        _shared["count"].value += 1

    return job(count_step)
