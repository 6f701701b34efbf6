"""Write a file whole or not at all, and read one with errors that name it."""

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
    "seal",
    "sha256_of",
    "sync_folder",
    "sync_paths",
    "unseal",
    "unsealed",
    "write_bytes",
    "write_json",
]


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@contextlib.contextmanager
def atomic_write(path: Path | str, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` only once it is whole and on disk.

    The bytes go to a temporary file in the same folder, are fsynced, and are renamed over `path`.  If anything fails
    the temporary file is removed and an earlier `path` stays as it was.  `mode` is what the file allows, less the
    process's umask; until it is whole its owner alone can read it.

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
        raise StorageError(f"cannot write {target}: {_reason(error)}; what was there before is untouched") from error
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
    """Put renames in a folder on disk for good; raises `StorageError`."""
    sync_paths([folder])


def sync_paths(paths: Iterable[Path]) -> None:
    """Put the contents of files, and the names in folders, on disk for good; raises `StorageError`."""
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
    """Write `data` to `path`, whole or not at all; see `atomic_write`; raises `StorageError`."""
    with atomic_write(path, mode=mode) as file:
        file.write(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; raises `StorageError`."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_bytes(path: Path | str, kind: str, error: type[AirloraError] = StorageError) -> bytes:
    """Return the bytes of `path`.

    Args:
        path: The file.
        kind: What the file is, for the message ("data file", "checkpoint").
        error: What to raise.

    Raises:
        AirloraError: Of type `error`; the file is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as cause:
        raise error(f"{kind} {path}: no such file") from cause
    except OSError as cause:
        raise error(f"{kind} {path}: {_reason(cause)}") from cause


def read_json(path: Path | str, kind: str, error: type[AirloraError] = StorageError) -> Any:
    """Return the JSON value in `path`; raises `error` if it is missing or no JSON."""
    try:
        return json.loads(read_bytes(path, kind, error))
    except ValueError as cause:
        raise error(f"{kind} {path}: not valid JSON ({cause})") from cause


def make_folder(path: Path | str) -> Path:
    """Create the folder `path` with its parents and return it; raises `StorageError`."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create folder {folder}: {_reason(error)}") from error
    return folder


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; raises `StorageError`."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {_reason(error)}") from error


def seal(content: bytes, kind: str, version: int) -> bytes:
    """Return `content` behind a line that names its kind, version and SHA-256; `unseal` takes the line off again.

    Archives of tensors do not notice a flipped bit by themselves.
    """
    return f"airlora-{kind} {version} {hashlib.sha256(content).hexdigest()}\n".encode() + content


def unseal(path: Path | str, kind: str, version: int, error: type[AirloraError] = StorageError) -> bytes:
    """Return what was sealed in `path`.

    Args:
        path: The file.
        kind: What it must be, one word ("policy", "checkpoint").
        version: The version that can be read.
        error: What to raise.

    Raises:
        AirloraError: Of type `error`; the file is missing, of another kind or version, or damaged.
    """
    return unsealed(read_bytes(path, kind, error), path, kind, version, error)


def unsealed(
    sealed: bytes, path: Path | str, kind: str, version: int, error: type[AirloraError] = StorageError
) -> bytes:
    """Return what was sealed in the bytes of `path`; otherwise as `unseal`."""
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
