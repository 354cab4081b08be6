-- Calls in the columns of Exogram's execution table: one row per agent and idempotency key, or per decision
-- without a key. It reads the whole ledger; the keys are the keyed hashes that the leaves have.
--
-- A call that was not forwarded gave its key back and may be tried again, so it is no row of its own beside the
-- attempt that followed. A refused repetition is none either.
--
-- Whoever asks sees what that role may see of `intake`: one tenant.
CREATE VIEW exogram_executions WITH (security_invoker = true) AS
WITH outcome AS (
    SELECT call, outcome, ms, row_number() OVER (PARTITION BY call ORDER BY outcome = 'unknown', ms) AS place
      FROM (SELECT leaf ->> 'parent' AS call, leaf ->> 'outcome' AS outcome,
                   (leaf -> 'time' ->> 'ms')::bigint AS ms
              FROM (SELECT convert_from(body, 'UTF8')::json AS leaf FROM intake WHERE kind = 'outcome') AS o) AS o
), decision AS (
    SELECT leaf ->> 'record_id' AS id, leaf ->> 'idem' AS idem, leaf ->> 'agent' AS agent,
           coalesce(leaf ->> 'tool', leaf ->> 'method') AS action, leaf ->> 'decision' AS verdict,
           (leaf -> 'time' ->> 'ms')::bigint AS ms, (leaf -> 'time' ->> 'n')::bigint AS n, leaf
      FROM (SELECT convert_from(body, 'UTF8')::json AS leaf FROM intake WHERE kind = 'decision') AS d
), attempt AS (
    SELECT d.*, o.ms AS ended_ms,
           CASE WHEN d.verdict = 'deny' THEN 'BLOCKED'
                WHEN o.outcome IN ('executed', 'failed') THEN 'EXECUTED'
                WHEN o.outcome = 'not_forwarded' AND d.idem IS NULL THEN 'BLOCKED'
                ELSE 'EVALUATED' END AS status
      FROM decision d LEFT JOIN outcome o ON o.call = d.id AND o.place = 1
     WHERE d.idem IS NULL OR d.verdict = 'allow'
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY agent, idem, CASE WHEN idem IS NULL THEN id END
                                 ORDER BY status = 'EXECUTED' DESC, ms DESC, n DESC) AS place
      FROM attempt
)
SELECT id::uuid AS evaluation_id, idem AS idempotency_key, agent AS user_id, action AS action_type, status,
       leaf AS context_snapshot,
       CASE WHEN status = 'EXECUTED' THEN to_timestamp(ended_ms / 1000.0) END AS executed_at
  FROM ranked WHERE place = 1;

GRANT SELECT ON exogram_executions TO countersign_reader;
