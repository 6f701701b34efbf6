"""Atomic writing of files, and reading with errors that name the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from airlora.errors import AirloraError, StorageError

__all__ = [
    "atomic_write",
    "make_folder",
    "read_bytes",
    "read_json",
    "remove_file",
    "seal",
    "sha256_of",
    "sync_folder",
    "sync_paths",
    "unseal",
    "unseal_bytes",
    "write_bytes",
    "write_json",
]


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@contextlib.contextmanager
def atomic_write(path: Path | str, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces `path` when the block ends without an error.

    The bytes are written to a temporary file in the same folder, fsynced and renamed to `path`. On any error the
    temporary file is removed, and an existing `path` is unchanged.

    Args:
        path: File to write.
        mode: Permission bits of the file, before the process's umask. The temporary file is readable by its owner only.

    Raises:
        StorageError: The folder is missing, read-only or full.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {_reason(error)}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode & ~_umask())
        os.replace(name, target)
    except OSError as error:
        _remove(name)
        raise StorageError(f"cannot write {target}: {_reason(error)}; an earlier file is unchanged") from error
    except BaseException:
        _remove(name)
        raise
    sync_folder(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that renames in it survive a power failure.

    Raises:
        StorageError: The folder cannot be synced.
    """
    sync_paths([folder])


def sync_paths(paths: Iterable[Path]) -> None:
    """Fsync files and folders, so that their contents survive a power failure.

    Args:
        paths: Files and folders to sync. Systems other than POSIX ignore them.

    Raises:
        StorageError: A file or folder cannot be synced.
    """
    if os.name != "posix":
        return
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {_reason(error)}") from error


def write_bytes(path: Path | str, data: bytes, *, mode: int = 0o666) -> None:
    """Write bytes to a file atomically.

    Args:
        path: File to write.
        data: Content of the file.
        mode: Permission bits of the file, before the process's umask.

    Raises:
        StorageError: The file cannot be written.
    """
    with atomic_write(path, mode=mode) as file:
        file.write(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON atomically.

    Args:
        path: File to write.
        value: JSON-compatible value.

    Raises:
        StorageError: The file cannot be written.
        ValueError: The value holds NaN or infinity.
    """
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_bytes(path: Path | str, kind: str, error: type[AirloraError] = StorageError) -> bytes:
    """Return the content of a file.

    Args:
        path: File to read.
        kind: Kind of file for the message, such as "data file" or "checkpoint".
        error: Class of the error to raise.

    Raises:
        AirloraError: The file is missing or cannot be read. The class is `error`.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{kind} {path}: no such file") from cause
    except OSError as cause:
        raise error(f"{kind} {path}: {_reason(cause)}") from cause


def read_json(path: Path | str, kind: str, error: type[AirloraError] = StorageError) -> Any:
    """Return the JSON value in a file.

    Args:
        path: File to read.
        kind: Kind of file for the message, such as "data file" or "checkpoint".
        error: Class of the error to raise.

    Raises:
        AirloraError: The file is missing, cannot be read or is not valid JSON. The class is `error`.
    """
    try:
        return json.loads(read_bytes(path, kind, error))
    except ValueError as cause:
        raise error(f"{kind} {path}: not valid JSON ({cause})") from cause


def make_folder(path: Path | str) -> Path:
    """Create a folder with its parents if it is missing, and return it.

    Raises:
        StorageError: The folder cannot be created.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create folder {folder}: {_reason(error)}") from error
    return folder


def remove_file(path: Path | str) -> None:
    """Remove a file, if there is one.

    Raises:
        StorageError: The file cannot be removed.
    """
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {_reason(error)}") from error


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        StorageError: The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {_reason(error)}") from error


def seal(content: bytes, kind: str, version: int) -> bytes:
    """Return the content preceded by one line with its kind, version and SHA-256.

    The digest lets `unseal` detect damage that archives of tensors do not detect themselves.

    Args:
        content: Bytes to seal.
        kind: Kind of content, one word, such as "policy" or "checkpoint".
        version: Version of the content's format.
    """
    return f"airlora-{kind} {version} {hashlib.sha256(content).hexdigest()}\n".encode() + content


def unseal(path: Path | str, kind: str, version: int, error: type[AirloraError] = StorageError) -> bytes:
    """Return the sealed content of a file.

    Args:
        path: File to read.
        kind: Required kind of content, one word, such as "policy" or "checkpoint".
        version: Required version of the content's format.
        error: Class of the error to raise.

    Raises:
        AirloraError: The file is missing, of another kind or version, or damaged. The class is `error`.
    """
    return unseal_bytes(read_bytes(path, kind, error), path, kind, version, error)


def unseal_bytes(
    sealed: bytes, path: Path | str, kind: str, version: int, error: type[AirloraError] = StorageError
) -> bytes:
    """Return the content of sealed bytes.

    Args:
        sealed: Bytes returned by `seal`.
        path: File that the bytes come from, for messages.
        kind: Required kind of content, one word, such as "policy" or "checkpoint".
        version: Required version of the content's format.
        error: Class of the error to raise.

    Raises:
        AirloraError: The bytes are of another kind or version, or damaged. The class is `error`.
    """
    header, _, content = sealed.partition(b"\n")
    written_by, _, rest = header.partition(b" ")
    found, _, digest = rest.partition(b" ")
    if written_by != f"airlora-{kind}".encode():
        raise error(f"{kind} {path}: not written by airlora")
    if found != str(version).encode():
        raise error.of(f"version of {kind} {path}", found.decode(errors="replace"), str(version))
    if digest != hashlib.sha256(content).hexdigest().encode():
        raise error(f"{kind} {path}: damaged (its digest differs)")
    return content
