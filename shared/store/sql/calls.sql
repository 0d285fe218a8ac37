-- Calls that change something: their idempotency keys, and the audit trail.

-- name: begin
-- Take an idempotency key for this transaction, and read what is kept under it.
SELECT b.busy, encode(b.fingerprint, 'hex'), b.status, b.headers, b.body
FROM orch.begin_call(%(tenant)s, %(key)s, %(method)s, %(path)s) AS b;

-- name: finish
-- Keep the answer to a call under its key, and add its line to the audit trail.
SELECT orch.end_call(
    %(tenant)s, %(key)s, %(method)s, %(path)s, decode(%(fingerprint)s, 'hex'),
    %(status)s, %(headers)s::json, %(body)s,
    %(audit_id)s, %(at_utc)s, %(subject)s, %(action)s, %(object)s, %(reason)s,
    %(trace_id)s, %(outcome)s, %(code)s
);

-- name: forget_expired
-- Remove keys that have expired.
DELETE FROM orch.idempotency_keys AS k
WHERE k.ctid = ANY(
    ARRAY(
        SELECT e.ctid FROM orch.idempotency_keys AS e
        WHERE e.created_utc <= clock_timestamp() - orch.idempotency_window()
        ORDER BY e.created_utc LIMIT %(max_rows)s
    )
)
RETURNING k.tenant;

-- name: note
-- Add a line to the audit trail.
INSERT INTO orch.audit (
    tenant, audit_id, at_utc, subject, action, object, reason, trace_id, outcome, status, code
)
VALUES (
    %(tenant)s, %(audit_id)s, date_trunc('milliseconds', %(at_utc)s::timestamptz), %(subject)s, %(action)s,
    %(object)s, %(reason)s, %(trace_id)s, %(outcome)s, %(status)s, %(code)s
);

-- name: list_audit
-- The audit trail, newest first, after the last line seen.
SELECT
    a.audit_id, a.at_utc, a.subject, a.action, a.object, a.reason, a.trace_id, a.outcome, a.status, a.code
FROM orch.audit AS a
WHERE
    a.tenant = %(tenant)s
    AND (%(action)s::text IS NULL OR a.action = %(action)s)
    AND (%(from_utc)s::timestamptz IS NULL OR a.at_utc >= %(from_utc)s)
    AND (%(to_utc)s::timestamptz IS NULL OR a.at_utc < %(to_utc)s)
    AND (
        %(after_utc)s::timestamptz IS NULL
        OR (a.at_utc, a.audit_id) < (%(after_utc)s, %(after_audit_id)s::uuid)
    )
ORDER BY a.at_utc DESC, a.audit_id DESC
LIMIT %(max_rows)s;
