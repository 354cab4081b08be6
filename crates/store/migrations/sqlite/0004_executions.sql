-- Calls in the columns of Exogram's execution table: one row per agent and idempotency key, or per decision
-- without a key. It reads the whole ledger; the keys are the keyed hashes that the leaves have.
--
-- A call that was not forwarded gave its key back and may be tried again, so it is no row of its own beside the
-- attempt that followed. A refused repetition is none either.
CREATE VIEW exogram_executions AS
WITH outcome AS (
    SELECT call, outcome, ms, row_number() OVER (PARTITION BY call ORDER BY outcome = 'unknown', ms) AS place
      FROM (SELECT json_extract(CAST(body AS TEXT), '$.parent') AS call,
                   json_extract(CAST(body AS TEXT), '$.outcome') AS outcome,
                   json_extract(CAST(body AS TEXT), '$.time.ms') AS ms
              FROM intake WHERE kind = 'outcome')
), decision AS (
    SELECT json_extract(leaf, '$.record_id') AS id, json_extract(leaf, '$.idem') AS idem,
           json_extract(leaf, '$.agent') AS agent,
           coalesce(json_extract(leaf, '$.tool'), json_extract(leaf, '$.method')) AS action,
           json_extract(leaf, '$.decision') AS verdict, json_extract(leaf, '$.time.ms') AS ms,
           json_extract(leaf, '$.time.n') AS n, leaf
      FROM (SELECT CAST(body AS TEXT) AS leaf FROM intake WHERE kind = 'decision')
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
SELECT id AS evaluation_id, idem AS idempotency_key, agent AS user_id, action AS action_type, status,
       leaf AS context_snapshot,
       CASE WHEN status = 'EXECUTED' THEN strftime('%Y-%m-%dT%H:%M:%fZ', ended_ms / 1000.0, 'unixepoch') END
           AS executed_at
  FROM ranked WHERE place = 1;
