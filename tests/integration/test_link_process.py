"""A link process that a user names: imported when the command line names it, and never because a file does."""

import json
import sys
from pathlib import Path

import pytest

from airlora.training import RunFolder
from commands import airlora, refused, tiny_flags

MODULE = """
from pathlib import Path

from airlora.channel import LinkState

Path("imported").touch()


class Alternating:
    \"\"\"5 dB and 10 dB in turn.\"\"\"

    def __init__(self, channel):
        self.bandwidth_hz = channel.bandwidth_hz[0]
        self.block = 0

    @property
    def state(self):
        snr_db = 5.0 if self.block % 2 == 0 else 10.0
        return LinkState(7.5, snr_db, self.bandwidth_hz, (0.5 + self.block % 2) * self.bandwidth_hz)

    def reset(self, generator):
        self.block = 0
        return self.state

    def step(self):
        self.block += 1
        return self.state

    def capacity_bps(self, link):
        return link.bandwidth_hz

    def state_dict(self):
        return {"block": self.block}

    def load_state_dict(self, state):
        self.block = state["block"]
"""
NAMED = "channel.process=mylinks:Alternating"
FORGOTTEN = ("channel.process = 'mylinks:Alternating'", "not imported", f"--set {NAMED}", "register_link_process")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory, with a module that no process has imported."""
    (tmp_path / "mylinks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch, folder: Path) -> object:
    """Return a function after which this process is like a new one, to which nobody has named a class."""

    def forget() -> None:
        monkeypatch.setattr("airlora.channel.link.LINK_PROCESSES", {})
        monkeypatch.delitem(sys.modules, "mylinks", raising=False)
        (folder / "imported").unlink(missing_ok=True)

    forget()
    return forget


def test_a_run_over_a_named_link_process(folder: Path, forget, tiny_model: Path, tiny_data: tuple[Path, Path]) -> None:
    run = folder / "run"
    flags = tiny_flags(tiny_model, tiny_data, env__objective="frozen", policy__name="ppo")
    result = airlora("train", "--out", run, "--steps", 4, "--json", *flags, "--set", NAMED)
    assert result.returncode == 0, result.stderr
    assert RunFolder(run).settings().channel.process == "mylinks:Alternating"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["snr_db"] for line in lines if "snr_db" in line} == {5.0, 10.0}

    # The class is not needed to read the run, and a file of settings does not import it.
    forget()
    assert airlora("evaluate", run, "--json").returncode == 0
    assert airlora("inspect", run, "--json").returncode == 0
    plan = ("plan", run, "--snr-db", 5, "--bandwidth-hz", 2e4, "--deadline-s", 1)
    refused(airlora(*plan), *FORGOTTEN)
    refused(airlora("train", "--out", folder / "other", "--config", run / "settings.toml"), *FORGOTTEN)
    (run / "run.json").unlink()
    refused(airlora("train", "--out", run, "--resume"), *FORGOTTEN)
    refused(
        airlora("train", "--out", run, "--resume", "--set", "channel.process=fractions:Fraction"), "channel.process"
    )
    assert not (folder / "imported").exists()

    resumed = airlora("train", "--out", run, "--resume", "--set", NAMED, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout) == json.loads(result.stdout)
    assert (folder / "imported").exists()


def test_a_resumed_run_keeps_its_own_link_process(
    folder: Path, forget, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    run = folder / "run"
    flags = tiny_flags(tiny_model, tiny_data, env__objective="frozen", policy__name="constant")
    assert airlora("train", "--out", run, "--steps", 2, *flags).returncode == 0
    (run / "run.json").unlink()
    refused(airlora("train", "--out", run, "--resume", "--set", NAMED), "channel.process", "None")
    assert airlora("train", "--out", run, "--resume").returncode == 0
