import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airlora.errors import TrainingError
from airlora.training import run_jobs


@pytest.fixture
def some_jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The helper module, importable by spawned processes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("some_jobs")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order_and_steps_are_counted(some_jobs: ModuleType, num_processes: int) -> None:
    # The first takes longest, so that in processes it ends last.
    waits, steps = (1.5, 0.0, 0.0), (3, 5, 7)
    jobs: list[Any] = [partial(some_jobs.count, 10 * i, steps[i], waits[i] * (num_processes - 1)) for i in range(3)]
    counts: list[int] = []
    told: list[tuple[int, Any]] = []
    results = run_jobs(
        [*jobs, some_jobs.num_threads],
        num_processes,
        on_step=counts.append,
        on_result=lambda index, value: told.append((index, value)),
    )
    process, threads = results.pop()
    assert results == [0, 10, 20]
    assert sorted(told) == [(0, 0), (1, 10), (2, 20), (3, (process, threads))]
    assert counts == sorted(counts)
    assert counts[-1] == 16
    if num_processes == 1:
        assert process == os.getpid()
        assert counts == list(range(1, 17))
        assert [index for index, _ in told] == [0, 1, 2, 3]
    else:
        assert process != os.getpid()
        assert threads == 1


@pytest.mark.parametrize(("num_jobs", "num_processes"), [(1, 4), (2, 1)])
def test_no_process_is_started_for_one_job_or_one_at_a_time(
    some_jobs: ModuleType, num_jobs: int, num_processes: int
) -> None:
    results = run_jobs([some_jobs.num_threads] * num_jobs, num_processes)
    assert {process for process, _ in results} == {os.getpid()}


def test_no_jobs_give_no_results() -> None:
    assert run_jobs([], 2) == []


def test_an_error_in_this_process_ends_the_remaining_jobs(some_jobs: ModuleType, tmp_path: Path) -> None:
    told: list[int] = []
    jobs: list[Any] = [
        partial(some_jobs.count, 1, 1, 0.0),
        partial(some_jobs.fail, tmp_path),
        partial(some_jobs.long, tmp_path, "rest"),
    ]
    with pytest.raises(TrainingError, match="loss = nan at step 1"):
        run_jobs(jobs, 1, on_result=lambda index, _: told.append(index))
    assert told == [0]
    assert not (tmp_path / "rest began").exists()


def test_an_error_in_a_process_is_raised_at_once_and_ends_the_other_jobs(some_jobs: ModuleType, tmp_path: Path) -> None:
    told: list[int] = []
    jobs: list[Any] = [
        partial(some_jobs.fail, tmp_path / "first began"),
        partial(some_jobs.busy, tmp_path, "first"),
        partial(some_jobs.long, tmp_path, "second"),
    ]
    start = time.monotonic()
    with pytest.raises(TrainingError, match="^loss = nan at step 1$"):
        run_jobs(jobs, 2, on_result=lambda index, _: told.append(index))
    assert time.monotonic() - start < some_jobs.LONG_STEPS * some_jobs.STEP_S
    assert told == []
    assert not list(tmp_path.glob("* ended"))
    assert not (tmp_path / "second began").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_processes_end_when_their_parent_was_killed(some_jobs: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import some_jobs\n"
        "from airlora.training import run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    here = Path({str(tmp_path)!r})\n"
        "    run_jobs([partial(some_jobs.busy, here, name) for name in ('first', 'second')], 2)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    began = [tmp_path / "first began", tmp_path / "second began"]
    _wait_until(lambda: all(path.exists() and path.read_text() for path in began))
    parent.kill()
    parent.wait()
    _wait_until(lambda: not any(_lives(int(path.read_text())) for path in began))


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until(is_so: Callable[[], bool], seconds: float = 80.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_killed_process_is_reported_in_one_line(some_jobs: ModuleType, tmp_path: Path) -> None:
    jobs: list[Any] = [
        partial(some_jobs.long, tmp_path, "first"),
        partial(some_jobs.die, tmp_path / "first began"),
    ]
    with pytest.raises(TrainingError, match="a process was killed; is there enough memory") as caught:
        run_jobs(jobs, 2)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("* ended"))


@pytest.mark.parametrize(("how", "num_processes"), [(("fail",), 1), (("die", "fail"), 2)])
def test_a_failed_job_runs_again_if_its_error_is_accepted_and_the_other_jobs_go_on(
    some_jobs: ModuleType, tmp_path: Path, how: tuple[str, ...], num_processes: int
) -> None:
    jobs: list[Any] = [
        *(partial(some_jobs.end_second, tmp_path, name) for name in how),
        partial(some_jobs.count, 5, 4, 0),
    ]
    errors: list[tuple[int, str]] = []
    counts: list[int] = []
    results = run_jobs(
        jobs,
        num_processes,
        on_step=counts.append,
        on_error=lambda index, error: errors.append((index, type(error).__name__)),
    )
    names = {"fail": "ValueError", "die": "ProcessKilledError"}
    assert results == [*how, 5]
    assert sorted(errors) == [(index, names[name]) for index, name in enumerate(how)]
    assert counts[-1] == len(how) + 4, "steps of failed attempts count no more"


def test_an_error_that_is_not_accepted_ends_the_jobs(some_jobs: ModuleType, tmp_path: Path) -> None:
    def refuse(index: int, error: Exception) -> None:
        raise TrainingError(f"job {index} failed: {error}")

    with pytest.raises(TrainingError, match="^job 0 failed: not yet$"):
        run_jobs([partial(some_jobs.end_second, tmp_path, "fail")], 1, on_error=refuse)
