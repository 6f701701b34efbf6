import json
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from airlora.errors import CheckpointError, DataError, MissingDependencyError, SettingsError, TrainingError
from airlora.progress import SilentProgress
from airlora.reproduce.runner import run_trials
from airlora.reproduce.trial import Trial, TrialResult, digest_of
from airlora.version import __version__
from trial_kinds import KINDS, attempts


class Recorder(SilentProgress):
    """Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.steps: list[int] = []

    def phase(self, title: str, total: int, done: int = 0) -> None:
        self.phases.append((title, total))

    def step(self, done: int, values: Mapping[str, Any]) -> None:
        self.steps.append(done)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def make(kind: str, seed: int, marks: Path, *, num_steps: int = 1, **options: Any) -> Trial:
    return Trial(kind, {"folder": str(marks), **options}, seed, num_steps=num_steps)


def run(trials: list[Trial], folder: Path, **settings: Any) -> dict[str, TrialResult]:
    return run_trials(trials, folder, **({"num_processes": 1, "progress": SilentProgress(), "kinds": KINDS} | settings))


def files(folder: Path) -> dict[str, Any]:
    """Return the result files without their durations."""
    contents = {path.name: json.loads(path.read_text()) for path in (folder / "trials").iterdir()}
    assert all(content.pop("seconds") >= 0.0 for content in contents.values())
    return contents


def test_equal_trials_run_once_and_only_those_without_a_result_run_again(tmp_path: Path, marks: Path) -> None:
    first, second, third = (make("draw", seed, marks) for seed in range(3))
    results = run([first, second, make("draw", 0, marks, num_steps=9)], tmp_path / "out")
    assert set(results) == {first.key, second.key}
    assert (attempts(marks, 0), attempts(marks, 1)) == (1, 1)
    progress = Recorder()
    again = run([third, second, first], tmp_path / "out", progress=progress)
    assert attempts(marks) == 3
    assert again.items() > results.items()
    assert progress.phases == [("running trials", 1)]
    assert progress.steps == [1]
    assert run([first, second, third], tmp_path / "out") == again
    assert attempts(marks) == 3


def test_the_file_of_a_trial_says_what_ran(tmp_path: Path, marks: Path) -> None:
    trial = make("draw", 5, marks, shape=(2, 3))
    results = run([trial], tmp_path)
    assert files(tmp_path) == {
        f"{trial.key}.json": {
            "version": __version__,
            "kind": "draw",
            "options": {"folder": str(marks), "shape": [2, 3]},
            "seed": 5,
            "result": results[trial.key],
            "digest": digest_of(results[trial.key]),
            "environment": {
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
            },
        }
    }
    # Results have the same types whether they were just computed or read from a file.
    assert isinstance(results[trial.key]["numbers"], list)


def test_every_trial_has_one_thread_and_the_caller_keeps_its_own(tmp_path: Path, marks: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        (result,) = run([make("draw", 0, marks)], tmp_path).values()
        assert result["threads"] == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_longest_trials_start_first(tmp_path: Path, marks: Path) -> None:
    trials = [make("draw", seed, marks, num_steps=steps) for seed, steps in enumerate((5, 20, 10))]
    run(trials, tmp_path)
    started = sorted(marks.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name.partition(".")[0] for path in started] == ["1", "2", "0"]


def test_processes_give_the_files_of_a_single_process_even_if_one_is_killed(tmp_path: Path, marks: Path) -> None:
    trials = [make("draw", 0, marks), make("draw", 1, marks), make("die", 2, marks, failures=1, seconds=0.01)]
    alone = run(trials[:2], tmp_path / "alone")
    results = run(trials, tmp_path / "processes", num_processes=2)
    assert attempts(marks, 2) == 2
    # The trial that killed its process has the result that it gives in an undisturbed attempt.
    assert results == alone | run(trials[2:], tmp_path / "alone")
    assert files(tmp_path / "processes") == files(tmp_path / "alone")
    assert set(results) == {trial.key for trial in trials}


def test_a_trial_that_fails_for_a_while_is_repeated(tmp_path: Path, marks: Path) -> None:
    trial, other, progress = make("fail", 0, marks, failures=2), make("draw", 1, marks), Recorder()
    results = run([trial, other], tmp_path, retries=2, progress=progress)
    assert set(results) == {trial.key, other.key}
    assert (attempts(marks, 0), attempts(marks, 1)) == (3, 1)
    assert progress.steps[-1] == 2, "steps of failed attempts count no more"


def test_a_trial_that_always_fails_is_one_line_with_its_name_and_the_rest_is_kept(tmp_path: Path, marks: Path) -> None:
    good, bad = make("draw", 0, marks, num_steps=2), make("fail", 7, marks, failures=99, rank=4)
    with pytest.raises(TrainingError) as caught:
        run([bad, good], tmp_path, retries=1)
    message = str(caught.value)
    assert message.startswith("trial fail with seed 7 and options {")
    assert '"rank": 4' in message
    assert message.endswith("failed 2 times, the last time with OSError: disk on fire")
    assert "\n" not in message
    assert attempts(marks, 7) == 2
    assert set(files(tmp_path)) == {f"{good.key}.json"}


def test_a_trial_whose_options_are_refused_is_not_repeated(tmp_path: Path, marks: Path) -> None:
    with pytest.raises(
        DataError, match=r"^trial refuse with seed 3 .*: data.train = 'nowhere.tsv': allowed is an exist"
    ):
        run([make("refuse", 3, marks)], tmp_path)
    assert attempts(marks) == 1


def test_a_result_that_json_cannot_hold_is_an_error_of_its_trial(tmp_path: Path, marks: Path) -> None:
    with pytest.raises(TrainingError, match="^trial not_finite with seed 0 .* ValueError: Out of range float"):
        run([make("not_finite", 0, marks)], tmp_path, retries=0)
    assert files(tmp_path) == {}


def test_ctrl_c_keeps_finished_trials_and_the_next_call_runs_the_rest(tmp_path: Path, marks: Path) -> None:
    trials = [
        make("draw", 0, marks, num_steps=3),
        make("interrupt", 1, marks, num_steps=2),
        make("draw", 2, marks, num_steps=1),
    ]
    with pytest.raises(KeyboardInterrupt):
        run(trials, tmp_path)
    assert set(files(tmp_path)) == {f"{trials[0].key}.json"}
    assert len(run(trials, tmp_path)) == 3
    assert [attempts(marks, seed) for seed in range(3)] == [1, 2, 1]


def test_a_killed_run_is_continued(tmp_path: Path, marks: Path) -> None:
    trials = [make("draw", 0, marks, num_steps=2), make("draw", 1, marks, seconds=60.0)]
    listed = ", ".join(f"Trial('draw', {dict(t.options)!r}, {t.seed}, num_steps={t.num_steps})" for t in trials)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from airlora.progress import SilentProgress\n"
        "from airlora.reproduce.runner import run_trials\n"
        "from airlora.reproduce.trial import Trial\n"
        "from trial_kinds import KINDS\n"
        f"run_trials([{listed}], Path({str(tmp_path)!r}), num_processes=1, progress=SilentProgress(), kinds=KINDS)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    end = time.monotonic() + 90.0
    while attempts(marks, 1) == 0:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert set(files(tmp_path)) == {f"{trials[0].key}.json"}
    assert set(run(trials[:1], tmp_path)) == {trials[0].key}
    assert attempts(marks, 0) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"result": {}}', b'"words"', b"\xff\xfe"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, marks: Path, content: bytes) -> None:
    trial = make("draw", 0, marks)
    run([trial], tmp_path)
    path = tmp_path / "trials" / f"{trial.key}.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        run([trial, make("draw", 1, marks)], tmp_path)
    assert str(caught.value) == f"result of a trial {path}: damaged; delete it to run the trial again"
    assert attempts(marks) == 1, "no trial runs before the files are checked"
    path.unlink()
    assert run([trial], tmp_path)
    assert attempts(marks) == 2


def test_a_changed_result_is_refused(tmp_path: Path, marks: Path) -> None:
    trial = make("draw", 0, marks)
    results = run([trial], tmp_path)
    path = tmp_path / "trials" / f"{trial.key}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"result": {"numbers": [1.0]}}))
    with pytest.raises(CheckpointError, match="damaged; delete it to run the trial again"):
        run([trial], tmp_path)
    # Files of earlier runs have no digest.
    del record["digest"]
    path.write_text(json.dumps(record))
    assert run([trial], tmp_path) == results


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("version", "0.0.0"), ("options", {}), ("kind", "fail")])
def test_the_file_of_another_trial_is_refused(tmp_path: Path, marks: Path, key: str, value: object) -> None:
    trial = make("draw", 0, marks)
    run([trial], tmp_path)
    path = tmp_path / "trials" / f"{trial.key}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match="belongs to another trial; delete it"):
        run([trial], tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"executor": "slurm"}, "executor = 'slurm': allowed is one of local, ray"),
        ({"address": "auto"}, "address = 'auto': allowed is an address with executor ray only"),
        ({"executor": "ray", "address": "auto"}, "num_processes = 1: allowed is no number with an address"),
        ({"num_processes": 0}, "num_processes = 0: allowed is 1 or more"),
        ({"retries": -1}, "retries = -1: allowed is 0 or more"),
        ({"kinds": {"fail": KINDS["fail"]}}, "kind of a trial = 'draw': allowed is one of fail"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    tmp_path: Path, marks: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        run([make("draw", 0, marks)], tmp_path, **settings)
    assert attempts(marks) == 0


def test_a_missing_ray_is_named_with_its_extra(tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingDependencyError, match=r"executor ray needs the package ray: pip install 'airlora\[ray\]'"
    ):
        run([make("draw", 0, marks)], tmp_path, executor="ray")


def test_no_trials_give_no_results(tmp_path: Path) -> None:
    progress = Recorder()
    assert run([], tmp_path, executor="ray", progress=progress) == {}
    assert progress.phases == []
