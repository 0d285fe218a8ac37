-- The events of a run: exact lines and their hash chain.

-- name: list_events
-- A run's events in order.
SELECT e.seq, e.line, encode(e.hash, 'hex')
FROM orch.events AS e
WHERE e.tenant = %(tenant)s AND e.run_id = %(run_id)s
ORDER BY e.seq;
