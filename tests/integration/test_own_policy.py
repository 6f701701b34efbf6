"""A policy of the user's own, from the command line."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airlora.policy import specs
from airlora.training import RunFolder
from commands import airlora, refused, tiny_flags

HALF = """
import numpy as np


class Half:
    def __init__(self, problem):
        self.problem = problem

    def decide(self, observation):
        rank = observation.budget_params // (2 * sum(self.problem.params_per_rank))
        return np.full(self.problem.num_modules, min(rank, self.problem.r_max))


class Learner(Half):
    def explore(self, observation):
        raise NotImplementedError

    def stages(self, buffer, rollout):
        raise NotImplementedError
"""
NAME = "half_policy:Half"


@pytest.fixture
def new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Write the policy into the current directory, and return a function that forgets all imported policies."""
    (tmp_path / "half_policy.py").write_text(HALF)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(specs, "_REGISTERED", {})
    monkeypatch.setattr(sys, "path", [*sys.path])

    def forget() -> None:
        specs._REGISTERED.clear()
        sys.modules.pop("half_policy", None)

    yield forget
    forget()


@pytest.fixture
def flags(tiny_model: Path, tiny_data: tuple[Path, Path]) -> list[str]:
    own = tiny_flags(tiny_model, tiny_data)
    place = own.index("policy.name=airllm")
    return [*own[: place - 1], *own[place + 1 :]]


def test_a_class_with_decide_alone_is_trained_planned_with_and_benchmarked(
    new_process: Callable[[], None], flags: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = airlora("train", "--out", "run", "--steps", 4, "--policy", NAME, "--preset", "quick", "--json", *flags)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["policy"] == NAME
    assert not RunFolder("run").policy_path.exists()
    assert f"policy {NAME} cannot be saved, so the run has no policy.pt" in caplog.text
    # Commands that need no policy take the run as any other, and import nothing.
    new_process()
    assert airlora("evaluate", "run", "--json").returncode == 0
    assert airlora("inspect", "run", "--json").returncode == 0
    assert "half_policy" not in sys.modules
    link = ("--snr-db", 10, "--bandwidth-hz", 4e4, "--bits", 32)
    planned = airlora("plan", "run", *link, "--policy", NAME, "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["policy"] == NAME
    new_process()
    bench = ("--evaluations", 500, "--seeds", 1, "--problem", "separable-36", "--out", tmp_path / "bench")
    result = airlora("policies", "--bench", "--policy", NAME, *bench, "--json")
    assert result.returncode == 0, result.stderr
    assert [row["policy"] for row in json.loads(result.stdout)] == [NAME]
    # Records of a class whose code has changed are not used again.
    new_process()
    Path("half_policy.py").write_text(HALF.replace("2 * sum", "sum"))
    changed = airlora("policies", "--bench", "--policy", NAME, *bench, "--json")
    assert json.loads(changed.stdout)[0]["regret"] < json.loads(result.stdout)[0]["regret"]
    on_run = airlora("policies", "--bench", "--run", "run", "--policy", NAME, "--out", tmp_path / "on_run", "--json")
    assert {row["policy"] for row in json.loads(on_run.stdout)} == {NAME}


def test_a_run_is_resumed_with_its_class_named_again(
    new_process: Callable[[], None], flags: list[str], tmp_path: Path
) -> None:
    trained = airlora("train", "--out", "run", "--steps", 20, "--policy", NAME, "--json", *flags)
    assert trained.returncode == 0, trained.stderr
    for name in ("run.json", "adapter.safetensors"):
        (tmp_path / "run" / name).unlink()
    new_process()
    refused(airlora("train", "--out", "run", "--resume"), f"'{NAME}'", f"pass --policy {NAME}")
    assert "half_policy" not in sys.modules
    refused(
        airlora("train", "--out", "run", "--resume", "--policy", "ppo"), "policy.name = 'ppo': allowed is the run's own"
    )
    resumed = airlora("train", "--out", "run", "--resume", "--policy", NAME, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == trained.stdout


def test_a_settings_file_does_not_import_the_class_that_it_names(
    new_process: Callable[[], None], flags: list[str], tmp_path: Path
) -> None:
    Path("s.toml").write_text(f'[policy]\nname = "{NAME}"\n')
    result = airlora("train", "--out", "run", "--steps", 4, "--config", "s.toml", *flags)
    refused(result, f"policy.name = '{NAME}'", f"pass --policy {NAME}")
    assert not Path("run").exists()
    assert "half_policy" not in sys.modules


def test_a_learner_that_cannot_be_saved_is_refused_before_training(
    new_process: Callable[[], None], flags: list[str]
) -> None:
    result = airlora("train", "--out", "run", "--set", "policy.name=half_policy:Learner", *flags)
    refused(result, "'half_policy:Learner': learns but cannot be saved, since it lacks arguments, from_arguments")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        (["train", "--out", "run"], "half_policy:Gone", ["half_policy:Gone", "none of the name Gone"]),
        (["train", "--out", "run"], "no_such_module:Half", ["No module named 'no_such_module'"]),
        (["policies", "--bench"], "half_policy:np", ["a class of half_policy"]),
        (["plan", "run", "--snr-db", "5", "--bandwidth-hz", "1e6"], "half_policy", ["stream", "package.module:Class"]),
    ],
)
def test_a_path_without_a_policy_is_refused(
    new_process: Callable[[], None], command: list[str], name: str, words: list[str]
) -> None:
    refused(airlora(*command, "--policy", name), "policy.name = ", *words)
