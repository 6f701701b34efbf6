import errno
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airlora.errors import CheckpointError, StorageError
from airlora.files import seal, write_bytes
from airlora.training import load_checkpoint, save_checkpoint

STATE: dict[str, Any] = {
    "tensor": torch.arange(4.0),
    "nested": [{"a": None, "b": 1.5}, "text", True],
    "generator": np.random.default_rng(3).bit_generator.state,
}


def test_a_checkpoint_round_trips_tensors_plain_values_and_generator_states(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", STATE, fingerprint="f" * 64)
    state = load_checkpoint(tmp_path / "c.pt", fingerprint="f" * 64)
    assert torch.equal(state["tensor"], STATE["tensor"])
    assert state["nested"] == STATE["nested"]
    generator = np.random.default_rng()
    generator.bit_generator.state = state["generator"]
    assert generator.random() == np.random.default_rng(3).random()


def test_a_checkpoint_of_another_base_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", STATE, fingerprint="a" * 64)
    with pytest.raises(CheckpointError, match=f"made for the base model {'a' * 12}, this one is {'b' * 12}"):
        load_checkpoint(tmp_path / "c.pt", fingerprint="b" * 64)


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -200])
def test_truncated_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, STATE, fingerprint="f")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"checkpoint .*c.pt: (damaged|not written by airlora)"):
        load_checkpoint(path, fingerprint="f")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(path, fingerprint="f")
    torch.save({"model": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not written by airlora"):
        load_checkpoint(path, fingerprint="f")
    write_bytes(path, seal(b"", "checkpoint", 99))
    with pytest.raises(CheckpointError, match="version .* = '99': allowed is 1"):
        load_checkpoint(path, fingerprint="f")
    write_bytes(path, seal(b"", "policy", 1))
    with pytest.raises(CheckpointError, match="not written by airlora"):
        load_checkpoint(path, fingerprint="f")


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, STATE, fingerprint="f")
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 50)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(path, fingerprint="f")


def test_code_in_a_file_is_never_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    for name, writer in (("torch", torch.save), ("pickle", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        writer({"fingerprint": "f", "state": Trap()}, tmp_path / name)
        write_bytes(tmp_path / name, seal((tmp_path / name).read_bytes(), "checkpoint", 1))
        with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
            load_checkpoint(tmp_path / name, fingerprint="f")
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1}, fingerprint="f")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left on device"):
        save_checkpoint(path, {"step": 2}, fingerprint="f")
    assert load_checkpoint(path, fingerprint="f") == {"step": 1}
    assert os.listdir(tmp_path) == ["c.pt"]
