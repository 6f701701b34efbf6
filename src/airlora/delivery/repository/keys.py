"""Signing keys: one Ed25519 key per file, readable by the owner only, outside of the repository.

```text
KEYS/root/<keyid>.pem              signs changes of keys; keep it offline, publishing does not need it
KEYS/targets/<keyid>.pem           signs releases
KEYS/snapshot/<keyid>.pem          signs which versions of the metadata belong together
KEYS/timestamp/<keyid>.pem         signs which snapshot is the newest
KEYS/tenants/<name>/<keyid>.pem    signs releases of a tenant
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
"""Environment variable with the passphrase that encrypts new keys and decrypts encrypted ones."""


class KeyFolder:
    """The folder of a repository's private keys.

    Args:
        folder: Folder of the keys.  It need not exist yet.
        repository: Folder of the repository.

    Raises:
        ReleaseError: `folder` lies inside `repository`, which is public.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        if folder.resolve().is_relative_to(repository.resolve()):
            raise ReleaseError.of("keys", str(folder), f"a folder outside of {repository}, which is public")

    def create(self, role: str) -> SSlibKey:
        """Generate a key for a role, write it, and return its public key; raises `StorageError`."""
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
        """Return the signer of a public key.

        Raises:
            ReleaseError: The private key is not in the folder, is readable by other users, needs another passphrase,
                or is damaged.
        """
        path = self._folder(role) / f"{key.keyid}.pem"
        try:
            mode, content = path.stat().st_mode, path.read_bytes()
        except FileNotFoundError:
            raise ReleaseError(f"{role} key {path}: no such file, and this operation needs it") from None
        except OSError as error:
            raise ReleaseError(f"{role} key {path}: {(error.strerror or str(error)).lower()}") from error
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ReleaseError(f"{role} key {path}: readable by other users; restrict it to its owner (chmod 600)")
        password = _passphrase()
        try:
            encrypted = b"ENCRYPTED" in content.partition(b"\n")[0]
            return CryptoSigner(load_pem_private_key(content, password if encrypted else None), key)
        except TypeError as error:
            raise ReleaseError(f"{role} key {path}: encrypted; set its passphrase in {PASSPHRASE_VARIABLE}") from (
                error
            )
        except (ValueError, UnsupportedAlgorithm, SigningError) as error:
            raise ReleaseError(
                f"{role} key {path}: damaged, renamed, or the passphrase in {PASSPHRASE_VARIABLE} is wrong"
            ) from error

    def has(self, role: str, keyid: str) -> bool:
        """Return whether the folder holds a private key."""
        return (self._folder(role) / f"{keyid}.pem").is_file()

    def _folder(self, role: str) -> Path:
        return self.folder / role if role in ("root", "targets", "snapshot", "timestamp") else self._tenant(role)

    def _tenant(self, role: str) -> Path:
        return self.folder / "tenants" / role


def _passphrase() -> bytes | None:
    text = os.environ.get(PASSPHRASE_VARIABLE)
    return text.encode() if text else None


def _encrypted(signer: CryptoSigner) -> bytes:
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
