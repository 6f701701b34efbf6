import errno
import os
import stat
from pathlib import Path

import pytest

from airlora.errors import DataError, StorageError
from airlora.files import atomic_write, make_folder, read_bytes, read_json, sha256_of, write_bytes, write_json


def test_written_json_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json", "thing") == {"b": [1, 2.5, None]}
    assert os.listdir(tmp_path) == ["a.json"]


def test_permissions_honour_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_failed_write_keeps_the_earlier_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"half of the n")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_full_disk_is_reported_and_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*a: no space left on device; an earlier file is unchanged"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_message_names_the_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write .*nowhere/a: no such file"):
        write_bytes(tmp_path / "nowhere" / "a", b"")


def test_folder_cannot_be_created_below_a_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"")
    with pytest.raises(StorageError, match="cannot create folder .*a/b"):
        make_folder(tmp_path / "a" / "b")


def test_missing_file_raises_the_requested_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data file .*gone: no such file"):
        read_bytes(tmp_path / "gone", "data file", DataError)
    with pytest.raises(DataError, match="is a directory"):
        read_bytes(tmp_path, "data file", DataError)


def test_invalid_json_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"{")
    with pytest.raises(StorageError, match="not valid JSON"):
        read_json(tmp_path / "a", "thing")


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert os.listdir(tmp_path) == []


def test_sha256_matches_the_published_test_vector(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")
    with pytest.raises(StorageError, match="cannot read"):
        sha256_of(tmp_path / "b")
