"""Roles and keys of a repository: adding tenants, rotating keys, renewing signatures."""

from __future__ import annotations

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from airlora.delivery.repository.repository import SignedRepository, target_path
from airlora.errors import ReleaseError

__all__ = ["add_tenant", "renew", "rotate_key"]


def add_tenant(repository: SignedRepository, tenant: str) -> SSlibKey:
    """Add a tenant with a new key that may sign `tenants/<tenant>/*` only, and return the public key.

    Raises:
        ReleaseError: The name is not allowed or already in use, or a key of the repository is missing.
        StorageError: A file cannot be written.
    """
    path = target_path(tenant)
    with repository.locked():
        if tenant in repository.tenants:
            raise ReleaseError.of("tenant", tenant, "a name that the repository does not use yet")
        key = repository.keys.create(tenant)
        with repository.edit_targets() as targets:
            if targets.delegations is None:
                targets.delegations = Delegations({}, {})
            roles = targets.delegations.roles
            if roles is None:
                raise ReleaseError(f"{repository.folder}: delegates by hash bins, which airlora does not support")
            pattern = f"{path.rpartition('/')[0]}/*"
            roles[tenant] = DelegatedRole(tenant, [], 1, terminating=True, paths=[pattern])
            targets.add_key(key, tenant)
        with repository.edit_targets(tenant):
            pass
        repository.commit()
    return key


def rotate_key(repository: SignedRepository, role: str) -> tuple[list[str], str]:
    """Replace the keys of a role by a new key, and sign the role's metadata again.

    For `root`, only the oldest key is replaced.  Devices accept the new root because a threshold of the old root keys
    has signed it.

    Args:
        repository: Repository with its root keys, or, to rotate the key of a tenant, its targets key.
        role: `root`, `targets`, `snapshot`, `timestamp` or the name of a tenant.

    Returns:
        Ids of the revoked keys, and the id of the new key.

    Raises:
        ReleaseError: The role does not exist, or a key is missing.
        StorageError: A file cannot be written.
    """
    with repository.locked():
        _verify_role(repository, role)
        delegator = Root.type if role in TOP_LEVEL_ROLE_NAMES else Targets.type
        with repository.edit(delegator) as signed:
            if not isinstance(signed, Root | Targets):
                raise ReleaseError(f"{repository.folder}: the metadata of {delegator} have the wrong type")
            old = list(signed.get_delegated_role(role).keyids)
            gone = old[:1] if role == Root.type else old
            for keyid in gone:
                signed.revoke_key(keyid, role)
            new = repository.keys.create(role)
            signed.add_key(new, role)
        if role == Root.type:
            repository.write()
        elif role in (Snapshot.type, Timestamp.type):
            repository.commit(force=True)
        else:
            with repository.edit(role):
                pass
            repository.commit()
        return gone, new.keyid


def renew(repository: SignedRepository, *, roles: tuple[str, ...] = ("snapshot", "timestamp")) -> None:
    """Sign the metadata of `roles` again, each for its full validity; raises the errors of `rotate_key`."""
    with repository.locked():
        for role in roles:
            _verify_role(repository, role)
            if role not in (Snapshot.type, Timestamp.type):
                with repository.edit(role):
                    pass
        repository.commit(force=True)


def _verify_role(repository: SignedRepository, role: str) -> None:
    if role not in TOP_LEVEL_ROLE_NAMES and role not in repository.tenants:
        raise ReleaseError.of("role", role, "root, targets, snapshot, timestamp or a tenant of the repository")
