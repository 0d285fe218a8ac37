-- What a worker process has to tell of a run at one moment is one transition: the messages that it got, the
-- attempts that have ended, and the steps that it takes next. A wide run then takes its lock, writes its row
-- and commits once for many steps.

-- What a transition did: the attempts that were settled, as pairs of step_no and attempt; the pools that have
-- ready steps now; whether a when is to be evaluated; the run's status; the keys whose lines may have moved;
-- whether some were taken of the steps that had been ready before; and the steps that were taken.
CREATE TYPE orch.progress AS (
    settled integer [], ready_pools text [], undecided boolean, run_status text, keys text [],
    drained boolean, claims orch.claimed []
);

-- Whether a tenant may have only so many steps running.
CREATE FUNCTION orch.is_limited(p_tenant text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT 1 FROM orch.tenant_limits AS l WHERE l.tenant = p_tenant AND l.max_running_steps IS NOT NULL
    );
END;
$$;

-- Finish a transition that made p_changes, after which p_ended have ended, p_failed of them as failed: tell
-- their successors, wave by wave. Count down what they wait for, unlock or skip those that wait for nothing
-- more, and go on with the skipped ones. Then record all of it, after p_first. The caller holds the run's
-- lock.
--
-- p_worker takes steps of p_pools on the way: p_claims, which are queued, and up to p_sure more, those that
-- are unlocked first, then of p_queued, then others of the run that are ready. Of those that may be unlocked
-- together it takes up to p_free more, but no more of them than its share, so that there is something left
-- for others. A step with a concurrency key is never taken just when it is unlocked: it waits for its place,
-- behind those that have waited for longer.
CREATE FUNCTION orch.proceed(
    r orch.runs, p_first text, p_changes orch.step_change [], p_ended integer [], p_failed integer [],
    p_claims integer [], p_queued integer [], p_pools text [],
    p_sure integer, p_free integer, p_share double precision, p_worker text, p_lease_ms integer
) RETURNS orch.progress
LANGUAGE plpgsql AS $$
DECLARE
    c_look CONSTANT integer := 32;
    -- Up to so many are faster one by one.
    c_few CONSTANT integer := 32;
    v_now timestamptz := orch.utc_ms();
    v_ended integer [] := p_ended;
    v_skipped integer [];
    v_failed integer [] := p_failed;
    v_wave_failed integer [];
    v_to integer [];
    v_ns integer [];
    v_fails boolean [];
    v_step record;
    v_others record;
    v_done integer;
    v_status text;
    v_no integer;
    v_left integer := p_sure;
    v_queued integer [] := p_claims;
    v_claim orch.claimed;
    v_claims orch.claimed [] := '{}';
    v_ready text [] := '{}';
    v_keys text [] := '{}';
    v_undecided boolean := FALSE;
    v_result orch.progress;
BEGIN
    WHILE cardinality(v_ended) > 0 LOOP
        v_skipped := '{}';
        v_wave_failed := '{}';
        SELECT array_agg(h.to_no), array_agg(h.n), array_agg(h.failed) INTO v_to, v_ns, v_fails
        FROM (
            SELECT e.to_no, count(*)::integer AS n, bool_or(e.from_no = ANY(v_failed)) AS failed
            FROM orch.dag_edges AS e
            WHERE e.tenant = r.tenant AND e.dag_version_id = r.dag_version_id AND e.from_no = ANY(v_ended)
            GROUP BY e.to_no ORDER BY e.to_no
        ) AS h;
        EXIT WHEN v_to IS NULL;
        -- The steps of a tenant with a limit are counted when they are sent: no more than took their places.
        IF p_free > 0 AND cardinality(v_to) > v_left AND NOT orch.is_limited(r.tenant) THEN
            v_left := greatest(v_left, least(v_left + p_free, ceil(p_share * cardinality(v_to))::integer));
            p_free := 0;
        END IF;
        v_done := 0;
        FOR i IN 1 .. cardinality(v_to) LOOP
            EXIT WHEN v_left = 0 AND cardinality(v_to) - v_done > c_few;
            v_done := i;
            SELECT
                d.step_id, s.pool, s.attempt, s.waiting - v_ns[i] AS waiting, d.concurrency_key,
                s.upstream_failed OR v_fails[i] AS upstream_failed,
                orch.verdict(
                    s.waiting - v_ns[i], s.upstream_failed OR v_fails[i], d.run_on, d.disabled, d.when_expr
                ) AS verdict
            INTO v_step
            FROM orch.steps AS s, orch.dag_steps AS d
            WHERE
                s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = v_to[i] AND s.status = 'pending'
                AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = v_to[i];
            CONTINUE WHEN NOT FOUND;
            IF
                v_step.verdict = 'unlock' AND v_step.concurrency_key IS NULL
                AND v_left > 0 AND v_step.pool = ANY(p_pools)
            THEN
                v_claims := array_append(v_claims, orch.take(r, v_to[i], 'pending', p_worker, p_lease_ms));
                v_left := v_left - 1;
                p_changes := array_append(
                    p_changes, (v_to[i], v_step.step_id, 'queued', v_step.attempt, v_step.pool)::orch.step_change
                );
                CONTINUE;
            END IF;
            v_status := orch.verdict_status(v_step.verdict);
            UPDATE orch.steps AS s
            SET
                waiting = v_step.waiting,
                upstream_failed = v_step.upstream_failed,
                status = v_status,
                error_code = orch.verdict_error(v_step.verdict),
                undecided_utc = CASE WHEN v_step.verdict = 'ask' THEN v_now END,
                queued_utc = CASE WHEN v_status = 'queued' THEN v_now END,
                sent_utc = CASE WHEN v_status = 'queued' THEN orch.unsent(v_step.concurrency_key) END,
                ended_utc = CASE WHEN v_status = 'skipped' THEN v_now END,
                outputs_hash = CASE WHEN v_status = 'skipped' THEN orch.empty_outputs_hash() END
            WHERE s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = v_to[i];
            IF v_status = 'pending' THEN
                v_undecided := v_undecided OR v_step.verdict = 'ask';
                CONTINUE;
            END IF;
            p_changes := array_append(
                p_changes, (v_to[i], v_step.step_id, v_status, v_step.attempt, v_step.pool)::orch.step_change
            );
            IF v_status = 'queued' THEN
                IF v_step.concurrency_key IS NULL THEN
                    IF NOT v_step.pool = ANY(v_ready) THEN
                        v_ready := array_append(v_ready, v_step.pool);
                    END IF;
                ELSIF NOT v_step.concurrency_key = ANY(v_keys) THEN
                    v_keys := array_append(v_keys, v_step.concurrency_key);
                END IF;
            ELSE
                v_skipped := array_append(v_skipped, v_to[i]);
                IF v_step.verdict = 'UPSTREAM_FAILED' THEN
                    v_wave_failed := array_append(v_wave_failed, v_to[i]);
                END IF;
            END IF;
        END LOOP;
        -- All others at once. A step that is pending is nobody else's, so its row stays where it is found.
        IF v_done < cardinality(v_to) THEN
            WITH judged AS MATERIALIZED (
                SELECT f.*, orch.verdict(f.waiting, f.upstream_failed, f.run_on, f.disabled, f.when_expr) AS verdict
                FROM unnest(v_to[v_done + 1:], v_ns[v_done + 1:], v_fails[v_done + 1:]) AS h (step_no, n, failed)
                CROSS JOIN LATERAL (
                    SELECT
                        s.ctid AS row, s.step_no, d.step_id, s.attempt, s.pool, d.concurrency_key,
                        s.waiting - h.n AS waiting, s.upstream_failed OR h.failed AS upstream_failed,
                        d.run_on, d.disabled, d.when_expr
                    FROM orch.steps AS s, orch.dag_steps AS d
                    WHERE
                        s.tenant = r.tenant AND s.run_id = r.run_id AND s.step_no = h.step_no
                        AND s.status = 'pending'
                        AND d.tenant = r.tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = h.step_no
                    OFFSET 0
                ) AS f
            ),
            changed AS (
                UPDATE orch.steps AS s
                SET
                    waiting = j.waiting,
                    upstream_failed = j.upstream_failed,
                    status = orch.verdict_status(j.verdict),
                    error_code = orch.verdict_error(j.verdict),
                    undecided_utc = CASE WHEN j.verdict = 'ask' THEN v_now END,
                    queued_utc = CASE WHEN j.verdict = 'unlock' THEN v_now END,
                    sent_utc = CASE WHEN j.verdict = 'unlock' THEN orch.unsent(j.concurrency_key) END,
                    ended_utc = CASE WHEN orch.verdict_status(j.verdict) = 'skipped' THEN v_now END,
                    outputs_hash = CASE
                        WHEN orch.verdict_status(j.verdict) = 'skipped' THEN orch.empty_outputs_hash()
                    END
                FROM judged AS j
                WHERE s.ctid = j.row
                RETURNING j.step_no, j.step_id, s.status, s.attempt, s.pool, j.concurrency_key, j.verdict
            )
            SELECT
                coalesce(
                    array_agg(
                        (c.step_no, c.step_id, c.status, c.attempt, c.pool)::orch.step_change ORDER BY c.step_no
                    ) FILTER (WHERE c.status <> 'pending'), '{}'
                ) AS changes,
                coalesce(bool_or(c.verdict = 'ask'), FALSE) AS undecided,
                coalesce(
                    array_agg(DISTINCT c.pool) FILTER (WHERE c.status = 'queued' AND c.concurrency_key IS NULL), '{}'
                ) AS ready,
                coalesce(array_agg(DISTINCT c.concurrency_key) FILTER (WHERE c.status = 'queued'), '{}') AS keys,
                coalesce(array_agg(c.step_no) FILTER (WHERE c.status = 'skipped'), '{}') AS skipped,
                coalesce(array_agg(c.step_no) FILTER (WHERE c.verdict = 'UPSTREAM_FAILED'), '{}') AS failed
            INTO v_others
            FROM changed AS c;
            p_changes := p_changes || v_others.changes;
            v_undecided := v_undecided OR v_others.undecided;
            v_ready := v_ready || v_others.ready;
            v_keys := v_keys || array_remove(v_others.keys, NULL);
            v_skipped := v_skipped || v_others.skipped;
            v_wave_failed := v_wave_failed || v_others.failed;
        END IF;
        v_ended := v_skipped;
        v_failed := v_wave_failed;
    END LOOP;
    -- What is left of it was for steps that are unlocked together.
    v_left := least(v_left, p_sure - cardinality(v_claims));
    IF v_left > 0 AND cardinality(p_queued) > 0 THEN
        v_queued := v_queued || p_queued[:v_left];
        v_left := v_left - cardinality(p_queued);
    END IF;
    IF v_left > 0 AND (p_changes[1]).pool = ANY(p_pools) THEN
        -- The look at the oldest is bounded, and a step that a message is out for is left to whoever gets it.
        v_queued := v_queued || ARRAY(
            SELECT o.step_no
            FROM (
                SELECT s.run_id, s.step_no FROM orch.steps AS s
                WHERE s.tenant = r.tenant AND s.pool = (p_changes[1]).pool
                    AND s.status = 'queued' AND s.sent_utc IS NULL
                ORDER BY s.queued_utc, s.run_id, s.step_no LIMIT c_look
            ) AS o
            WHERE o.run_id = r.run_id
            LIMIT v_left
        );
    END IF;
    v_result.drained := cardinality(v_queued) > cardinality(p_claims);
    FOREACH v_no IN ARRAY v_queued LOOP
        v_claim := orch.take(r, v_no, 'queued', p_worker, p_lease_ms);
        IF v_claim.step_no IS NOT NULL THEN
            v_claims := array_append(v_claims, v_claim);
        END IF;
    END LOOP;
    FOREACH v_claim IN ARRAY v_claims LOOP
        p_changes := array_append(
            p_changes, (v_claim.step_no, v_claim.step_id, 'running', v_claim.attempt, v_claim.pool)::orch.step_change
        );
    END LOOP;
    v_result.claims := v_claims;
    v_result.ready_pools := v_ready;
    v_result.keys := v_keys;
    v_result.undecided := v_undecided;
    IF p_first IS NULL AND cardinality(p_changes) = 0 THEN
        v_result.run_status := r.status;
    ELSE
        v_result.run_status := orch.record(r, p_first, p_changes);
    END IF;
    RETURN v_result;
END;
$$;

-- Whether anybody waits for a slot of a worker that serves these pools: a message is out, a tenant has a
-- backlog, or there are decisions to make, which every worker serves. Those who hold slots for a run need not
-- make way for its own messages at once.
CREATE FUNCTION orch.is_awaited(p_pools text [], p_run uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    c_own CONSTANT interval := '100 milliseconds';
BEGIN
    RETURN
        EXISTS (
            SELECT 1 FROM orch.steps AS s
            WHERE s.pool = ANY(p_pools) AND s.status = 'queued'
                AND s.sent_utc IS NOT NULL AND s.sent_utc < 'infinity'
                AND (s.run_id <> p_run OR s.sent_utc < clock_timestamp() - c_own)
        )
        OR EXISTS (SELECT 1 FROM orch.tenant_queues AS q WHERE q.pool = ANY(p_pools) AND q.backlog)
        OR EXISTS (SELECT 1 FROM orch.steps AS s WHERE s.undecided_utc IS NOT NULL);
END;
$$;

-- A row for each step that was taken, or one without; what else it says is the same in all. Late: those may
-- go on who have held their slots for long.
CREATE TYPE orch.settled AS (
    settled integer [], ready_pools text [], undecided boolean, run_status text, keys text [],
    drained boolean, late boolean, claimed orch.claimed
);

-- Settle what a worker process has to tell of a run: the steps that messages asked it to claim (p_claims),
-- and how attempts ended (p_ended: step_no, attempt, ending, outputs and so on of each, in the order of
-- step_no). An ending is 'succeeded', 'failed', 'retrying', 'cancelled' or 'released', and only the attempt
-- that holds the step may have one. In a run that is being cancelled no step waits: what would try again is
-- cancelled, and nothing is taken. As many as p_sure of the ended steps make way for a next one; p_late more
-- of them, whose workers have held their slots for long, only if nobody waits for a slot; and there are
-- p_free slots for what is unlocked together, if somebody goes on. Without p_wait there is no row if another
-- transaction is at the run: whoever settles several runs must not wait for one of them.
CREATE FUNCTION orch.settle(
    p_tenant text, p_run uuid, p_claims integer [], p_ended json, p_pools text [],
    p_sure integer, p_late integer, p_free integer, p_share double precision,
    p_worker text, p_lease_ms integer, p_wait boolean
) RETURNS SETOF orch.settled
LANGUAGE plpgsql AS $$
DECLARE
    r orch.runs;
    e record;
    v_now timestamptz;
    v_status text;
    v_step orch.step_change;
    v_key text;
    v_goes_on boolean;
    v_claims integer [] := p_claims;
    v_sure integer := p_sure;
    v_changes orch.step_change [] := '{}';
    v_settled integer [] := '{}';
    v_ended integer [] := '{}';
    v_failed integer [] := '{}';
    v_ready text [] := '{}';
    v_keys text [] := '{}';
    v_given_back integer := 0;
    v_progress orch.progress;
    v_result orch.settled;
BEGIN
    IF p_wait THEN
        SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE;
    ELSE
        SELECT * INTO r FROM orch.runs WHERE tenant = p_tenant AND run_id = p_run FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    v_now := orch.utc_ms();
    FOR e IN
        SELECT t.* FROM json_to_recordset(p_ended) AS t (
            step_no integer, attempt integer, ending text, outputs json, outputs_hash text, inputs_hash text,
            error_code text, error_message text, delay_ms bigint, logs_ref text, artifacts json
        )
    LOOP
        v_status := CASE
            WHEN e.ending NOT IN ('retrying', 'released') THEN e.ending
            WHEN r.cancel_requested_utc IS NOT NULL THEN 'cancelled'
            WHEN e.ending = 'released' THEN 'queued'
            ELSE 'retrying'
        END;
        UPDATE orch.steps AS s
        SET
            status = v_status, lease_until = NULL, worker_id = NULL,
            sent_utc = CASE WHEN v_status = 'queued' THEN orch.unsent(s.concurrency_key) END,
            released = s.released + (e.ending = 'released')::integer,
            queued_utc = CASE
                WHEN v_status = 'queued' THEN orch.first_in_line(s.tenant, s.pool, s.concurrency_key)
                ELSE s.queued_utc
            END,
            due_utc = CASE
                WHEN v_status = 'retrying' THEN clock_timestamp() + make_interval(secs => e.delay_ms / 1000.0)
            END,
            ended_utc = CASE WHEN v_status IN ('succeeded', 'failed', 'cancelled') THEN v_now END,
            error_code = CASE WHEN v_status = 'cancelled' THEN 'CANCELLED' ELSE e.error_code END,
            error_message = e.error_message,
            inputs_hash = coalesce(decode(e.inputs_hash, 'hex'), s.inputs_hash),
            outputs = e.outputs, outputs_hash = decode(e.outputs_hash, 'hex')
        FROM orch.dag_steps AS d
        WHERE
            s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = e.step_no
            AND s.status = 'running' AND s.attempt = e.attempt
            AND d.tenant = p_tenant AND d.dag_version_id = r.dag_version_id AND d.step_no = e.step_no
        RETURNING
            s.step_no, d.step_id, s.status, s.attempt,
            CASE WHEN s.sent_utc = 'infinity' THEN NULL ELSE s.pool END, s.concurrency_key
        INTO v_step.step_no, v_step.step_id, v_step.status, v_step.attempt, v_step.pool, v_key;
        CONTINUE WHEN NOT FOUND;
        UPDATE orch.attempts
        SET
            status = CASE e.ending WHEN 'retrying' THEN 'failed' ELSE e.ending END,
            ended_utc = v_now, error_code = e.error_code, error_message = e.error_message,
            logs_ref = decode(e.logs_ref, 'hex'), outputs_hash = decode(e.outputs_hash, 'hex')
        WHERE tenant = p_tenant AND run_id = p_run AND step_no = e.step_no AND attempt = e.attempt;
        IF e.artifacts IS NOT NULL THEN
            PERFORM orch.own_artifacts(p_tenant, p_run, e.step_no, e.attempt, e.artifacts);
        END IF;
        v_changes := array_append(v_changes, v_step);
        v_settled := v_settled || ARRAY[[e.step_no, e.attempt]];
        IF v_status IN ('succeeded', 'failed', 'cancelled') THEN
            v_ended := array_append(v_ended, e.step_no);
            IF v_status = 'failed' THEN
                v_failed := array_append(v_failed, e.step_no);
            END IF;
        ELSIF v_status = 'queued' THEN
            v_given_back := v_given_back + 1;
            v_ready := array_remove(array_append(v_ready, v_step.pool), NULL);
        END IF;
        IF v_key IS NOT NULL THEN
            v_keys := array_append(v_keys, v_key);
        END IF;
    END LOOP;
    v_goes_on := coalesce(r.status = 'running' AND r.cancel_requested_utc IS NULL, FALSE);
    IF NOT v_goes_on THEN
        v_claims := '{}';
    ELSIF cardinality(p_claims) > 0 AND orch.is_limited(p_tenant) THEN
        -- They need the mark of having been sent, and so counted.
        v_claims := ARRAY(
            SELECT s.step_no FROM orch.steps AS s
            WHERE s.tenant = p_tenant AND s.run_id = p_run AND s.step_no = ANY(p_claims)
                AND s.sent_utc < 'infinity'
        );
    END IF;
    -- A limit that has been lowered takes effect when a slice is over.
    v_result.late := p_late > 0 AND NOT orch.is_limited(p_tenant) AND NOT orch.is_awaited(p_pools, p_run);
    IF v_result.late THEN
        v_sure := v_sure + p_late;
    END IF;
    v_progress := orch.proceed(
        r, NULL, v_changes, v_ended, v_failed, v_claims, '{}', CASE WHEN v_goes_on THEN p_pools ELSE '{}' END,
        -- Whoever gives a step back takes no other.
        least(v_sure, cardinality(v_changes) - v_given_back), CASE WHEN v_sure > 0 THEN p_free ELSE 0 END,
        p_share, p_worker, p_lease_ms
    );
    v_result.settled := v_settled;
    v_result.ready_pools := v_progress.ready_pools || v_ready;
    v_result.undecided := v_progress.undecided;
    v_result.run_status := v_progress.run_status;
    v_result.keys := v_progress.keys || v_keys;
    v_result.drained := v_progress.drained;
    FOREACH v_result.claimed IN ARRAY v_progress.claims LOOP
        RETURN NEXT v_result;
    END LOOP;
    IF v_result.claimed IS NULL THEN
        RETURN NEXT v_result;
    END IF;
END;
$$;

-- Settle several runs of a tenant, each with what is told of it (p_told: place, run_id, and what else differs
-- from run to run). For each a row for each step that was taken, or one without, or none if another is at the
-- run; whoever settles a single one waits. JSON, since a query with a column for each fact takes PostgreSQL
-- longer to plan than the rest of a step's claim.
CREATE FUNCTION orch.settle_runs(
    p_tenant text, p_told json, p_share double precision, p_worker text, p_lease_ms integer
) RETURNS TABLE (place integer, told json)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT t.place, row_to_json(s)
    FROM json_to_recordset(p_told) AS t (
        place integer, run_id uuid, claims integer [], ended json, pools text [],
        sure integer, late integer, free integer
    )
    CROSS JOIN LATERAL orch.settle(
        p_tenant, t.run_id, t.claims, t.ended, t.pools, t.sure, t.late, t.free, p_share, p_worker, p_lease_ms,
        json_array_length(p_told) = 1
    ) AS s;
END;
$$;

-- What the verbs below have in common with the release before: one step is taken at most.
CREATE FUNCTION orch.as_change(p_progress orch.progress) RETURNS orch.change
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_change orch.change;
BEGIN
    v_change.accepted := TRUE;
    v_change.ready_pools := p_progress.ready_pools;
    v_change.undecided := p_progress.undecided;
    v_change.run_status := p_progress.run_status;
    v_change.keys := p_progress.keys;
    IF cardinality(p_progress.claims) > 0 THEN
        v_change := orch.handed_over(v_change, p_progress.claims[1]);
    END IF;
    RETURN v_change;
END;
$$;

-- As in 0013, by the steps that p_changes says have ended.
CREATE OR REPLACE FUNCTION orch.advance(
    r orch.runs, p_first text, p_changes orch.step_change [], p_failed integer [],
    p_handoff_pools text [], p_worker text, p_lease_ms integer
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    v_ended integer [];
    v_queued integer [];
    v_ready text [];
    v_progress orch.progress;
BEGIN
    SELECT
        array_agg(c.step_no) FILTER (WHERE c.status IN ('succeeded', 'failed', 'skipped', 'cancelled')),
        array_agg(c.step_no) FILTER (WHERE c.status = 'queued' AND c.pool = ANY(p_handoff_pools)),
        array_agg(DISTINCT c.pool) FILTER (WHERE c.status = 'queued' AND c.pool IS NOT NULL)
    INTO v_ended, v_queued, v_ready
    FROM unnest(p_changes) AS c;
    v_progress := orch.proceed(
        r, p_first, p_changes, coalesce(v_ended, '{}'), p_failed, '{}', coalesce(v_queued, '{}'), p_handoff_pools,
        (cardinality(p_handoff_pools) > 0)::integer, 0, 0, p_worker, p_lease_ms
    );
    v_progress.ready_pools := v_progress.ready_pools || v_ready;
    RETURN orch.as_change(v_progress);
END;
$$;

-- What processes of the release before call: a message, or an ending, at a time.
CREATE OR REPLACE FUNCTION orch.claim(
    p_tenant text, p_run uuid, p_step integer, p_worker text, p_lease_ms integer
) RETURNS orch.claimed
LANGUAGE sql
BEGIN ATOMIC
    SELECT s.claimed
    FROM orch.settle(
        p_tenant, p_run, ARRAY[p_step], NULL, '{}', 0, 0, 0, 0, p_worker, p_lease_ms, TRUE
    ) AS s;
END;

CREATE OR REPLACE FUNCTION orch.complete(
    p_tenant text, p_run uuid, p_step integer, p_attempt integer, p_ending text,
    p_outputs json, p_outputs_hash bytea, p_inputs_hash bytea, p_error_code text, p_error_message text,
    p_delay_ms bigint, p_logs_ref bytea, p_artifacts json,
    p_handoff_pools text [], p_worker text, p_lease_ms integer
) RETURNS orch.change
LANGUAGE plpgsql AS $$
DECLARE
    s orch.settled;
    v_change orch.change;
BEGIN
    SELECT q.* INTO s
    FROM orch.settle(
        p_tenant, p_run, '{}',
        json_build_array(json_build_object(
            'step_no', p_step, 'attempt', p_attempt, 'ending', p_ending,
            'outputs', p_outputs, 'outputs_hash', encode(p_outputs_hash, 'hex'),
            'inputs_hash', encode(p_inputs_hash, 'hex'), 'error_code', p_error_code,
            'error_message', p_error_message, 'delay_ms', p_delay_ms,
            'logs_ref', encode(p_logs_ref, 'hex'), 'artifacts', p_artifacts
        )),
        p_handoff_pools, (cardinality(p_handoff_pools) > 0)::integer, 0, 0, 0, p_worker, p_lease_ms, TRUE
    ) AS q;
    v_change.accepted := cardinality(s.settled) > 0;
    IF v_change.accepted THEN
        v_change := orch.as_change(
            (
                s.settled, s.ready_pools, s.undecided, s.run_status, s.keys, s.drained,
                CASE WHEN (s.claimed).step_no IS NULL THEN '{}' ELSE ARRAY[s.claimed] END
            )
        );
    END IF;
    RETURN v_change;
END;
$$;
