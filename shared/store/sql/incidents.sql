-- What goes wrong, counted by kind, of all processes together.

-- name: add
-- Add to the counts of a component, one row a kind.
INSERT INTO orch.incidents AS i (component, kind, count, detail)
SELECT %(component)s, n.kind, n.count, n.detail
FROM unnest(%(kinds)s::text [], %(counts)s::bigint [], %(details)s::text []) AS n (kind, count, detail)
ORDER BY n.kind
ON CONFLICT ON CONSTRAINT incidents_pk DO UPDATE
SET
    count = i.count + excluded.count, last_utc = clock_timestamp(),
    detail = coalesce(excluded.detail, i.detail);

-- name: list_all
-- All of them, the latest first.
SELECT i.component, i.kind, i.count, i.first_utc, i.last_utc, i.detail FROM orch.incidents AS i
ORDER BY i.last_utc DESC, i.component, i.kind;

-- name: counts
-- The counts alone.
SELECT i.component, i.kind, i.count FROM orch.incidents AS i ORDER BY i.component, i.kind;
