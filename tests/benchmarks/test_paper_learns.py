"""Report and arguments of `benchmarks/paper_learns.py`, without training."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from airlora.errors import SettingsError
from airlora.reproduce.experiment import Results
from airlora.reproduce.plan import Plan
from airlora.reproduce.scales import SCALES

PATH = Path(__file__).parents[2] / "benchmarks" / "paper_learns.py"
SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0)


@pytest.fixture(scope="module")
def paper_learns() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_learns", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_has_means_over_links_and_a_column_per_link(paper_learns: ModuleType) -> None:
    plan = Plan(SCALES["standard"], "repaired", (42, 43, 44), bandwidth_hz=5e6)
    base = {"PPO+DDIM/MLP": 0.6, "PPO": 0.5, "best constant": 0.7}
    results = {}
    for method, objective in base.items():
        for seed in plan.seeds:
            noise = 0.001 * (seed - 43) * objective
            links = [
                {"snr_db": snr_db, "objective": objective + 0.01 * index + noise, "cost": 1.0 / (1 + index)}
                for index, snr_db in enumerate(SNRS_DB)
            ]
            for trial in plan.trials(method, seed):
                results[trial.key] = {"links": links, "calibration": [0.5] * len(SNRS_DB)}
    text = paper_learns.report(Results(plan, results))
    assert "| PPO | 0.5200 | 0.5188 to 0.5212 |" in text
    assert "| by link | -5 dB | 0 dB | 5 dB | 10 dB | 15 dB |" in text
    assert "| U + λη: PPO+DDIM/MLP | 0.600 | 0.610 | 0.620 | 0.630 | 0.640 |" in text
    assert "| η: best constant | 1.000 | 0.500 | 0.333 | 0.250 | 0.200 |" in text
    assert "PPO+DDIM/MLP has a lower objective than PPO: does not hold." in text
    assert "PPO+DDIM/MLP has a lower objective than best constant: holds." in text


@pytest.mark.parametrize("losses", ["0", "-5"])
def test_losses_that_no_policy_can_learn_from_are_refused_before_training(
    paper_learns: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, losses: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["paper_learns.py", "--losses", losses, "--out", str(tmp_path / "out")])
    with pytest.raises(SettingsError, match=f"losses = {losses}: allowed is 1 or more"):
        paper_learns.main()
    assert not (tmp_path / "out").exists()
