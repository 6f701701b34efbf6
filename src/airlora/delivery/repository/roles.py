"""Who signs what: tenants, new keys for old ones, and later days of expiry."""

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
    """Give a tenant a key of its own, which signs for `tenants/<tenant>/*` and nothing else; return the public half.

    Raises:
        ReleaseError: The name is not allowed or taken, or a key is missing.
        StorageError: A file cannot be written.
    """
    path = target_path(tenant)
    with repository.locked():
        if tenant in repository.tenants:
            raise ReleaseError.of("tenant", tenant, "a name that is not taken yet")
        key = repository.keys.create(tenant)
        with repository.edit_targets() as targets:
            if targets.delegations is None:
                targets.delegations = Delegations({}, {})
            roles = targets.delegations.roles
            if roles is None:
                raise ReleaseError(f"{repository.folder}: delegates by hash bins, which airlora does not make")
            pattern = f"{path.rpartition('/')[0]}/*"
            roles[tenant] = DelegatedRole(tenant, [], 1, terminating=True, paths=[pattern])
            targets.add_key(key, tenant)
        with repository.edit_targets(tenant):
            pass
        repository.commit()
    return key


def rotate_key(repository: SignedRepository, role: str) -> tuple[list[str], str]:
    """Replace a role's key by a new one, and sign again what the old one signed.

    Of `root` the oldest key is replaced; devices follow since the new root is signed by a threshold of the old keys.

    Args:
        repository: The repository; root keys are needed, of a tenant the targets key instead.
        role: `root`, `targets`, `snapshot`, `timestamp` or a tenant.

    Returns:
        Ids of the keys that sign no longer, and of the new one.

    Raises:
        ReleaseError: There is no such role, or a key is missing.
        StorageError: A file cannot be written.
    """
    with repository.locked():
        _verify_role(repository, role)
        delegator = Root.type if role in TOP_LEVEL_ROLE_NAMES else Targets.type
        with repository.edit(delegator) as signed:
            if not isinstance(signed, Root | Targets):
                raise ReleaseError(f"{repository.folder}: metadata of {delegator} are of another kind")
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
    """Sign again what is to stay valid, with as many days before it as at first; raises as `rotate_key` does."""
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
