import json
from pathlib import Path

import numpy as np
import pytest

from commands import airlora, centred, logits_by_peft, refused, tiny_flags

LINK = ("--snr-db", 5, "--bandwidth-hz", 1e4)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: tuple[Path, Path]) -> Path:
    """A finished run with the updates of the FFN on the residual stream."""
    out = tmp_path_factory.mktemp("runs") / "residual"
    flags = tiny_flags(
        tiny_model, tiny_data, finetune__head_steps=5, finetune__align_steps=3, adapter__ffn_update="residual"
    )
    result = airlora("train", "--out", out, "--steps", 60, "--json", *flags)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def stream(residual: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("streams") / "residual.airs"
    result = airlora("pack", residual, out, "--bits", 16)
    assert result.returncode == 0, result.stderr
    return out


def logits(*arguments: object, out: Path) -> np.ndarray:
    result = airlora("evaluate", *arguments, "--predictions", out)
    assert result.returncode == 0, result.stderr
    found = np.asarray([json.loads(line)["logits"] for line in out.read_text().splitlines()])
    return centred(found)


def test_residual_ffn_modules_are_square(residual: Path, run: Path) -> None:
    own, other = (json.loads((folder / "run.json").read_text())["modules"] for folder in (residual, run))
    assert len(own) == len(other)
    for name, module in own.items():
        assert name.endswith({"fc1": ".in", "fc2": ".out"}.get(module["role"], name))
        assert module["d_in"] == module["d_out"]


def test_stream_and_export_have_the_logits_of_the_run(
    residual: Path, stream: Path, tiny_model: Path, tiny_data: tuple[Path, Path], tmp_path: Path
) -> None:
    on = ("--data", tiny_data[1], "--model", tiny_model)
    whole = logits(residual, "--rank", 4, out=tmp_path / "run")
    np.testing.assert_allclose(logits(stream, *on, out=tmp_path / "stream"), whole, atol=2e-3)
    assert airlora("export", stream, tmp_path / "peft", "--for", "peft", "--model", tiny_model).returncode == 0
    found = centred(logits_by_peft(tmp_path / "peft", tiny_model, tiny_data[1]))
    np.testing.assert_allclose(found, whole, atol=4e-3)
    prefix = logits(stream, "--upto", stream.stat().st_size // 2, *on, out=tmp_path / "prefix")
    assert 0 < np.abs(prefix - whole).mean() < 1
    assert airlora("unpack", stream, tmp_path / "out", "--model", tiny_model).returncode == 0


def test_a_residual_run_can_be_fine_tuned_planned_and_compared(residual: Path, tmp_path: Path) -> None:
    picture = ("--picture", tmp_path / "plan.svg")
    result = airlora("plan", residual, *LINK, "--deadline-s", 0.5, "--adalora", "--json", *picture)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    (row,) = (row for row in value["others"] if row["policy"] == "adalora")
    assert row["rank_pattern"].keys() == value["rank_pattern"].keys()
    assert 4 * sum(row["rank_pattern"].values()) < row["payload_bytes"]
    assert "adalora, 32 bit" in (tmp_path / "plan.svg").read_text()
    flags = ("--ranks", "1", "--baseline-steps", 5, "--tuning-steps", 2, "--qat-steps", 2, "--for", "2kB")
    curve = airlora("curve", residual, "--out", tmp_path / "curve", *flags)
    assert curve.returncode == 0, curve.stderr


def test_ranks_of_adalora_apply_to_a_residual_run(residual: Path, tmp_path: Path) -> None:
    flags = ("--policy", "adalora-ranks", "--out", tmp_path / "bench")
    result = airlora("policies", "--bench", "--run", residual, *flags)
    assert result.returncode == 0, result.stderr


def test_a_stream_without_residual_updates_is_no_delta_to_one_with_them(
    residual: Path, run: Path, stream: Path, tmp_path: Path
) -> None:
    result = airlora("pack", run, tmp_path / "d.airs", "--since", stream, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["base_stream"] is None
    refused(airlora("train", "--out", tmp_path / "x", "--set", "adapter.ffn_update=both"), "ffn_update", "both")
