"""Execution of jobs on a Ray cluster. Jobs on one machine run in `airlora.training.run_jobs`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from airlora.errors import MissingDependencyError, NetworkError
from airlora.tasks import available_threads, set_threads
from airlora.training import Job, ProcessKilledError

__all__ = ["run_jobs_on_ray"]

OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of a Ray instance that airlora starts, for small results. Ray's default is 30 % of the memory."""

CONNECT_TIMEOUT_S = 10.0
"""Time limit of the connection to the address of a Ray cluster, s."""

T = TypeVar("T")


def run_jobs_on_ray(
    jobs: Sequence[Job[T]],
    *,
    address: str | None = None,
    num_processes: int | None = None,
    num_gpus: int = 0,
    retries: int = 2,
    retry_on: Sequence[type[Exception]] = (),
    on_result: Callable[[int, T], None] = lambda index, result: None,
    error_of: Callable[[int, Exception], Exception] = lambda index, error: error,
) -> None:
    """Run every job as a Ray task with one CPU and one thread, on a GPU or not.

    Ray starts the tasks in order, as CPUs become free, and repeats the tasks of lost nodes and killed processes.
    Results return through Ray's object store, so nodes need no shared folder. They need the same version of airlora and
    of Python. An existing connection to Ray is used and stays open.

    Args:
        jobs: Functions that Ray can pickle. Their steps are not counted.
        address: Address of a Ray cluster, such as `auto` or `host:6379`. None uses the environment variable
            `RAY_ADDRESS`, and without it starts Ray on this machine for the duration of this call.
        num_processes: Number of tasks at once of a Ray instance that this call starts. None stands for all cores.
        num_gpus: Number of GPUs of a task. Ray hides all others from it.
        retries: Number of times that a task is repeated.
        retry_on: Classes of errors that repeat a task, besides the loss of its process or node.
        on_result: Function called with the index and the result of every job as soon as it is done.
        error_of: Function of the index and the error of a job that failed for good. It returns the error to raise.

    Raises:
        MissingDependencyError: Ray is not installed.
        NetworkError: There is no Ray cluster at the address.
        ProcessKilledError: The process or node of a job was lost more often than `retries`. Errors of jobs are raised
            as they are. Both are passed through `error_of`.
    """
    ray = _ray()
    # Ray's notes about lost nodes and repeated tasks have no switch. They must not mix with what a command prints.
    with contextlib.redirect_stdout(sys.stderr):
        is_own = not ray.is_initialized()
        if is_own:
            _connect(ray, address, num_processes)
        pending: dict[Any, int] = {}
        try:
            options = {"num_cpus": 1, "num_gpus": num_gpus, "max_retries": retries}
            task = ray.remote(**options, retry_exceptions=list(retry_on))(_run_in_task)
            pending.update((task.remote(job), index) for index, job in enumerate(jobs))
            _collect(ray, pending, on_result, error_of)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
            if is_own:
                ray.shutdown()


def _collect(
    ray: Any,
    pending: dict[Any, int],
    on_result: Callable[[int, T], None],
    error_of: Callable[[int, Exception], Exception],
) -> None:
    """Remove tasks from `pending`, which holds indices of jobs, as they end. Results that are ready precede errors."""
    while pending:
        ray.wait(list(pending), num_returns=1)
        ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        errors: list[Exception] = []
        for reference in ready:
            index = pending.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                errors.append(error_of(index, error.cause))
            except ray.exceptions.RayError as error:
                errors.append(error_of(index, ProcessKilledError(str(error).partition("\n")[0])))
            else:
                on_result(index, result)
        if errors:
            raise errors[0]


def _run_in_task(job: Job[T]) -> T:
    set_threads(1)
    return job(lambda: None)


def _ray() -> Any:
    # Ray sends usage statistics to its makers unless it is told not to before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("executor ray needs the package ray: pip install 'airlora[ray]'") from error


def _connect(ray: Any, address: str | None, num_processes: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := address or os.environ.get("RAY_ADDRESS"):
        try:
            # Ray alone would try for minutes to reach a closed port.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host and port.isdecimal():
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
            ray.init(address, **quiet)
        except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).partition("\n")[0]
            raise NetworkError(f"address = {address!r}: no Ray cluster can be reached ({reason})") from error
        return
    ray.init(
        "local",
        num_cpus=num_processes or available_threads(),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        **quiet,
    )
