-- Requests to load definitions and plugins, and what workers answer.

-- name: insert_request
-- Ask all workers.
INSERT INTO orch.warm_requests (tenant, warm_id, dags, plugins)
VALUES (%(tenant)s, %(warm_id)s, %(dags)s, %(plugins)s::text []);

-- name: list_unanswered
-- The requests of the last minute that a worker has not answered, of all tenants.
SELECT q.tenant, q.warm_id, q.dags, q.plugins FROM orch.warm_requests AS q
WHERE
    q.requested_utc > clock_timestamp() - INTERVAL '1 minute'
    AND NOT EXISTS (
        SELECT 1 FROM orch.warm_reports AS r
        WHERE r.tenant = q.tenant AND r.warm_id = q.warm_id AND r.worker_id = %(worker_id)s
    )
ORDER BY q.requested_utc;

-- name: insert_report
-- What a worker has loaded; nothing, if the request is gone or was answered before.
INSERT INTO orch.warm_reports (tenant, warm_id, worker_id, dags, plugins)
SELECT q.tenant, q.warm_id, %(worker_id)s, %(dags)s, %(loaded)s FROM orch.warm_requests AS q
WHERE q.tenant = %(tenant)s AND q.warm_id = %(warm_id)s
ON CONFLICT DO NOTHING;

-- name: reports_of_fleet
-- Each live worker, with its answer to a request or NULLs.
SELECT w.worker_id, r.dags, r.plugins FROM orch.workers AS w
LEFT JOIN orch.warm_reports AS r
    ON r.tenant = %(tenant)s AND r.warm_id = %(warm_id)s AND r.worker_id = w.worker_id
WHERE orch.is_alive(w.seen_utc, w.heartbeat_ms)
ORDER BY w.worker_id;

-- name: forget_old
-- Remove requests that nobody waits for any more, with their answers.
DELETE FROM orch.warm_requests WHERE requested_utc < clock_timestamp() - INTERVAL '10 minutes';
