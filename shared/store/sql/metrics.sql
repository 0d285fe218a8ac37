-- What is counted: totals of what has ended, and the fleet.

-- name: count_of_tenant
-- Add events of a tenant to its totals; how many were read.
SELECT orch.count_events_of(%(tenant)s, %(max_rows)s);

-- name: count_of_all
-- Add events of all tenants to their totals; how many were read.
SELECT orch.count_events(%(max_rows)s);

-- name: tenants_counted
-- How many tenants have totals.
SELECT count(*) FROM orch.metric_marks;

-- name: totals
-- The totals of a tenant, or of all.
SELECT m.tenant, m.metric, m.status, m.bucket, m.count, m.sum_ms FROM orch.metric_totals AS m
WHERE %(tenant)s::text IS NULL OR m.tenant = %(tenant)s
ORDER BY m.tenant, m.metric, m.status, m.bucket;

-- name: totals_without_buckets
-- The totals of all tenants, each without its histograms.
SELECT m.tenant, m.metric, m.status, sum(m.count)::bigint, sum(m.sum_ms)::bigint FROM orch.metric_totals AS m
GROUP BY m.tenant, m.metric, m.status
ORDER BY m.tenant, m.metric, m.status;

-- name: totals_of_all_together
-- The histograms of all tenants, added up.
SELECT m.metric, m.status, m.bucket, sum(m.count)::bigint, sum(m.sum_ms)::bigint FROM orch.metric_totals AS m
GROUP BY m.metric, m.status, m.bucket
ORDER BY m.metric, m.status, m.bucket;

-- name: duration_bounds
-- The upper bounds of the histograms' buckets in seconds.
SELECT ARRAY(SELECT b.ms / 1000 FROM unnest(orch.duration_bounds_ms()) AS b (ms) ORDER BY b.ms);

-- name: workers_by_pool
-- How many live workers listen on each pool.
SELECT p.pool, count(*) FROM orch.workers AS w
CROSS JOIN LATERAL unnest(w.pools) AS p (pool)
WHERE orch.is_alive(w.seen_utc, w.heartbeat_ms)
GROUP BY p.pool
ORDER BY p.pool;
