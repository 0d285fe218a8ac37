"""Calls that change something: each once under its idempotency key, and each in the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from shared.domain.models import AuditEntry, AuditFilter, Sha256, TenantId
from shared.errors import IdempotencyInProgress, IdempotencyKeyReused
from shared.store import calls as store
from shared.store.calls import CallKey, Kept
from shared.store.db import Database, Joined, OwnCursor

__all__ = ["CallKey", "Kept", "Once", "forget_expired", "list_page", "note", "once"]


class Once:
    """The transaction of one call. ``kept``: the answer to an earlier call with the same key and content."""

    def __init__(self, cur: OwnCursor, tenant: TenantId, call: CallKey, kept: Kept | None) -> None:
        self._cur = cur
        self._tenant = tenant
        self._call = call
        self.kept = kept
        self.effect = Joined(cur, tenant)
        """Where the verbs of the call run, to be committed or undone with it."""

    def finish(self, answer: Kept, entry: AuditEntry) -> None:
        """Keep the answer, so that the next call with this key gets it again; note the call, and commit."""
        if not store.finish(self._cur, self._tenant, self._call, answer, entry):
            raise IdempotencyInProgress("another call with this key has just been served")

    def note(self, entry: AuditEntry) -> None:
        """Add a line to the audit trail, of a call that changed nothing."""
        store.note(self._cur, self._tenant, entry)


@contextmanager
def once(db: Database, tenant: TenantId, call: CallKey, fingerprint: Sha256) -> Iterator[Once]:
    """Serve a call within one transaction: effect, kept answer and audit line commit together, or not at all.

    Raises :class:`IdempotencyInProgress` while the same key is being served elsewhere, and
    :class:`IdempotencyKeyReused` when its first call had another content.
    """
    with db.transaction(tenant) as cur:
        taken, kept = store.begin(cur, tenant, call)
        if not taken:
            raise IdempotencyInProgress("a call with this key is being served")
        if kept is not None and kept.fingerprint != fingerprint:
            raise IdempotencyKeyReused("the key was used for a call with another body")
        yield Once(cur, tenant, call, kept)


def note(db: Database, tenant: TenantId, entry: AuditEntry) -> None:
    """Add a line to the audit trail, of a call that was refused before it could have an effect."""
    with db.statement(tenant) as cur:
        store.note(cur, tenant, entry)


def forget_expired(db: Database, *, limit: int) -> int:
    """Remove idempotency keys that are 24 hours old; tell how many went."""
    with db.statement(None) as cur:
        return store.forget_expired(cur, limit=limit)


def list_page(
    db: Database,
    tenant: TenantId,
    wanted: AuditFilter,
    *,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[AuditEntry]:
    """Read a page of the audit trail, newest first; ``after`` is (at_utc, audit_id) of the last line seen."""
    with db.statement(tenant) as cur:
        return store.list_audit(cur, tenant, wanted, after=after, limit=limit)


@contextmanager
def stream(db: Database, tenant: TenantId, wanted: AuditFilter) -> Iterator[Iterator[AuditEntry]]:
    """Open the whole audit trail as of one moment, newest first."""
    with db.snapshot(tenant) as snapshot:
        yield store.stream_audit(snapshot, tenant, wanted)
