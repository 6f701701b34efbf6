"""Signing keys: Ed25519, one file each, readable by their owner alone, and never in the repository.

```text
KEYS/root/<keyid>.pem          offline: needed to make and to rotate keys, not to publish
KEYS/targets/<keyid>.pem       signs releases
KEYS/snapshot/<keyid>.pem      signs what there is
KEYS/timestamp/<keyid>.pem     signs that it is fresh
KEYS/tenants/<name>/<keyid>.pem
```
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, SSlibKey

from airlora.errors import ReleaseError, StorageError
from airlora.files import make_folder, write_bytes

__all__ = ["PASSPHRASE_VARIABLE", "KeyFolder"]

PASSPHRASE_VARIABLE = "AIRLORA_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
"""Environment variable: if set, new keys are encrypted with it, and encrypted ones are opened with it."""


class KeyFolder:
    """The folder of a repository's private keys.

    Args:
        folder: The folder; it need not exist yet.
        repository: The repository's folder, which must not hold the keys.

    Raises:
        ReleaseError: The folder lies in the repository, which anyone may read.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        if folder.resolve().is_relative_to(repository.resolve()):
            raise ReleaseError.of("keys", str(folder), f"a folder outside of {repository}, which is published")

    def create(self, role: str) -> SSlibKey:
        """Make a key for a role, write it, and return its public half; raises `StorageError`."""
        signer = CryptoSigner.generate_ed25519()
        place = self._folder(role)
        make_folder(place)
        for folder in (place, *place.parents):
            if folder.is_relative_to(self.folder):
                _owner_alone(folder, 0o700)
        path = place / f"{signer.public_key.keyid}.pem"
        write_bytes(path, _encrypted(signer), mode=0o600)
        return signer.public_key

    def signer(self, role: str, key: SSlibKey) -> CryptoSigner:
        """Return what signs with a key.

        Raises:
            ReleaseError: The key is not in the folder, readable by others, encrypted otherwise, or damaged.
        """
        path = self._folder(role) / f"{key.keyid}.pem"
        try:
            mode, content = path.stat().st_mode, path.read_bytes()
        except FileNotFoundError:
            raise ReleaseError(f"{role} key {path}: no such file; this operation needs it") from None
        except OSError as error:
            raise ReleaseError(f"{role} key {path}: {(error.strerror or str(error)).lower()}") from error
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ReleaseError(f"{role} key {path}: others may read it; allow its owner alone (chmod 600)")
        password = _passphrase()
        try:
            encrypted = b"ENCRYPTED" in content.partition(b"\n")[0]
            return CryptoSigner(load_pem_private_key(content, password if encrypted else None), key)
        except TypeError as error:
            raise ReleaseError(f"{role} key {path}: is encrypted; give its passphrase in {PASSPHRASE_VARIABLE}") from (
                error
            )
        except (ValueError, UnsupportedAlgorithm, SigningError) as error:
            raise ReleaseError(
                f"{role} key {path}: damaged, of another key, or the passphrase in {PASSPHRASE_VARIABLE} is wrong"
            ) from error

    def has(self, role: str, keyid: str) -> bool:
        """Whether the folder holds the private half of a key."""
        return (self._folder(role) / f"{keyid}.pem").is_file()

    def _folder(self, role: str) -> Path:
        return self.folder / role if role in ("root", "targets", "snapshot", "timestamp") else self._tenant(role)

    def _tenant(self, role: str) -> Path:
        return self.folder / "tenants" / role


def _passphrase() -> bytes | None:
    text = os.environ.get(PASSPHRASE_VARIABLE)
    return text.encode() if text else None


def _encrypted(signer: CryptoSigner) -> bytes:
    """Return the private key as PEM, encrypted if there is a passphrase."""
    plain, password = signer.private_bytes, _passphrase()
    if password is None:
        return plain
    key = load_pem_private_key(plain, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))


def _owner_alone(path: Path, mode: int) -> None:
    try:
        path.chmod(mode)
    except OSError as error:
        raise StorageError(f"cannot protect {path}: {(error.strerror or str(error)).lower()}") from error
