-- The events: exact lines and their hash chain, by run or in the order in which readers may have them.

-- name: list_events
-- A run's events in order.
SELECT e.seq, e.line, encode(e.hash, 'hex')
FROM orch.events AS e
WHERE e.tenant = %(tenant)s AND e.run_id = %(run_id)s
ORDER BY e.seq;

-- name: read_after
-- A tenant's events after a place, as far as nothing can come in between any more; first of all, whether
-- there are events that must wait for an older transaction.
SELECT
    NULL::bigint AS xid, NULL::bigint AS event_id, NULL AS line,
    EXISTS (
        SELECT 1 FROM orch.events AS w
        WHERE w.tenant = %(tenant)s AND w.xid >= pg_snapshot_xmin(pg_current_snapshot())
    ) AS held_back
UNION ALL
(
    SELECT e.xid::text::bigint, e.event_id, e.line, NULL
    FROM orch.events AS e
    WHERE
        e.tenant = %(tenant)s AND (e.xid, e.event_id) > (%(xid)s::text::xid8, %(event_id)s)
        AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.event_id
    LIMIT %(max_rows)s
);

-- name: read_run_after
-- The same of one run, whose events come in the order of their seq, whatever else the tenant has. What lies
-- before a known seq is not read once more.
SELECT e.xid::text::bigint, e.event_id, e.line, NULL
FROM orch.events AS e
WHERE
    e.tenant = %(tenant)s AND e.run_id = %(run_id)s AND e.seq > %(seq)s
    AND (e.xid, e.event_id) > (%(xid)s::text::xid8, %(event_id)s)
    AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY e.seq
LIMIT %(max_rows)s;

-- name: present
-- A tenant's last event that readers may have.
SELECT e.xid::text::bigint, e.event_id
FROM orch.events AS e
WHERE e.tenant = %(tenant)s AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY e.xid DESC, e.event_id DESC
LIMIT 1;
