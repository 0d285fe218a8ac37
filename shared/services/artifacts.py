"""Who may read which bytes."""

from __future__ import annotations

from shared.domain.models import ArtifactRef, Sha256, TenantId
from shared.errors import ArtifactNotFound
from shared.store import artifacts as store
from shared.store.db import Database


def owned(db: Database, tenant: TenantId, sha256: Sha256) -> ArtifactRef:
    """Return what the ledger knows of an artifact of this tenant, or raise :class:`ArtifactNotFound`."""
    with db.statement(tenant) as cur:
        found = store.get_owned(cur, tenant, sha256)
    if found is None:
        raise ArtifactNotFound(f"no artifact {sha256}")
    return found
