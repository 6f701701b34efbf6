import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airlora.errors import DataError, NetworkError, TrainingError
from airlora.progress import SilentProgress
from airlora.reproduce.runner import run_trials
from airlora.reproduce.trial import Trial, TrialResult
from trial_kinds import KINDS, attempts, processes

pytest.importorskip("ray", reason="ray is not installed")

STORE_BYTES = 80_000_000
SYSTEM = {
    # Ray's default of 15 lets the trials wait for everything else on the machine.
    "worker_niceness": 0,
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster with one node of one CPU."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # The processes of the nodes import the kinds of trials.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": SYSTEM})
    yield cluster
    cluster.shutdown()


def run(trials: list[Trial], folder: Path, **settings: Any) -> dict[str, TrialResult]:
    return run_trials(trials, folder, progress=SilentProgress(), kinds=KINDS, **settings)


def test_a_cluster_gives_the_results_of_this_machine_even_if_a_node_is_lost(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    marks = tmp_path / "marks"
    marks.mkdir()
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    # No trial ends on this node.
    (marks / "doomed").write_text(node.node_id)
    options = {"folder": str(marks), "seconds": 0.1}
    trials = [Trial("draw", options, seed) for seed in range(5)] + [Trial("fail", {**options, "failures": 1}, 5)]

    def kill_node() -> None:
        while not attempts(marks, node=node.node_id):
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        for process in processes(marks, node=node.node_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill_node, daemon=True)
    killer.start()
    results = run(trials, tmp_path / "ray", executor="ray", address=cluster.address)
    killer.join(timeout=10.0)
    assert not killer.is_alive()
    assert attempts(marks, node=node.node_id) >= 1
    assert attempts(marks, 5) >= 2
    assert results == run(trials, tmp_path / "local", num_processes=1)
    assert {path.stem for path in (tmp_path / "ray" / "trials").iterdir()} == {trial.key for trial in trials}
    assert not ray.is_initialized()
    assert capsys.readouterr().out == ""

    # Trials that fail for good, on a connection of the caller's.
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        with pytest.raises(TrainingError, match="^trial fail with seed 7 .* failed 2 times, .* OSError: disk on fire$"):
            run([Trial("fail", {**options, "failures": 99}, 7)], tmp_path / "ray", executor="ray", retries=1)
        assert attempts(marks, 7) == 2
        with pytest.raises(DataError, match="^trial refuse with seed 9 .*: data.train = 'nowhere.tsv'"):
            run([Trial("refuse", options, 9)], tmp_path / "ray", executor="ray")
        assert attempts(marks, 9) == 1
        with pytest.raises(TrainingError, match="^trial die with seed 8 .* failed 1 times, .* died unexpectedly"):
            run([Trial("die", {**options, "failures": 99}, 8)], tmp_path / "ray", executor="ray", retries=0)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_an_address_without_a_cluster_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="^address = '127.0.0.1:1': no Ray cluster can be reached"):
        run([Trial("draw", {"folder": str(tmp_path)}, 0)], tmp_path, executor="ray", address="127.0.0.1:1")
