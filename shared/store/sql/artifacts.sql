-- Who owns which bytes.

-- name: get_owned
-- An artifact, where the tenant owns it.
SELECT encode(a.sha256, 'hex'), a.size_bytes, a.content_type
FROM orch.artifacts AS a
WHERE a.tenant = %(tenant)s AND a.sha256 = decode(%(sha256)s, 'hex');
