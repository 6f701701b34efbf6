"""Independent jobs in processes of one thread each, with progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from airlora.errors import AirloraError, TrainingError
from airlora.tasks import available_threads, pick_device, set_threads
from airlora.training.settings import Settings

__all__ = ["Job", "ProcessKilledError", "num_processes", "run_jobs"]

POLL_S = 1.0
"""Seconds between two reports of the progress."""

T = TypeVar("T")

Job = Callable[[Callable[[], None]], T]
"""Function that calls its argument after every step and returns a result. It must be picklable."""


def num_processes(settings: Settings) -> int:
    """Return the number of jobs to run at once: the number of threads of the settings on a CPU, 1 on a GPU."""
    if pick_device(settings.device).type != "cpu":
        return 1
    return settings.num_threads or available_threads()


class ProcessKilledError(TrainingError):
    """The process of a job was killed, for example for lack of memory."""


def _raise(index: int, error: Exception) -> None:  # noqa: ARG001 (the signature of `on_error`)
    raise error


def run_jobs(
    jobs: Sequence[Job[T]],
    num_processes: int,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_result: Callable[[int, T], None] = lambda index, result: None,
    on_error: Callable[[int, Exception], None] = _raise,
) -> list[T]:
    """Run jobs in spawned processes and return their results, in order.

    For a small model, a second process saves more time than a second thread. All processes end with this function: when
    a job fails, on Ctrl-C, and when this process is killed. As with all spawned processes, a script that calls this
    function needs `if __name__ == "__main__":`.

    Args:
        jobs: Functions that another process can import, such as partial functions of a module.
        num_processes: Number of processes. 1 runs the jobs in this process.
        on_step: Function called from time to time with the number of steps taken in all jobs together.
        on_result: Function called with the index and the result of every job as soon as it is done.
        on_error: Function called with the index and the error of a job that failed. If it returns, the job runs again,
            its steps are taken back, and the other jobs go on. What it raises ends all jobs. The default raises the
            error.

    Raises:
        ProcessKilledError: A process was killed, for example for lack of memory. Errors of jobs are raised as they are.
    """
    if num_processes < 2 or len(jobs) < 2:
        return _run_here(jobs, on_step, on_result, on_error)
    context = multiprocessing.get_context("spawn")
    # Shared memory without a lock: a process that was killed could hold a lock for ever.
    counts = context.RawArray("q", min(num_processes, len(jobs)))
    results: dict[int, T] = {}
    waiting = deque(range(len(jobs)))
    places, running, counts_before = dict[Any, int](), dict[Any, int](), dict[Any, int]()

    with ExitStack() as stack:

        def start_worker(place: int) -> Any:
            near_end, far_end = context.Pipe()
            process = context.Process(target=_work, args=(far_end, counts, place))
            process.start()
            far_end.close()
            stack.callback(process.join)
            stack.callback(process.kill)
            places[near_end] = place
            return stack.enter_context(near_end)

        def start_next(worker: Any) -> None:
            if waiting:
                running[worker] = waiting.popleft()
                counts_before[worker] = counts[places[worker]]
                with suppress(BrokenPipeError):  # `recv` tells that the process is gone
                    worker.send(jobs[running[worker]])

        for worker in [start_worker(place) for place in range(len(counts))]:
            start_next(worker)
        while running:
            errors: list[Exception] = []
            ready: list[Any] = wait(list(running), timeout=POLL_S)
            for worker in ready:
                index, place = running.pop(worker), places[worker]
                try:
                    result, error = worker.recv()
                except (EOFError, OSError):
                    error = ProcessKilledError("a process was killed; is there enough memory for all of them at once?")
                if error is None:
                    results[index] = result
                    on_result(index, result)
                    start_next(worker)
                    continue
                try:
                    on_error(index, error)
                except Exception as final:
                    errors.append(final)
                else:
                    waiting.appendleft(index)
                    counts[place] = counts_before[worker]
                    start_next(start_worker(place) if isinstance(error, ProcessKilledError) else worker)
            on_step(sum(counts))
            if errors:
                raise errors[0]
    return [results[index] for index in range(len(jobs))]


def _run_here(
    jobs: Sequence[Job[T]],
    on_step: Callable[[int], None],
    on_result: Callable[[int, T], None],
    on_error: Callable[[int, Exception], None],
) -> list[T]:
    taken = 0

    def count_step() -> None:
        nonlocal taken
        taken += 1
        on_step(taken)

    results: list[T] = []
    while len(results) < len(jobs):
        index, taken_before = len(results), taken
        try:
            result = jobs[index](count_step)
        except Exception as error:
            on_error(index, error)
            taken = taken_before
        else:
            results.append(result)
            on_result(index, result)
    return results


def _work(connection: Connection[Any, Any], counts: Any, place: int) -> None:
    """Run the jobs that arrive until this process is killed; answer each with its result and its error."""
    # Ctrl-C reaches every process of the terminal. The parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    set_threads(1)

    def count_step() -> None:
        counts[place] += 1

    while True:
        try:
            job = connection.recv()
        except EOFError:  # the parent is done
            return
        try:
            connection.send((job(count_step), None))
        except Exception as error:
            if not isinstance(error, AirloraError):
                error.add_note(traceback.format_exc())
            connection.send((None, error))


def _exit_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
