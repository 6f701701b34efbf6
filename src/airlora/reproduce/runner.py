"""The runner of trials: in processes of this machine or on a Ray cluster, with one result file per trial."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from airlora.errors import AirloraError, CheckpointError, SettingsError, TrainingError
from airlora.files import make_folder, read_bytes, write_json
from airlora.progress import ProgressReporter
from airlora.reproduce.executors import run_jobs_on_ray
from airlora.reproduce.trial import Trial, TrialKind, TrialResult, digest_of
from airlora.tasks import available_threads, set_threads
from airlora.training import Interrupted, ProcessKilledError, run_jobs
from airlora.version import __version__

__all__ = ["EXECUTORS", "read_results", "run_trials"]

EXECUTORS = ("local", "ray")
"""Names of the executors: processes of this machine, and Ray."""

_log = logging.getLogger(__name__)


class TrialRecord(BaseModel):
    """Content of a trial's result file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    """Version of airlora that ran the trial."""
    kind: str
    """Kind of the trial."""
    options: dict[str, Any]
    """Options of the trial."""
    seed: int
    """Seed of the trial."""
    seconds: float
    """Duration of the trial, s, on one core."""
    result: dict[str, Any]
    """Result of the trial."""
    digest: str | None = None
    """Digest of the result (see `digest_of`). Files of earlier runs have none."""
    environment: dict[str, str]
    """Device, and versions of the libraries."""


class TrialAttemptError(Exception):
    """An attempt to run a trial failed for a reason other than its options, and may be repeated.

    The message holds the class and the message of the cause, which another process may be unable to unpickle.
    """


def run_trials(
    trials: Sequence[Trial],
    folder: Path,
    *,
    kinds: Mapping[str, TrialKind],
    executor: str = "local",
    address: str | None = None,
    num_processes: int | None = None,
    num_gpus: int = 0,
    retries: int = 2,
    progress: ProgressReporter,
) -> dict[str, TrialResult]:
    """Run trials and return their results by `Trial.key`.

    Equal trials run once. The result of a trial is written to `folder/trials/KEY.json` as soon as the trial is done. A
    trial with such a file does not run again, so that an interrupted call continues where it ended. Every trial runs
    with one thread, and its result does not depend on the executor. The longest trials start first. As with all
    spawned processes, a script that calls this function needs `if __name__ == "__main__":`.

    Args:
        trials: Trials to run.
        folder: Folder of the results. It is created if it is missing.
        kinds: Functions that run trials, by kind.
        executor: Name of an executor, one of `EXECUTORS`. `local` runs trials in processes of this machine, and a
            single process or trial in this process. `ray` runs them on a Ray cluster and writes their results here.
        address: Address of a Ray cluster, such as `auto` or `host:6379`. None uses the environment variable
            `RAY_ADDRESS`, and without it starts Ray on this machine.
        num_processes: Number of trials to run at once on this machine. None stands for all cores. A Ray cluster with an
            address decides this itself.
        retries: Number of times that a trial is repeated after an unexpected error or the loss of its process or node.
            A trial whose options are not allowed (`AirloraError`) is not repeated.
        progress: Receives the progress. On Ray, the steps of a trial are counted when the trial is done.

    Raises:
        SettingsError: The executor or the kind of a trial is unknown, or another argument is not allowed.
        CheckpointError: A result file is damaged.
        TrainingError: A trial failed in all attempts. The finished trials are saved.
        AirloraError: The options of a trial are not allowed.
        MissingDependencyError: Ray is not installed.
        NetworkError: There is no Ray cluster at the address.
    """
    _check(executor, address, num_processes, retries)
    by_key = {trial.key: trial for trial in reversed(trials)}
    for trial in by_key.values():
        if trial.kind not in kinds:
            raise SettingsError.of("kind of a trial", trial.kind, f"one of {', '.join(kinds)}")
    make_folder(folder / "trials")
    results = read_results(trials, folder)
    todo = [trial for key, trial in by_key.items() if key not in results]
    if not todo:
        return results
    todo.sort(key=lambda trial: (-trial.num_steps * trial.step_seconds, trial.key))
    progress.phase("running trials", sum(trial.num_steps for trial in todo))
    steps_done = 0

    def keep(index: int, record: dict[str, Any]) -> None:
        nonlocal steps_done
        trial = todo[index]
        write_json(_path(trial, folder), record)
        results[trial.key] = record["result"]
        steps_done += trial.num_steps
        if executor == "ray":
            progress.step(steps_done, {})
        progress.show({"trials": f"{len(results)} of {len(by_key)}", "last": f"{trial.kind}, seed {trial.seed}"})

    def error_of(index: int, error: Exception) -> Exception:
        return _error_of(todo[index], error, retries)

    if executor == "ray":
        run_jobs_on_ray(
            [partial(_attempt, trial, kinds[trial.kind], __version__, None) for trial in todo],
            address=address,
            num_processes=num_processes,
            num_gpus=num_gpus,
            retries=retries,
            retry_on=[TrialAttemptError],
            on_result=keep,
            error_of=error_of,
        )
        return results
    failures = Counter[int]()

    def retry(index: int, error: Exception) -> None:
        failures[index] += 1
        if failures[index] > retries or not isinstance(error, TrialAttemptError | ProcessKilledError):
            raise error_of(index, error) from error
        _log.warning("%s: %s; repeating it (%d of %d)", _name(todo[index]), error, failures[index], retries)
        _log.debug("%s", "\n".join(getattr(error, "__notes__", [])))

    run_jobs(
        [partial(_attempt, trial, kinds[trial.kind], __version__, folder / "cache") for trial in todo],
        num_processes or available_threads(),
        on_step=lambda step: progress.step(step, {}),
        on_result=keep,
        on_error=retry,
    )
    return results


def read_results(trials: Sequence[Trial], folder: Path) -> dict[str, TrialResult]:
    """Return the results of those trials that are done, by `Trial.key`.

    Args:
        trials: Trials.
        folder: Folder of the results.

    Raises:
        CheckpointError: A result file is damaged.
    """
    paths = {trial.key: _path(trial, folder) for trial in trials}
    return {key: _read(path) for key, path in paths.items() if path.exists()}


def _path(trial: Trial, folder: Path) -> Path:
    return folder / "trials" / f"{trial.key}.json"


def _check(executor: str, address: str | None, num_processes: int | None, retries: int) -> None:
    if executor not in EXECUTORS:
        raise SettingsError.of("executor", executor, f"one of {', '.join(EXECUTORS)}")
    if address is not None and executor != "ray":
        raise SettingsError.of("address", address, "an address with executor ray only")
    if address is not None and num_processes is not None:
        raise SettingsError.of("num_processes", num_processes, "no number with an address; the Ray cluster decides")
    if num_processes is not None and num_processes < 1:
        raise SettingsError.of("num_processes", num_processes, "1 or more")
    if retries < 0:
        raise SettingsError.of("retries", retries, "0 or more")


def _read(path: Path) -> TrialResult:
    try:
        record = TrialRecord.model_validate_json(read_bytes(path, "result of a trial", CheckpointError))
        if record.digest not in (None, digest_of(record.result)):
            raise ValueError("the digest of the result differs")
    except ValueError as error:
        raise CheckpointError(f"result of a trial {path}: damaged; delete it to run the trial again") from error
    if record.version != __version__ or Trial(record.kind, record.options, record.seed).key != path.stem:
        raise CheckpointError(f"result of a trial {path}: belongs to another trial; delete it to run the trial again")
    return record.result


def _attempt(
    trial: Trial,
    run: TrialKind,
    version: str,
    cache: Path | None,
    count_step: Callable[[], None],
) -> dict[str, Any]:
    """Run a trial with one thread and return the content of its result file; a `cache` of None is this machine's."""
    if version != __version__:
        raise SettingsError.of("version of airlora on a node", __version__, version)
    num_threads, start = torch.get_num_threads(), time.perf_counter()
    set_threads(1)
    try:
        result = run(trial.options, trial.seed, make_folder(cache or _cache_of_machine()), count_step)
        seconds = time.perf_counter() - start
        measured = {"seconds": seconds, "result": result, "environment": _environment()}
        record = TrialRecord(version=version, **measured, **_identity(trial)).model_dump()
        # What a later call reads from the file is what this call returns: lists for tuples, and so on.
        content = json.loads(json.dumps(record, allow_nan=False))
        return {**content, "digest": digest_of(content["result"])}
    except Interrupted as error:
        # `train` names the command that resumes its run, but the run belongs to the trial.
        raise Interrupted("interrupted; the same command continues", error.exit_code - 128) from error
    except AirloraError:
        raise
    except Exception as error:
        raise TrialAttemptError(f"{type(error).__name__}: {error}") from error
    finally:
        set_threads(num_threads)


def _cache_of_machine() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"airlora-reproduce-cache-{user}"


def _environment() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device} | {name: metadata.version(name) for name in ("torch", "transformers", "peft")}


def _identity(trial: Trial) -> dict[str, Any]:
    return {"kind": trial.kind, "options": trial.options, "seed": trial.seed}


def _name(trial: Trial) -> str:
    # All settings would hide the message that follows.
    options = {key: value for key, value in trial.options.items() if key != "settings"}
    if "settings" in trial.options:
        options = {"policy": trial.options["settings"]["policy"]["name"], **options}
    text = json.dumps(options)
    return f"trial {trial.kind} with seed {trial.seed} and options {text if len(text) <= 200 else f'{text[:197]}...'}"


def _error_of(trial: Trial, error: Exception, retries: int) -> Exception:
    name = _name(trial)
    if isinstance(error, TrialAttemptError | ProcessKilledError):
        return TrainingError(f"{name}: failed {retries + 1} times, the last time with {error}")
    if isinstance(error, AirloraError):
        # The class, and with it the exit code, stays as it is.
        error.args = (f"{name}: {error}", *error.args[1:])
        return error
    return TrainingError(f"{name}: {type(error).__name__}: {error}")
