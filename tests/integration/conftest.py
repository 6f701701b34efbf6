from pathlib import Path

import pytest

from commands import airlora, tiny_flags


@pytest.fixture(autouse=True)
def _offline_and_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: tuple[Path, Path]) -> Path:
    """A finished run of the tiny model."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = airlora("train", "--out", out, "--steps", 60, "--json", *tiny_flags(tiny_model, tiny_data))
    assert result.returncode == 0, result.stderr
    return out
