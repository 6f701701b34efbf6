"""Independent jobs in processes of one thread each, with progress and an end in sight."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from airlora.errors import TrainingError
from airlora.training.precision import set_threads

__all__ = ["Job", "run_jobs"]

POLL_S = 1.0

T = TypeVar("T")

Job = Callable[[Callable[[], None]], T]
"""Something to run: it calls its argument after every step and returns its result; picklable."""


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
    count, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(min(num_processes, len(jobs)), context, _start_process, (count, stop)) as pool:
        try:
            futures = [pool.submit(_run_one, job) for job in jobs]
            return _gather(futures, lambda: on_step(count.value), on_result)
        except BrokenProcessPool as error:
            raise TrainingError("a process was killed; is there enough memory for all of them at once?") from error
        finally:
            # The processes look at it after every step: leaving the pool then takes a moment, not minutes.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


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


def _gather(futures: list[Future[T]], tick: Callable[[], None], on_result: Callable[[int, T], None]) -> list[T]:
    waiting: set[Future[T]] = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            on_result(futures.index(future), future.result())
        tick()
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """The parent no longer wants the result."""


_shared: dict[str, Any] = {}


def _start_process(count: Any, stop: multiprocessing.synchronize.Event) -> None:
    # Ctrl-C reaches every process of the terminal; the parent tells these ones when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared.update(count=count, stop=stop)


def _run_one(job: Job[T]) -> T:
    set_threads(1)
    parent = multiprocessing.parent_process()

    def count_step() -> None:
        # A parent that was killed outright cannot say stop.
        if _shared["stop"].is_set() or not (parent and parent.is_alive()):
            raise _StoppedError
        with _shared["count"].get_lock():
            _shared["count"].value += 1

    return job(count_step)
