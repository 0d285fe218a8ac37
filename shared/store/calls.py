"""Idempotency keys and the audit trail in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg2.errors

from shared.domain.models import AuditEntry, AuditFilter, AuditOutcome, Sha256, TenantId
from shared.store.db import Cursor, OwnCursor, Row, Snapshot, one
from shared.store.queries import load

_SQL = load("calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """What a call is de-duplicated on, beside its tenant."""

    key: str
    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The answer to the first call with a key, and the fingerprint of what that call sent."""

    fingerprint: Sha256
    status: int
    headers: Mapping[str, str]
    body: str


def begin(cur: Cursor, tenant: TenantId, call: CallKey) -> tuple[bool, Kept | None]:
    """Take a key until the transaction ends; false while another call holds it.

    With it comes what was kept of the first call, unless that is 24 hours old.
    """
    cur.execute(_SQL["begin"], {"tenant": tenant, "key": call.key, "method": call.method, "path": call.path})
    row = one(cur.fetchone())
    if row[1] is None:
        return not row[0], None
    return True, Kept(fingerprint=row[1], status=row[2], headers=row[3], body=row[4])


def finish(cur: OwnCursor, tenant: TenantId, call: CallKey, kept: Kept, entry: AuditEntry) -> bool:
    """Keep the answer to a call, add its line to the audit trail, and commit, all in one round trip.

    False when another call has been answered under this key meanwhile: then nothing is committed.
    """
    try:
        cur.finish(
            _SQL["finish"],
            {
                **_noted(tenant, entry),
                "key": call.key,
                "method": call.method,
                "path": call.path,
                "fingerprint": kept.fingerprint,
                "headers": json.dumps(dict(kept.headers)),
                "body": kept.body,
            },
        )
    except psycopg2.errors.UniqueViolation:
        return False
    return True


def forget_expired(cur: Cursor, *, limit: int) -> int:
    """Remove at most ``limit`` keys that have expired; tell how many went."""
    cur.execute(_SQL["forget_expired"], {"max_rows": limit})
    return len(cur.fetchall())


def note(cur: Cursor, tenant: TenantId, entry: AuditEntry) -> None:
    """Add a line to the audit trail."""
    cur.execute(_SQL["note"], _noted(tenant, entry))


def _noted(tenant: TenantId, entry: AuditEntry) -> dict[str, object]:
    return {
        "tenant": tenant,
        "audit_id": str(entry.audit_id),
        "at_utc": entry.at_utc,
        "subject": entry.subject,
        "action": entry.action,
        "object": entry.object,
        "reason": entry.reason,
        "trace_id": entry.trace_id,
        "outcome": entry.outcome,
        "status": entry.status,
        "code": entry.code,
    }


def list_audit(
    cur: Cursor, tenant: TenantId, wanted: AuditFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[AuditEntry]:
    """Read a page of the audit trail, newest first; ``after`` is (at_utc, audit_id) of the last line seen."""
    cur.execute(_SQL["list_audit"], _listed(tenant, wanted, after, limit))
    return [_entry(row) for row in cur.fetchall()]


def stream_audit(snapshot: Snapshot, tenant: TenantId, wanted: AuditFilter) -> Iterator[AuditEntry]:
    """Read the whole audit trail, newest first, few lines of it in memory at a time."""
    return map(_entry, snapshot.stream(_SQL["list_audit"], _listed(tenant, wanted, None, None)))


def _listed(
    tenant: TenantId, wanted: AuditFilter, after: tuple[datetime, UUID] | None, limit: int | None
) -> dict[str, object]:
    after_utc, after_audit_id = after or (None, None)
    return {
        "tenant": tenant,
        "action": wanted.action,
        "from_utc": wanted.from_utc,
        "to_utc": wanted.to_utc,
        "after_utc": after_utc,
        "after_audit_id": None if after_audit_id is None else str(after_audit_id),
        "max_rows": limit,
    }


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        audit_id=UUID(row[0]),
        at_utc=row[1],
        subject=row[2],
        action=row[3],
        object=row[4],
        reason=row[5],
        trace_id=row[6],
        outcome=AuditOutcome(row[7]),
        status=row[8],
        code=row[9],
    )
